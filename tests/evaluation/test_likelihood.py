"""Bits per byte: closed forms, a naive loop in float64, and laws of the overlapping windows."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from troupe.evaluation.comparison import bits_per_byte, nats, windows
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2

VOCABULARY, CONTEXT = 11, 8


def model(scale: float = 20.0) -> GPT:
    """Random weights, large enough to make predictions differ much from one context to another."""
    model = GPT(GPTConfig(VOCABULARY, CONTEXT, n_layer=2, n_head=2, n_embd=16, dropout=0.1)).eval()
    init_gpt2(model, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale if parameter.dim() == 2 else 1.0)
    return model


def text(length: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, VOCABULARY, length).astype(np.uint16)


def naive(model: GPT, ids: np.ndarray, stride: int) -> float:
    """One token at a time in float64: the context begins at the last multiple of the stride that reaches it."""
    model = model.double()
    total, last = math.log(VOCABULARY), len(ids) - 1 - CONTEXT
    for target in range(1, len(ids)):
        steps = max(0, math.ceil((target - CONTEXT) / stride))
        start = max(0, min(steps * stride, last))
        logits_V = model(torch.tensor(ids[None, start:target].astype(np.int64)))[0, -1]
        total -= logits_V.log_softmax(-1)[ids[target]].item()
    return total


def test_the_uniform_model_costs_log2_of_the_vocabulary_per_token() -> None:
    """All logits are 0 when the tied embedding is: log2(11) bits for each of 29 tokens, over 40 bytes."""
    uniform = model(scale=0.0)
    assert bits_per_byte(nats(uniform, text(29), stride=3), 40) == pytest.approx(29 * math.log2(11) / 40, rel=1e-6)


@pytest.mark.parametrize("length", [1, 2, 8, 9, 10, 16, 17, 30])
@pytest.mark.parametrize("stride", [1, 3, 8])
@torch.no_grad()
def test_it_equals_a_naive_loop_in_float64(length: int, stride: int) -> None:
    ids = text(length)
    assert nats(model(), ids, stride) == pytest.approx(naive(model(), ids, stride), rel=1e-5)


def test_a_model_without_memory_costs_the_same_at_any_stride() -> None:
    """Without attention and positions the prediction hangs on the last token alone, so windows cannot matter."""
    forgetful = model()
    with torch.no_grad():
        forgetful.position_embedding.weight.zero_()
        for name, parameter in forgetful.named_parameters():
            if "attention.output" in name:
                parameter.zero_()
    costs = {round(nats(forgetful, text(50), stride), 3) for stride in range(1, CONTEXT + 1)}
    assert len(costs) == 1


def test_batching_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    together = nats(model(), text(60), 2)
    monkeypatch.setattr("troupe.evaluation.comparison.LOGITS_PER_BATCH", 1)
    assert nats(model(), text(60), 2) == pytest.approx(together, rel=1e-6)


def test_no_text_costs_nothing() -> None:
    assert nats(model(), text(0), 4) == 0


@given(
    targets=st.integers(0, 60),
    sizes=st.integers(1, 12).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size))),
    batch=st.integers(1, 5),
)
def test_every_prediction_is_counted_once_with_enough_context(targets: int, sizes: tuple[int, int], batch: int) -> None:
    block_size, stride = sizes
    seen: list[int] = []
    for starts, length, new in windows(targets, block_size, stride, batch):
        for start in starts:
            assert 0 <= start <= targets - length
            assert length <= block_size
            counted = range(start + length - new, start + length)
            assert all(target - start >= min(target, block_size - stride) for target in counted)
            seen.extend(counted)
    assert seen == list(range(targets))
