"""Validation against closed forms and a loop in float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from troupe.models.gpt2 import GPT
from troupe.training.loop import validate


def test_a_model_without_opinion_costs_the_logarithm_of_the_vocabulary(
    model: GPT, ids: np.ndarray, autocast: Any
) -> None:
    """All-zero embeddings give equal logits: ln 16 nats per token; at two bytes a token, 4 bits / 2 bytes = 2 bpb."""
    with torch.no_grad():
        model.token_embedding.weight.zero_()
    figures = validate(model, ids, n_bytes=2 * len(ids), autocast=autocast)
    assert figures == pytest.approx({"val/loss": math.log(16), "val/bpb": 2.0})


@pytest.mark.parametrize("length", [1, 2, 8, 9, 10, 17, 100])  # around the window of 8
def test_it_is_the_loop_over_windows_in_float64(model: GPT, ids: np.ndarray, autocast: Any, length: int) -> None:
    ids = ids[:length]
    wanted = math.log(16)
    double = model.double().eval()
    for start in range(0, length - 1, 8):
        x, y = ids[start : min(start + 8, length - 1)], ids[start + 1 : start + 9]
        logits = double(torch.from_numpy(x.astype(np.int64))[None])[0]
        wanted -= sum(logits[t].log_softmax(-1)[int(y[t])].item() for t in range(len(x)))
    figures = validate(model.float(), ids, n_bytes=length, autocast=autocast)
    assert figures["val/loss"] == pytest.approx(wanted / length, rel=1e-5)


def test_it_draws_no_dropout_and_goes_back_to_training(model: GPT, ids: np.ndarray, autocast: Any) -> None:
    model.train()
    assert validate(model, ids, 400, autocast) == validate(model, ids, 400, autocast)
    assert model.training


def test_of_a_very_long_split_it_looks_at_the_beginning(
    model: GPT, ids: np.ndarray, autocast: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = validate(model, ids[:50], n_bytes=100, autocast=autocast)
    monkeypatch.setattr("troupe.training.loop.LOOKED_AT", 50)
    assert validate(model, ids, n_bytes=2 * len(ids), autocast=autocast) == pytest.approx(whole)
