"""BLEU against the formula recounted for every text, against nltk and fast-bleu, and its limits."""

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.evaluation.diversity import References, bleu, self_bleu

REFERENCES = [
    "the cat sat on the mat, and the dog sat by the door.",
    "a dog and a cat lay on the mat by the door.",
    "the old door was open, and the cat was on the mat.",
    "no dog sat on that mat.",
]
TEXTS = [
    "the cat sat on the mat by the door.",
    "the the the the the cat",
    "a dog lay by the old door, and the cat was open.",
    "mat",
]
texts = st.lists(st.lists(st.sampled_from("abcd"), max_size=9).map(" ".join), min_size=2, max_size=5)


def by_formula(text: str, references: Sequence[str], n: int = 3) -> float:
    words, others = text.split(), [reference.split() for reference in references]
    if not any(word in other for word in words for other in others):
        return 0.0
    product = 1.0
    for k in range(1, n + 1):
        held, *counted = [Counter(zip(*(one[i:] for i in range(k)), strict=False)) for one in (words, *others)]
        shared = sum(min(count, max(other[gram] for other in counted)) for gram, count in held.items())
        product *= (shared or 0.1) / max(1, held.total())
    nearest = min((abs(len(other) - len(words)), len(other)) for other in others)[1]
    return min(1.0, math.exp(1 - nearest / len(words))) * product ** (1 / n)


def test_equals_nltk_and_fast_bleu() -> None:
    """Means by sentence_bleu of nltk 3.10.4 (smoothing method 1) and by fast-bleu 0.0.90, which agree to 1e-8."""
    assert bleu(TEXTS, References(REFERENCES)) == pytest.approx(0.43753010117625496, abs=1e-12)
    assert self_bleu(REFERENCES) == pytest.approx(0.3620529044991919, abs=1e-12)


@given(texts, texts)
def test_equals_its_formula(written: list[str], references: list[str]) -> None:
    expected = fmean(by_formula(text, references) for text in written)
    assert bleu(written, References(references)) == pytest.approx(expected)


@given(texts)
def test_self_bleu_is_bleu_against_all_others(written: list[str]) -> None:
    others = [written[:i] + written[i + 1 :] for i in range(len(written))]
    expected = fmean(by_formula(*one) for one in zip(written, others, strict=True))
    assert self_bleu(written) == pytest.approx(expected)


def test_worked_by_hand() -> None:
    """ "a b c" against "a b d e": words 2/3, pairs 1/2, of one triple none, which counts 0.1, and one word too few."""
    expected = math.exp(1 - 4 / 3) * (2 / 3 * 1 / 2 * 0.1) ** (1 / 3)
    assert bleu(["a b c"], References(["a b d e"])) == pytest.approx(expected)


def test_a_word_counts_as_often_as_one_reference_has_it() -> None:
    """ "a a a" against "a a b" and "a c d": 2 of 3 words (not 3, though there are three), 1 of 2 pairs, no triple."""
    assert bleu(["a a a"], References(["a a b", "a c d"])) == pytest.approx((2 / 3 * 1 / 2 * 0.1) ** (1 / 3))


def test_texts_that_are_all_one_have_a_self_bleu_of_one() -> None:
    assert self_bleu(["to be or not to be"] * 3) == pytest.approx(1)


def test_texts_without_a_common_word_have_none() -> None:
    assert self_bleu(["a b c", "d e f"]) == 0


def test_an_empty_text_shares_nothing() -> None:
    assert bleu([""], References(["a b"])) == 0


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="2 or more texts, not 1"):
        self_bleu(["alone"])
    with pytest.raises(ValueError, match="1 or more texts, not 0"):
        References([])
