"""Attention that is taught what dense attention does."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conversion.test_attention import DEPARTED, FEWER, SIGMOID, dense, ids, rng
from troupe.conversion.attention import convert
from troupe.conversion.distillation import attention_of, attention_seen, distil
from troupe.data.batches import Batches
from troupe.models.gpt2 import GPT
from troupe.params import TrainParams, load_params

ROOT = Path(__file__).parents[2]


@pytest.fixture
def distilling() -> TrainParams:
    return load_params(ROOT / "params.yaml", ["moe.distil_steps=40"]).moe.distilling()


def batches() -> Batches:
    text = torch.randint(0, DEPARTED.vocab_size, (2000,), generator=rng()).numpy().astype(np.uint16)
    return Batches(text, DEPARTED.block_size, batch_size=8, seed=0)


def taught(before: GPT, model: GPT, params: TrainParams) -> list[float]:
    """The mean error after each step."""
    errors: list[float] = []

    def log(step: int, figures: Mapping[str, float]) -> None:
        errors.append(figures["distil/error"])

    last = distil(before, model, batches(), params, nullcontext, log)
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


def test_attention_that_puts_out_nothing_has_an_error_of_one(distilling: TrainParams) -> None:
    before = dense(config=DEPARTED)
    model = convert(before, FEWER, "distilled", rng())
    with torch.no_grad():
        for layer in attention_of(model):
            layer.get_parameter("output.weight").zero_()
    assert taught(before, model, distilling.model_copy(update={"steps": 1}))[0] == pytest.approx(1)


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
