"""One seed, many streams."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from troupe.seeding import derive_seed, generator


@given(st.integers(0, 2**32 - 1), st.lists(st.text(min_size=1), min_size=1, max_size=3))
def test_seeds_fit_torch_and_repeat(seed: int, purpose: list[str]) -> None:
    derived = derive_seed(seed, *purpose)
    assert 0 <= derived < 2**63
    assert derived == derive_seed(seed, *purpose)


def test_the_seed_is_the_same_on_every_machine() -> None:
    """sha256 of "1337/pretrain/init", first eight bytes, without the lowest bit; not Python's salted hash()."""
    assert derive_seed(1337, "pretrain", "init") == 4523970583632839100


def test_purposes_and_seeds_are_independent() -> None:
    streams = {
        tuple(torch.rand(4, generator=generator(seed, purpose)).tolist())
        for seed in range(8)
        for purpose in ("init", "data", "judge")
    }
    assert len(streams) == 24
