"""Diversity and memorisation, worked by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.evaluation.copying import Copies
from troupe.evaluation.diversity import SPAN, distinct, memorisation, out_of_vocabulary, repetition, unigram_entropy


def test_distinct_counts_over_all_texts() -> None:
    """Words: the cat the dog / the cat: 6 words, 3 different; pairs: 4, of which "the cat" twice, so 3 different."""
    texts = ["the cat the dog", "the cat"]
    assert distinct(texts, 1) == pytest.approx(3 / 6)
    assert distinct(texts, 2) == pytest.approx(3 / 4)
    assert distinct(["one"], 2) == 1


def test_repetition_counts_within_a_text() -> None:
    """a b c a b c: the triples abc, bca, cab, abc, of which the last was there before; between texts nothing counts."""
    assert repetition(["a b c a b c"]) == pytest.approx(1 / 4)
    assert repetition(["a b c", "a b c"]) == 0
    assert repetition([]) == 0


def memorised(texts: list[str], train: bytes, span: int = SPAN) -> float:
    return memorisation(map(Copies(train).matches, texts), span)


def test_memorisation_is_the_share_of_spans_in_the_training_text() -> None:
    """Spans of 4 bytes of "abcdXYZ": abcd, bcdX, cdXY, dXYZ; the first alone is in the training text."""
    assert memorised(["abcdXYZ"], b"__abcd__", span=4) == pytest.approx(1 / 4)
    assert memorised(["abc"], b"__abcd__", span=4) == memorised([], b"abc") == 0


def test_training_text_is_wholly_memorised_and_other_text_not_at_all() -> None:
    train = bytes(range(32, 127)) * 3
    assert memorised([train[10:150].decode()], train) == 1
    assert memorised(["ä" * 60], train) == 0


def test_entropy_of_words_over_all_texts() -> None:
    """a a / b c: shares 1/2, 1/4, 1/4, hence 1/2 * 1 + 2 * 1/4 * 2 bits."""
    assert unigram_entropy(["a a", "b c"]) == pytest.approx(1.5)
    assert unigram_entropy([]) == 0


@given(st.lists(st.text("ab ", max_size=10)))
def test_entropy_is_at_most_that_of_words_that_are_equally_frequent(texts: list[str]) -> None:
    words = {word for text in texts for word in text.split()}
    assert 0 <= unigram_entropy(texts) <= math.log2(max(1, len(words))) + 1e-12


def test_words_at_the_ends_may_be_cut_and_do_not_count() -> None:
    """ "og", "cat", "xat", "s" and "zz", "the", "th": of cat, xat, the one is unknown."""
    assert out_of_vocabulary(["og cat xat s", "zz the th"], {"cat", "the"}) == pytest.approx(1 / 3)
    assert out_of_vocabulary(["one two"], set()) == 0
