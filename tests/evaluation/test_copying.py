"""The longest copied run, against searching for every run of every length."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from troupe.evaluation.copying import Copies, suffix_array

short = st.text("abc", max_size=20)


def by_search(text: bytes, train: bytes) -> int:
    runs = {text[i:j] for i in range(len(text)) for j in range(i + 1, len(text) + 1)}
    return max((len(run) for run in runs if run in train), default=0)


@given(short, st.text("abc", max_size=60))
def test_equals_a_search_for_every_run(text: str, train: str) -> None:
    assert Copies(train.encode()).longest(text) == by_search(text.encode(), train.encode())


@given(st.binary(max_size=60) | st.text("ab", max_size=60).map(str.encode))
def test_suffixes_are_sorted(text: bytes) -> None:
    expected = sorted(range(len(text)), key=lambda start: text[start:])
    np.testing.assert_array_equal(suffix_array(text), expected)


def test_a_run_is_counted_in_bytes_and_in_one_piece() -> None:
    """ "née" has 4 bytes; "to be" and "or not" are 5 and 6, and together not in the text."""
    copies = Copies("née. to be; or not".encode())
    assert copies.longest("XnéeX") == 4
    assert copies.longest("to be or not") == 7, '" or not", with the space before it'


def test_the_training_text_is_one_run() -> None:
    train = "the same again and again, the same again"
    assert Copies(train.encode()).longest(train) == len(train)


def test_nothing_has_no_run() -> None:
    assert Copies(b"").longest("a") == Copies(b"a").longest("") == 0
