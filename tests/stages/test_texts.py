"""Texts of the adversarial stage: how many are written at a time, and a split that has none."""

import itertools
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from threading import Event

import numpy as np
import pytest
import torch

from tests.stages.conftest import ONLY_TILTED, changed
from troupe.errors import CorpusError
from troupe.layout import TOKENS, model_dir
from troupe.models.bundle import load_bundle
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT
from troupe.params import Params
from troupe.stages import texts
from troupe.stages.adversarial import adversarial


def test_a_large_vocabulary_is_written_few_at_a_time(experts: Params) -> None:
    """A gigabyte of float32: 2^28 numbers; of each token two a layer and width, keys and values, and one a logit."""
    wide = GPT(GPTConfig(2**18, block_size=64, n_layer=1, n_head=1, n_embd=2, dropout=0.0))
    asked: list[int] = []

    def count(real_BT: torch.Tensor, seeds: Sequence[int]) -> list[int]:
        asked.append(len(real_BT))
        return list(seeds)

    real_NT, small = torch.zeros(70, 8, dtype=torch.long), load_bundle(model_dir("moe")).model
    few = texts.side_by_side(count, wide, real_NT, "test", experts, ("test",))
    assert asked == [15] * 4 + [10]
    many = texts.side_by_side(count, small, real_NT, "test", experts, ("test",))
    assert asked[5:] == [32, 32, 6]
    assert list(itertools.chain(*few)) == list(itertools.chain(*many)), "a sequence keeps its seed"


def test_a_split_that_is_too_short_is_named(experts: Params) -> None:
    ids = np.load(TOKENS / "validation.npy")
    np.save(TOKENS / "validation.npy", ids[:16])
    with pytest.raises(CorpusError, match=r"validation split holds 16 tokens where .* needs 17; bring at least"):
        adversarial(changed(experts, **ONLY_TILTED, tilt_rounds=1))


def test_whoever_writes_gives_up_when_the_stage_is_stopped(experts: Params) -> None:
    model, begun, ids_BT = load_bundle(model_dir("moe")).model, Event(), torch.zeros(1, 1, dtype=torch.long)

    def write() -> None:
        end = time.monotonic() + 5
        while time.monotonic() < end:
            model(ids_BT)
            begun.set()

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), texts.writing(model) as pool:  # noqa: PT012
        future = pool.submit(write)
        assert begun.wait(5)
        raise KeyboardInterrupt
    assert time.monotonic() - began < 4
    assert isinstance(future.exception(), CancelledError)
    model(ids_BT)  # others may go on
