"""Diversity and memorisation, worked by hand."""

import pytest

from troupe.evaluation.diversity import distinct, memorisation, repetition, summary


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


def test_memorisation_is_the_share_of_spans_in_the_training_text() -> None:
    """Spans of 4 bytes of "abcdXYZ": abcd, bcdX, cdXY, dXYZ; the first alone is in the training text."""
    assert memorisation(["abcdXYZ"], b"__abcd__", span=4) == pytest.approx(1 / 4)
    assert memorisation(["abc"], b"__abcd__", span=4) == 0


def test_training_text_is_wholly_memorised_and_other_text_not_at_all() -> None:
    train = bytes(range(32, 127)) * 3
    assert memorisation([train[10:150].decode()], train) == 1
    assert memorisation(["ä" * 60], train) == 0


def test_summary_averages_samples_of_equal_size() -> None:
    figures = summary([["a b"], ["a a"]], b"")
    assert figures["distinct_1"] == pytest.approx((1 + 0.5) / 2)
    assert set(figures) == {"distinct_1", "distinct_2", "distinct_4", "repetition", "memorisation"}
