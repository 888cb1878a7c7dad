"""The longest copied run, against searching for every run of every length."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from troupe.evaluation.copying import Copies, suffix_array

short = st.text("ab\0", max_size=20)  # with the byte that is also written after the end of a text


def by_search(text: bytes, train: bytes) -> list[int]:
    ends = [range(len(text), start, -1) for start in range(len(text))]
    return [next((j - i for j in of if text[i:j] in train), 0) for i, of in enumerate(ends)]


@given(short, st.text("ab\0", max_size=60))
def test_equals_a_search_for_every_run(text: str, train: str) -> None:
    assert Copies(train.encode()).matches(text).tolist() == by_search(text.encode(), train.encode())


@given(st.binary(max_size=60) | st.text("ab", max_size=60).map(str.encode))
def test_suffixes_are_sorted(text: bytes) -> None:
    expected = sorted(range(len(text)), key=lambda start: text[start:])
    np.testing.assert_array_equal(suffix_array(text), expected)


def test_a_run_is_counted_in_bytes_and_in_one_piece() -> None:
    """ "née" has 4 bytes; "to be" and "or not" are 5 and 6, and together not in the text."""
    copies = Copies("née. to be; or not".encode())
    assert copies.matches("XnéeX").tolist() == [0, 4, 3, 2, 1, 0]
    assert copies.matches("to be or not").max() == 7, '" or not", with the space before it'


def test_the_training_text_is_one_run() -> None:
    train = "the same again and again, the same again"
    assert Copies(train.encode()).matches(train).tolist() == list(range(len(train), 0, -1))


def test_nothing_has_no_run() -> None:
    assert Copies(b"").matches("a").tolist() == [0]
    assert not len(Copies(b"a").matches(""))
