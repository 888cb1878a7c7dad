"""The memory of a training step without content, against the same step with content."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import pytest
import torch

from tests.conftest import ROOT
from troupe.inspection.memory import activation_bytes, training_memory
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, CausalSelfAttention
from troupe.models.switchhead import SwitchHead, SwitchHeadConfig
from troupe.params import load_params
from troupe.training.loop import cross_entropy
from troupe.training.optim import build_optimizers

PARAMS = load_params(ROOT / "params.yaml")
EXPERTS = partial(SwitchHead, experts=SwitchHeadConfig(3, 16, 4, 2, "sigmoid"))
ALTERED: dict[str, Any] = {"positions": "rotary", "norm": "rms", "activation": "swiglu", "conv": 3, "bias": False}
B, T = 3, 40


def config(dropout: float, **departures: Any) -> GPTConfig:
    return GPTConfig(vocab_size=300, block_size=64, n_layer=2, n_head=3, n_embd=48, dropout=dropout, **departures)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("attention", [CausalSelfAttention, EXPERTS], ids=["dense", "experts"])
@pytest.mark.parametrize("departures", [{}, ALTERED], ids=["gpt2", "altered"])
def test_it_is_what_a_real_step_holds(
    attention: Callable[[GPTConfig], torch.nn.Module],
    departures: dict[str, Any],
    dropout: float,
    precision: torch.dtype,
) -> None:
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=precision == torch.bfloat16)
    build = partial(GPT, config(dropout, **departures), attention)
    claimed = training_memory(build, PARAMS.pretrain, B, T, precision, "cpu")

    model, ids = build().train(), torch.zeros(B, T, dtype=torch.int64)
    optimizers = build_optimizers(model, PARAMS.pretrain)
    loss = cross_entropy(model, ids, ids, autocast)
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    held = [tensor for o in optimizers for state in o.state.values() for tensor in state.values()]
    assert claimed.weights == sum(parameter.nbytes for parameter in model.parameters())
    assert claimed.gradients == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    assert claimed.optimizer == sum(tensor.nbytes for tensor in held)
    assert claimed.activations == activation_bytes(model, lambda: cross_entropy(model, ids, ids, autocast))


def test_activations_by_hand() -> None:
    """y = x W with x (5, 3) and a loss sum(y^2): x, 60 bytes, and y, 40, are kept; W, a parameter, does not count."""
    layer, x = torch.nn.Linear(3, 2, bias=False), torch.ones(5, 3)
    assert activation_bytes(layer, lambda: layer(x).square().sum()) == 5 * 3 * 4 + 5 * 2 * 4


def activations(device: Literal["cpu", "cuda"], precision: torch.dtype, dropout: float, context: int) -> int:
    return training_memory(lambda: GPT(config(dropout)), PARAMS.pretrain, 1, context, precision, device).activations


def test_no_matrix_of_scores_is_kept() -> None:
    """With the context doubled, what is kept doubles; a (T, T) matrix would quadruple. Dropout changes nothing here."""
    for device in ("cuda", "cpu"):
        kept = [activations(device, torch.float32, 0.1, t) for t in (16, 32, 64)]
        assert kept[2] - kept[1] == 2 * (kept[1] - kept[0])


def test_a_gpu_keeps_queries_keys_and_values_in_bfloat16() -> None:
    """By hand, per layer and feature: q, k, v and their sum y are 4 x 2 bytes, and y is what the next matrix reads.

    A CPU keeps them in float32, 4 x 4 bytes, and a copy of y in bfloat16 for that matrix: 10 bytes more. In float32,
    without dropout, there is no difference.
    """
    t, width, layers = 40, 48, 2
    more = activations("cpu", torch.bfloat16, 0.0, t) - activations("cuda", torch.bfloat16, 0.0, t)
    assert more == layers * t * width * 10
    assert activations("cpu", torch.float32, 0.0, t) == activations("cuda", torch.float32, 0.0, t)


def test_ways_to_compute_experts_that_look_at_content_are_counted_as_the_one_that_does_not() -> None:
    claims = [
        training_memory(
            partial(
                GPT, config(0.0), partial(SwitchHead, experts=SwitchHeadConfig(2, 16, 8, 1, "sigmoid", compute=way))
            ),
            PARAMS.pretrain,
            B,
            T,
            torch.float32,
            "cpu",
        )
        for way in ("dense", "auto", "loop", "grouped")
    ]
    assert len(set(claims)) == 1
