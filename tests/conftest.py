"""For every test: one thread; many torch threads on a busy machine are slower by orders of magnitude."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # also for the processes that tests start

import pytest
import torch
from hypothesis import settings

settings.register_profile("troupe", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("troupe")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
