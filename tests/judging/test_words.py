"""Controls: texts made from real ones, whose words are where they should be and as many bytes long."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.judging.scene import TRAIN, WIDTH, setup
from troupe.judging.controls import copied, corrupted, shuffled
from troupe.judging.words import WORD, replaced, whole_words
from troupe.judging.words import shuffled as shuffled_words

texts = st.text(alphabet="ab_\u00e9\u65e5 .\n", max_size=40)  # also without blanks, without words, empty


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(texts)
def test_shuffling_keeps_the_words_and_all_between_them(text: str) -> None:
    other = shuffled_words(text, rng())
    assert sorted(other) == sorted(text)
    assert [c for c in other if c.isspace()] == [c for c in text if c.isspace()]


@given(texts)
def test_replacing_none_changes_nothing_and_replacing_all_leaves_none(text: str) -> None:
    assert replaced(text, ["x"], 0.0, rng()) == text == replaced(text, [], 1.0, rng())
    assert replaced(text, ["x"], 1.0, rng()) == WORD.sub("x", text)


def test_the_share_of_words_is_what_was_asked_for() -> None:
    """4000 words, each with probability 0.2: within 5 standard errors."""
    n = replaced("a " * 4000, ["x"], 0.2, rng()).count("x")
    assert abs(n - 800) < 5 * np.sqrt(4000 * 0.2 * 0.8)


def test_words_that_may_be_cut_are_left_out() -> None:
    assert whole_words(["ab cd, ef gh", "one", ""]) == ["cd", ",", "ef"]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_controls_are_as_long_as_real_text_and_depend_on_the_seed_alone(split: str) -> None:
    places = setup().places(split, 0)
    writers = {
        "shuffled": lambda seed: shuffled(places, seed),
        "copied": lambda seed: copied(TRAIN.encode(), places, seed),
        "corrupted": lambda seed: corrupted(places, seed, 0.5, ["longer", "a"]),
    }
    for name, write in writers.items():
        assert write(1) == write(1) != write(2), name
        assert {len(text.encode()) for text in write(1)} == {WIDTH}, name
    assert all(text in TRAIN for text in writers["copied"](1))
    assert corrupted(places, 1, 0.0, ["x"]) == places.real()
