"""A model and a run small enough to train in a blink."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from troupe.data.batches import Batches
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.params import TrainParams
from troupe.seeding import generator

VOCAB, BLOCK = 16, 8


@pytest.fixture
def model() -> GPT:
    gpt = GPT(GPTConfig(vocab_size=VOCAB, block_size=BLOCK, n_layer=2, n_head=2, n_embd=16, dropout=0.1))
    init_gpt2(gpt, generator(0, "test", "init"))
    return gpt


@pytest.fixture
def ids() -> np.ndarray:
    """A text that can be learned: 0, 1, ... 15 over and over."""
    return np.arange(400, dtype=np.uint16) % VOCAB


@pytest.fixture
def batches(ids: np.ndarray) -> Batches:
    return Batches(ids, BLOCK, batch_size=4, seed=1)


@pytest.fixture
def train_params() -> Any:
    def make(**changes: Any) -> TrainParams:
        values = {
            "steps": 12,
            "batch_size": 4,
            "optimizer": "muon",
            "learning_rate": 0.02,
            "adamw_learning_rate": 0.01,
            "warmup_steps": 2,
            "decay_fraction": 0.5,
            "weight_decay": 0.1,
            "grad_clip": 1.0,
            "eval_interval": 4,
            "checkpoint_interval": 4,
        }
        return TrainParams(**values | changes)

    return make


@pytest.fixture
def autocast() -> Any:
    return nullcontext
