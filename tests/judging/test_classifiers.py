"""Families of judges: what each must catch, what none may claim, and that they are what their seed makes them."""

from collections.abc import Sequence

import numpy as np
import pytest

from troupe.judging.classifiers import SCORES, families, new_judge
from troupe.judging.detection import Detection
from troupe.judging.two_sample import detection, paired, predict

N = 120
WORDS = ["the", "of", "and", "to", "in", "is", "that", "for", "was", "with", "not", "his", "but", "are", "this", "have"]
JUDGES = families(" ".join(np.random.default_rng(9).choice(WORDS, 3000)), seed=0, steps=2)
NAMES = list(JUDGES)
LEARNERS = [name for name in NAMES if name not in SCORES]


def sentences(seed: int, n: int = N, weights: Sequence[float] | None = None) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 12, p=weights)) for _ in range(n)]


def garbled(texts: list[str], seed: int) -> list[str]:
    """Two letters of every text exchanged for others that the language has, so that words are almost words."""
    rng = np.random.default_rng(seed)

    def garble(text: str) -> str:
        letters = list(text)
        for at in rng.choice(len(letters), 2, replace=False):
            letters[at] = rng.choice(list("aehint"))
        return "".join(letters)

    return [garble(text) for text in texts]


def judged(name: str, learn: tuple[list[str], list[str]], test: tuple[list[str], list[str]]) -> Detection:
    windows = [paired(*texts, np.arange(len(texts[0]))) for texts in (learn, test)]
    return detection([predict(JUDGES[name], *windows, seed=0)])


@pytest.mark.parametrize("name", [*LEARNERS, "n-gram bits", "unknown words", "improbable run"])
def test_each_that_counts_catches_words_that_are_almost_words(name: str) -> None:
    found = judged(name, (sentences(0), garbled(sentences(1), 1)), (sentences(2), garbled(sentences(3), 3)))
    assert found.accuracy > 0.9
    assert found.jsd_low > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_none_tells_text_of_one_kind_apart(name: str) -> None:
    found = judged(name, (sentences(0), sentences(1)), (sentences(2), sentences(3)))
    assert found.low < 0.5 < found.high
    assert found.jsd_low == 0


@pytest.mark.parametrize("name", NAMES)
def test_none_claims_more_than_the_ideal_judge(name: str) -> None:
    """Words are drawn alone, half as likely or one and a half times: the ideal judge adds up their log odds."""
    weights = np.where(np.arange(16) % 2, 0.5, 1.5) / 16
    learn, test = ((sentences(s), sentences(s + 1, weights=list(weights))) for s in (0, 2))
    odds = dict(zip(WORDS, np.log(16 * weights), strict=True))
    logit_M = np.array([sum(odds[word] for word in text.split()) for text in [*test[0], *test[1]]])
    ideal_M = 1 - np.logaddexp(0, -np.repeat([-1, 1], N) * logit_M) / np.log(2)
    found = judged(name, learn, test)
    assert 0 <= found.jsd < ideal_M.mean()


@pytest.mark.parametrize("n", [4, 5, 6, 7])
@pytest.mark.parametrize("name", NAMES)
def test_each_can_learn_from_the_fewest_windows_there_may_be(name: str, n: int) -> None:
    """Half of eight places: little is learned, but nothing fails."""
    found = judged(name, (sentences(0, n), garbled(sentences(1, n), 1)), (sentences(2), garbled(sentences(3), 3)))
    assert 0 <= found.accuracy <= 1


@pytest.mark.parametrize("name", NAMES)
def test_each_can_learn_from_texts_that_share_no_character(name: str) -> None:
    """A few short windows in scripts of thousands of characters: no n-gram occurs twice, not even a blank, which
    scikit-learn reads for two."""
    texts = ["".join(chr(0x4E00 + 5 * number + i) for i in range(5)) for number in range(16)]
    texts[0], texts[1] = texts[0] + "\n\n", texts[1] + "\n"
    score = JUDGES[name].fit(texts[:8], texts[8:], seed=0)
    assert np.isfinite(score([*texts, *sentences(0, 4)])).all()


def test_where_one_character_is_shared_the_linear_judge_is_what_it_was() -> None:
    """One n-gram in two texts is enough for min_df = 2, and single occurrences stay unseen."""
    texts = ["abc", "cde", "fgh", "ijk"]
    vectorizer = new_judge(JUDGES["linear"].references, texts)[0].transformer_list[0][1]
    assert list(vectorizer.fit(texts).vocabulary_) == ["c"]


@pytest.mark.parametrize("name", NAMES)
def test_equal_arguments_give_equal_scores(name: str) -> None:
    real, fake, asked = sentences(0, 30), garbled(sentences(1, 30), 1), sentences(2, 10)
    one, again = (JUDGES[name].fit(real, fake, seed=5)(asked) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert one.shape == (10,)
