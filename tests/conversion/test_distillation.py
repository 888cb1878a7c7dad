"""Attention that is taught what dense attention does."""

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conversion.test_attention import DEPARTED, FEWER, SIGMOID
from tests.models.dense import dense, ids, rng
from tests.numerics import spread
from tests.training.test_parallel import Say, together
from troupe.conversion.attention import convert
from troupe.conversion.distillation import attention_of, attention_seen, distil
from troupe.data.batches import Batches
from troupe.errors import Diverged, Interrupted
from troupe.models.gpt2 import GPT
from troupe.params import TrainParams, load_params
from troupe.training.loop import RunContext
from troupe.training.parallel import Team

ROOT = Path(__file__).parents[2]


@pytest.fixture
def distilling() -> TrainParams:
    return load_params(ROOT / "params.yaml", ["moe.distil_steps=40"]).moe.distilling()


def batches() -> Batches:
    text = torch.randint(0, DEPARTED.vocab_size, (2000,), generator=rng()).numpy().astype(np.uint16)
    return Batches(text, DEPARTED.block_size, batch_size=8, seed=0)


def taught(before: GPT, model: GPT, params: TrainParams, **more: Any) -> list[float]:
    """The mean error after each step."""
    errors: list[float] = []

    def log(step: int, figures: Mapping[str, float]) -> None:
        errors.append(figures["distil/error"])

    last = distil(before, model, more.pop("batches", batches()), params, RunContext(log=log, **more))
    assert errors[-1] == pytest.approx(sum(last) / len(last))
    return errors


def test_what_is_seen_is_what_the_layers_compute() -> None:
    before = dense(config=DEPARTED)
    seen = attention_seen(before, ids(), nullcontext)
    assert len(seen) == DEPARTED.n_layer
    with torch.no_grad():
        for layer, (x_BTD, y_BTD) in zip(attention_of(before), seen, strict=True):
            torch.testing.assert_close(layer(x_BTD), y_BTD)
    assert not attention_of(before)[0]._forward_hooks, "watching leaves nothing behind"


def test_an_exact_copy_has_nothing_to_learn(distilling: TrainParams) -> None:
    before = dense(config=DEPARTED)
    errors = taught(before, convert(before, SIGMOID, "exact", rng()), distilling.model_copy(update={"steps": 1}))
    assert errors[0] < 1e-10


def test_attention_that_puts_out_nothing_has_an_error_of_one_and_learned_nothing(distilling: TrainParams) -> None:
    before = dense(config=DEPARTED)
    model = convert(before, FEWER, "distilled", rng())
    with torch.no_grad():
        for layer in attention_of(model):
            layer.get_parameter("output.weight").zero_()
    says = (
        r"^distillation diverged at step 1 of 1: its error is 1, .*; lower moe\.distil_learning_rate or .*distil_steps$"
    )
    with pytest.raises(Diverged, match=says):
        taught(before, model, distilling.model_copy(update={"steps": 1}))


def test_a_lesson_that_is_lost_ends_before_it_reaches_the_weights(distilling: TrainParams) -> None:
    before = dense(config=DEPARTED)
    model = convert(before, FEWER, "distilled", rng())
    with torch.no_grad():
        attention_of(model)[1].get_parameter("output.weight").mul_(1e30)  # its square is no number
    old = copy.deepcopy(model.state_dict())
    with pytest.raises(
        Diverged, match=r"diverged at step 1 of 40: its error is (inf|nan), .*moe\.distil_learning_rate"
    ):
        taught(before, model, distilling)
    assert all(torch.equal(tensor, old[name]) for name, tensor in model.state_dict().items())


def test_a_rate_too_high_is_named(distilling: TrainParams) -> None:
    before = dense(config=DEPARTED)
    wild = distilling.model_copy(update={"learning_rate": 10.0, "adamw_learning_rate": 10.0, "decay_fraction": 0.0})
    with pytest.raises(Diverged, match=r"moe\.distil_learning_rate"):
        taught(before, convert(before, FEWER, "distilled", rng()), wild)


def test_asked_to_stop_it_says_that_it_begins_anew(distilling: TrainParams) -> None:
    before, heard = dense(config=DEPARTED), iter([0, 0, 15, 15])
    says = "stopped by SIGTERM after step 3 of 40 of the distillation; the same command begins it anew"
    with pytest.raises(Interrupted, match=says) as error:
        taught(before, convert(before, FEWER, "distilled", rng()), distilling, interrupted=lambda: next(heard))
    assert error.value.exit_code == 143


def test_what_one_process_is_asked_all_do(tmp_path: Path, distilling: TrainParams) -> None:
    before = dense(config=DEPARTED)

    def body(team: Team, say: Say) -> None:
        heard = iter([0, 15 * team.rank] + [15] * 9)  # a signal to rank 1 alone, in its second step
        model = convert(before, FEWER, "distilled", rng())
        with pytest.raises(Interrupted, match="after step 2 of 40") as error:
            taught(before, model, distilling, team=team, interrupted=lambda: next(heard))
        say({"status": torch.tensor(error.value.exit_code)})

    assert [int(said["status"]) for said in together(tmp_path, body)] == [143, 143]


def test_two_processes_learn_what_one_learns(tmp_path: Path, distilling: TrainParams) -> None:
    """Also from shares whose attention is not equally strong: the error of a batch is no mean of its shares' errors.

    With AdamW, for Muon rounds in bfloat16: see tests/training/test_parallel.py.
    """
    before = dense(config=DEPARTED)
    calm = distilling.model_copy(update={"optimizer": "adamw", "learning_rate": 0.002, "adamw_learning_rate": 0.002})
    text = batches().ids
    pairs = Batches(text, DEPARTED.block_size, batch_size=2, seed=0)

    def errors(batches: Batches, team: Team | None = None) -> Tensor:
        model = convert(before, FEWER, "distilled", rng())
        return torch.tensor(taught(before, model, calm, batches=batches, team=team))

    first, second = together(tmp_path, lambda team, say: say({"errors": errors(pairs, team)}))
    assert first["errors"].equal(second["errors"])
    alone_N, within = spread(errors, pairs)
    assert ((first["errors"] - alone_N).abs() <= within).all()
    assert within < 1e-3, "so that a mean of the shares' errors would show"
    strength_B = torch.stack(
        [y.square().sum((1, 2)) for _, y in attention_seen(before, pairs.batches(0)[0], nullcontext)]
    )
    assert (strength_B[:, 0] / strength_B[:, 1] - 1).abs().max() > 0.05


def test_layers_learn_and_nothing_else_changes(distilling: TrainParams) -> None:
    """With dropout in the configuration, which must not make the lesson noisy, and the same lesson twice."""
    before = dense(config=replace(DEPARTED, dropout=0.3)).train()
    old = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    model, again = (convert(before, FEWER, "distilled", rng()) for _ in range(2))
    errors = taught(before, model, distilling)
    assert errors[-1] < 0.6 * errors[0]
    assert taught(before, again, distilling) == errors
    assert before.training
    assert model.training
    for name, tensor in model.state_dict().items():
        if ".attention." not in name:
            assert torch.equal(tensor, old[name])
    assert all(torch.equal(tensor, old[name]) for name, tensor in before.state_dict().items())
    assert all(parameter.grad is None for parameter in before.parameters())
