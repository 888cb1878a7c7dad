"""The loop learns, is a function of its seed, resumes to the byte, keeps the best model and stops when it diverges."""

import copy
import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.numerics import tolerance
from troupe.conversion.attention import convert
from troupe.data.batches import Batches
from troupe.errors import Diverged, Interrupted
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.switchhead import SwitchHeadConfig
from troupe.seeding import generator
from troupe.training.checkpoint import Checkpoint
from troupe.training.loop import RunContext, cross_entropy, train, validate


class Bench:
    """One run of the loop, with everything that it handed out."""

    def __init__(self, model: GPT, batches: Batches, ids: np.ndarray, autocast: Any) -> None:
        self.model, self.batches, self.ids, self.autocast = model, batches, ids, autocast
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.saved: list[Checkpoint] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.logged.append((step, dict(values)))

    def save(self, checkpoint: Checkpoint) -> None:
        self.saved.append(copy.deepcopy(checkpoint))

    def look(self) -> dict[str, float]:
        return validate(self.model, self.ids, len(self.ids), self.autocast)

    def run(
        self, params: Any, resume: Checkpoint | None = None, look: Any = None, penalty: Any = None, **more: Any
    ) -> dict[str, float]:
        torch.manual_seed(0)
        context = RunContext(self.autocast, log=self.log, save=self.save, resume=resume, **more)
        return train(self.model, self.batches, look or self.look, params, context, penalty)


@pytest.fixture
def bench(model: GPT, batches: Batches, ids: np.ndarray, autocast: Any) -> Any:
    return lambda: Bench(copy.deepcopy(model), batches, ids, autocast)


def same(a: GPT, b: GPT) -> bool:
    return all(x.equal(y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_it_learns_a_text_without_surprises(bench: Any, train_params: Any, optimizer: str) -> None:
    """After 0, 1, ... 15 over and over nothing is uncertain but the first token: from ln 16 to nearly 0 nats."""
    run = bench()
    best = run.run(train_params(steps=160, optimizer=optimizer, eval_interval=80))
    assert run.logged[0][1]["train/loss"] == pytest.approx(math.log(16) + 0.15, abs=0.15)
    assert best["val/loss"] < 0.1


def test_two_runs_are_the_same_to_the_bit_and_dropout_is_part_of_it(bench: Any, train_params: Any) -> None:
    first, second = bench(), bench()
    first.run(train_params())
    second.run(train_params())
    assert same(first.model, second.model)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("which", [0, 1])
def test_resumed_from_any_checkpoint_it_ends_the_same(
    bench: Any, train_params: Any, optimizer: str, which: int
) -> None:
    straight, resumed = bench(), bench()
    figures = straight.run(train_params(optimizer=optimizer))
    torch.rand(7)  # whatever happened to the random state meanwhile
    assert resumed.run(train_params(optimizer=optimizer), straight.saved[which]) == figures
    assert same(straight.model, resumed.model)
    assert next(step for step, _ in resumed.logged) == 4 * (which + 1) + 1


def test_experts_resume_too(bench: Any, train_params: Any) -> None:
    straight, resumed = bench(), bench()
    for run in (straight, resumed):
        run.model = convert(run.model, SwitchHeadConfig(2, 8, 4, 2, "sigmoid"), "exact", generator(0, "routers"))
    straight.run(train_params())
    resumed.run(train_params(), straight.saved[0])
    assert same(straight.model, resumed.model)


def test_a_finished_run_resumes_to_its_result(bench: Any, train_params: Any) -> None:
    straight, resumed = bench(), bench()
    figures = straight.run(train_params())
    assert resumed.run(train_params(), straight.saved[-1]) == figures
    assert same(straight.model, resumed.model)
    assert not resumed.logged


def test_it_leaves_the_model_that_validation_found_best(bench: Any, train_params: Any) -> None:
    run, half = bench(), bench()
    scores = iter([3.0, 1.0, 2.0])  # at steps 4, 8 and 12
    best = run.run(train_params(), look=lambda: {"val/bpb": next(scores)})
    assert best == {"step": 8, "val/bpb": 1.0}
    half.run(train_params())
    of_step_8 = {
        name.removeprefix("model."): t for name, t in half.saved[1].tensors.items() if name.startswith("model.")
    }
    assert all(tensor.equal(of_step_8[name]) for name, tensor in run.model.state_dict().items())


def test_what_it_logs(bench: Any, train_params: Any) -> None:
    run = bench()
    run.run(train_params(steps=6))
    assert [step for step, _ in run.logged] == [1, 2, 3, 4, 5, 6]
    every_step = {"train/loss", "train/lr", "train/grad_norm", "train/tokens_per_second"}
    looks = {step for step, values in run.logged if values.keys() == every_step | {"val/loss", "val/bpb"}}
    assert looks == {4, 6}  # every eval_interval and after the last step
    assert all(values.keys() == every_step for step, values in run.logged if step not in looks)
    assert [c.step for c in run.saved] == [4, 6]


def test_the_reported_rate_is_the_one_of_the_schedule(bench: Any, train_params: Any) -> None:
    run = bench()
    run.run(train_params(steps=4, warmup_steps=2, decay_fraction=0.5, learning_rate=0.02))
    assert [values["train/lr"] for _, values in run.logged] == pytest.approx([0.01, 0.02, 0.02, 0.01])


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_with_advice(bench: Any, train_params: Any, poison: float) -> None:
    run = bench()

    def look() -> dict[str, float]:  # after step 4
        with torch.no_grad():
            run.model.norm.weight.fill_(poison)
        return {"val/bpb": 1.0}

    with pytest.raises(Diverged, match=r"diverged at step 5 of 12, learning rate .*lower learning_rate") as error:
        run.run(train_params(), look=look)
    assert "\n" not in str(error.value)
    assert [c.step for c in run.saved][-1:] != [5]


@pytest.mark.parametrize("figure", [math.nan, math.inf])
def test_a_look_that_finds_no_number_stops_the_run(bench: Any, train_params: Any, figure: float) -> None:
    """NaN at the first look would be the best for good, as nothing is less than NaN."""
    run = bench()
    with pytest.raises(
        Diverged, match=r"diverged at step 4 of 12: val/bpb (nan|inf) at the look at validation"
    ) as error:
        run.run(train_params(), look=lambda: {"val/bpb": figure})
    assert error.value.since == 4
    assert not run.saved


def test_a_gradient_that_has_exploded_for_good_stops_the_run(bench: Any, train_params: Any) -> None:
    """From step 24 on the loss is a million times itself, as its gradient: ten steps later the run ends."""
    run = bench()

    def explode() -> dict[str, float]:
        run.model.register_forward_hook(lambda *given: given[2] * 1e6)
        return {"val/bpb": 1.0}

    params = train_params(steps=60, eval_interval=24, optimizer="adamw", learning_rate=1e-6, adamw_learning_rate=1e-6)
    with pytest.raises(Diverged, match=r"diverged at step 34 of 60.*100 times its median for 10 steps") as error:
        run.run(params, look=explode)
    assert error.value.since == 24


def test_asked_to_stop_it_saves_after_the_step_and_resumes_to_the_same_end(bench: Any, train_params: Any) -> None:
    straight, stopped, resumed = bench(), bench(), bench()
    figures, heard = straight.run(train_params()), iter([0, 0, 0, 0, 0, 2, 2])
    with pytest.raises(Interrupted, match="stopped by SIGINT after step 6 of 12") as error:
        stopped.run(train_params(), interrupted=lambda: next(heard))
    assert error.value.exit_code == 130
    assert [checkpoint.step for checkpoint in stopped.saved] == [4, 6]
    assert resumed.run(train_params(), stopped.saved[-1]) == figures
    assert same(straight.model, resumed.model)


class Remembering(torch.nn.LayerNorm):
    """A norm that keeps what it put out, as a layer of experts keeps what its routers said."""

    def forward(self, x: Tensor) -> Tensor:
        self.last = super().forward(x)
        return self.last


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_penalty_on_the_forward_pass_is_differentiated_but_no_part_of_the_loss(
    bench: Any, train_params: Any, compiled: bool
) -> None:
    run = bench()
    run.model = GPT(replace(run.model.config, dropout=0.0))
    run.model.norm = Remembering(16)
    oracle = copy.deepcopy(run.model)

    def penalty(model: GPT) -> Tensor:
        return (model.norm.last - 1).square().mean()

    loss = cross_entropy(oracle, *run.batches.batches(0), run.autocast)
    (loss + penalty(oracle)).backward()
    run.run(train_params(steps=1), compiled=compiled, penalty=lambda: penalty(run.model))
    found = run.logged[0][1]
    assert found["train/loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert found["train/penalty"] == pytest.approx(penalty(oracle).item(), rel=1e-5)
    norm = torch.nn.utils.get_total_norm(weight.grad for weight in oracle.parameters())
    assert found["train/grad_norm"] == pytest.approx(norm.item(), rel=1e-4)


def test_the_gradient_is_clipped_but_reported_as_it_was(bench: Any, train_params: Any) -> None:
    """AdamW's first step has the same size for any scale of the gradient, so look at the gradient itself."""
    run = bench()
    run.run(train_params(steps=1, grad_clip=1e-3))
    assert run.logged[0][1]["train/grad_norm"] > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("in_bfloat16", [False, True])
def test_compiled_steps_are_the_same_steps_and_resume_to_the_byte(
    batches: Batches, ids: np.ndarray, train_params: Any, in_bfloat16: bool
) -> None:
    """Fused kernels round differently: losses agree to rounding, dropout and all. The model departs from GPT-2 in every
    way. What rounding comes to is what the next finer format of numbers changes: float64, or float32 for bfloat16."""
    departing = GPTConfig(16, 16, 2, 2, 16, 0.1, "rotary", "rms", "relu2", qk_norm=True, conv=4, bias=False)
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=in_bfloat16)
    plain, compiled, resumed = (Bench(GPT(departing), batches, ids, autocast) for _ in range(3))
    finer = Bench(GPT(departing), batches, ids, nullcontext)
    for run in (plain, compiled, resumed, finer):
        init_gpt2(run.model, generator(0, "test", "init"))
    finer.model.to(torch.float32 if in_bfloat16 else torch.float64)
    for run in (plain, finer):
        run.run(train_params())
    compiled.run(train_params(), compiled=True)
    plain_N, compiled_N, finer_N = (
        torch.tensor([figures["train/loss"] for _, figures in run.logged]) for run in (plain, compiled, finer)
    )
    within = tolerance((plain_N - finer_N).abs(), plain_N)
    assert ((compiled_N - plain_N).abs() <= within).all()
    assert within < 0.1, "so that another dropout would show"
    resumed.run(train_params(), compiled.saved[0], compiled=True)
    assert same(resumed.model, compiled.model)
