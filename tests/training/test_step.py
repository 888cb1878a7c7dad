"""One step against the same computed by torch's own parts; what it leaves alone, and when it listens."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from troupe.data.batches import Batches
from troupe.errors import Diverged
from troupe.models.gpt2 import GPT
from troupe.training.loop import RunContext, Step


@pytest.fixture
def step_of(batches: Batches, train_params: Any, autocast: Any) -> Any:
    def step(model: GPT, interrupted: Callable[[], int] = lambda: 0, **changes: Any) -> Step:
        return Step(model, batches, train_params(**changes), RunContext(autocast, interrupted=interrupted))

    return step


def test_a_step_is_a_clipped_gradient_and_an_update_at_the_rate_of_its_number(
    model: GPT, batches: Batches, step_of: Any
) -> None:
    """Step 3 of 12 with a warm-up of 6: the third batch, half the rate, a gradient of norm 0.01.

    Both make the same operations on the same shapes, but for the norm and what clipping adds to it (1e-6): a thousand
    squares summed in float32, so 1e-4 at most of the norm. AdamW takes a common factor out again.
    """
    oracle = copy.deepcopy(model.eval())
    x_BT, y_BT = batches.batches(2)
    loss = F.cross_entropy(oracle(x_BT).flatten(0, 1), y_BT.flatten())
    loss.backward()
    norm = math.sqrt(sum(weight.grad.square().sum().item() for weight in oracle.parameters()))
    for weight in oracle.parameters():
        weight.grad *= 0.01 / norm
    torch.optim.AdamW(oracle.parameters(), lr=0.004, betas=(0.9, 0.95), weight_decay=0.0).step()

    rates = {"optimizer": "adamw", "learning_rate": 0.008, "warmup_steps": 6, "weight_decay": 0.0}
    figures, asked_to_stop = step_of(model, grad_clip=0.01, **rates)(3)
    assert not asked_to_stop
    assert figures["train/lr"] == pytest.approx(0.004)
    assert figures["train/loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert figures["train/grad_norm"] == pytest.approx(norm, rel=1e-4)
    for weight, expected in zip(model.parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, atol=1e-5, rtol=1e-4)
        assert weight.grad is None


def test_a_step_that_diverges_leaves_the_weights_as_they_were(model: GPT, step_of: Any) -> None:
    with torch.no_grad():
        model.norm.weight.fill_(math.nan)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(Diverged, match="step 1 of 12"):
        step_of(model)(1)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)


def test_it_asks_whether_to_stop_when_the_gradient_is_there(model: GPT, step_of: Any) -> None:
    """Not before: until it asks, a signal ends a first step, which may have to be compiled, at once."""

    def interrupted() -> int:
        assert all(weight.grad is not None for weight in model.parameters())
        return 15

    assert step_of(model, interrupted)(1)[1]
