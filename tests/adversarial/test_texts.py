"""Generated counterparts of real texts: how many at a time, and how generation is stopped."""

import itertools
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from threading import Event

import pytest
import torch

from tests.adversarial.games import new_model
from troupe.adversarial import texts
from troupe.adversarial.method import Task
from troupe.bundles.bundle import Bundle
from troupe.data.dataset import TokenDataset
from troupe.data.tokenizer import ByteTokenizer
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT


def test_of_a_large_vocabulary_few_are_generated_at_a_time() -> None:
    """A gigabyte of float32: 2^28 numbers; of each token two a layer and width, keys and values, and one a logit."""
    wide = GPT(GPTConfig(2**18, block_size=64, n_layer=1, n_head=1, n_embd=2, dropout=0.0))
    asked: list[int] = []

    def count(real_BT: torch.Tensor, seeds: Sequence[int]) -> list[int]:
        asked.append(len(real_BT))
        return list(seeds)

    real_NT, small = torch.zeros(70, 8, dtype=torch.long), new_model()
    bundle = Bundle(small, ByteTokenizer(), {}, "")
    data = TokenDataset(Path(), ByteTokenizer(), {}, {}, "", "", 0)
    task = Task(bundle, bundle, data, lambda model: 0.0, seed=0, threads=1)
    few = texts.side_by_side(count, wide, real_NT, task, "test", "test")
    assert asked == [15] * 4 + [10]
    many = texts.side_by_side(count, small, real_NT, task, "test", "test")
    assert asked[5:] == [32, 32, 6]
    assert list(itertools.chain(*few)) == list(itertools.chain(*many)), "a sequence keeps its seed"


def test_generation_ends_when_the_stage_is_stopped() -> None:
    model, begun, ids_BT = new_model(), Event(), torch.zeros(1, 1, dtype=torch.long)

    def write() -> None:
        end = time.monotonic() + 5
        while time.monotonic() < end:
            model(ids_BT)
            begun.set()

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), texts.generating(model) as pool:  # noqa: PT012
        future = pool.submit(write)
        assert begun.wait(5)
        raise KeyboardInterrupt
    assert time.monotonic() - began < 4
    assert isinstance(future.exception(), CancelledError)
    model(ids_BT)  # others may go on
