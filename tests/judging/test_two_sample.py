"""Two-sample tests: the bound on the divergence against divergences that are known, and what is tested on what."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.arrays import Floats
from troupe.judging.classifiers import Scorer
from troupe.judging.two_sample import FOLDS, Judged, Predictions, Windows, cross_predict, detection, paired, predict

counts = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=5).map(
    lambda pairs: np.array([*pairs, (10, 10)])
)


def predictions(generated: Sequence[bool], logit: Floats) -> Predictions:
    return Predictions(Windows([""] * len(generated), np.array(generated), np.arange(len(generated))), logit)


def categorical(counts_C2: np.ndarray, logit_C: Floats) -> Predictions:
    """Windows of C kinds: so many real and so many generated ones of each kind, which gets the logit of its kind."""
    generated = [label == 1 for row in counts_C2 for label in (0, 1) for _ in range(row[label])]
    kind = [c for c, row in enumerate(counts_C2) for _ in range(row.sum())]
    return predictions(generated, logit_C[kind])


def divergence(counts_C2: np.ndarray) -> float:
    """JSD in bits: the entropy of the mixture less the mean of the entropies."""

    def entropy(p_C: Floats) -> float:
        return float(-(p_C[p_C > 0] * np.log2(p_C[p_C > 0])).sum())

    p_C, q_C = (counts_C2 / counts_C2.sum(axis=0)).T
    return entropy((p_C + q_C) / 2) - (entropy(p_C) + entropy(q_C)) / 2


def balanced(counts_C2: np.ndarray) -> np.ndarray:
    """As many real as generated windows: a kind of its own holds those that one side lacks."""
    real, generated = counts_C2.sum(axis=0)
    return np.vstack([counts_C2, [max(0, generated - real), max(0, real - generated)]])


@given(counts, st.lists(st.floats(-9, 9), min_size=7, max_size=7))
def test_no_classifier_claims_more_than_the_divergence(counts_C2: np.ndarray, logits: list[float]) -> None:
    whole = balanced(counts_C2)
    found = detection([categorical(whole, np.array(logits[: len(whole)]))])
    assert found.jsd <= divergence(whole) + 1e-12


@given(counts)
def test_the_ideal_judge_reaches_the_divergence(counts_C2: np.ndarray) -> None:
    whole = balanced(counts_C2)
    odds = np.log(np.maximum(whole[:, 1], 1e-30) / np.maximum(whole[:, 0], 1e-30))
    assert detection([categorical(whole, odds)]).jsd == pytest.approx(divergence(whole), abs=1e-9)


def test_a_judge_that_is_sure_and_right_gives_one_bit_and_a_blind_one_none() -> None:
    labels = [False, True] * 40
    sure = detection([predictions(labels, np.where(labels, 60.0, -60.0))])
    assert (sure.jsd, sure.accuracy, sure.auc) == (pytest.approx(1), 1, 1)
    blind = detection([predictions(labels, np.zeros(80))])
    assert (blind.jsd, blind.jsd_low, blind.jsd_high, blind.accuracy, blind.auc) == (0, 0, 0, 0.5, 0.5)


def test_a_judge_that_errs_with_confidence_claims_nothing() -> None:
    labels = [False, True] * 40
    found = detection([predictions(labels, np.where(labels, -5.0, 5.0))])
    assert (found.jsd, found.jsd_high, found.accuracy) == (0, 0, 0)


def test_random_scores_tell_nothing() -> None:
    rng, labels = np.random.default_rng(0), [False, True] * 2000
    found = detection([predictions(labels, rng.normal(0, 0.1, 4000))])
    assert found.auc == pytest.approx(0.5, abs=0.03)
    assert found.low < 0.5 < found.high
    assert found.jsd_low == 0


def test_the_interval_of_the_bound_holds_the_expected_bound_as_often_as_it_says() -> None:
    """Two kinds, real with 3/4 and 1/4, generated the other way round: a divergence of 1 - H(1/4) bits."""
    truth = 1 + (3 * np.log2(3 / 4) + np.log2(1 / 4)) / 4
    rng, labels = np.random.default_rng(1), np.tile([False, True], 100)
    covered = [
        found.jsd_low <= truth <= found.jsd_high
        for found in (
            detection([predictions(labels.tolist(), np.where((rng.random(200) < 0.75) == labels, 1, -1) * np.log(3))])
            for _ in range(400)
        )
    ]
    assert 0.92 <= np.mean(covered) <= 0.99


@dataclass(frozen=True)
class Known:
    """Calls generated what has the word, so many nats sure."""

    word: str
    nats: float

    def fit(self, real: Sequence[str], fake: Sequence[str], seed: int) -> Scorer:
        assert not any(self.word in text for text in real)
        assert len(real) == len(fake)
        return lambda texts: np.array([self.nats if self.word in text else -self.nats for text in texts])


def test_the_worst_family_is_the_one_with_the_highest_accuracy() -> None:
    windows = paired(["real"] * 20, ["mean fake", "real fake"] * 10, np.arange(20))
    families = {"half": Known("mean", 2), "whole": Known("fake", 1)}
    judged = Judged({name: [predict(judge, windows, windows, seed=0)] * 3 for name, judge in families.items()})
    assert judged.worst == "whole"
    assert {name: found.accuracy for name, found in judged.detections.items()} == {"half": 0.75, "whole": 1}
    assert judged.detection.n == 3 * 40


def test_the_worst_is_picked_over_all_repetitions_not_in_each() -> None:
    """One family is right of 9 and 5 in 10, the other of 6 and 7: the first is worse, with 14 in 20."""

    def right(n: int) -> Predictions:
        windows = paired([""] * 5, [""] * 5, np.arange(5))
        correct = np.arange(10) < n
        return Predictions(windows, np.where(correct == windows.generated, 1.0, -1.0))

    judged = Judged({"a": [right(9), right(5)], "b": [right(6), right(7)]})
    assert (judged.worst, judged.detection.accuracy, judged.detection.correct) == ("a", 0.7, 14)


def test_a_classifier_is_tested_on_what_it_was_not_trained_on() -> None:
    train, test = paired(["a"], ["b"], np.arange(1)), paired(["c"], ["b d"], np.arange(1))
    found = predict(Known("b", 1), train, test, seed=0)
    assert found.windows is test
    assert found.logit.tolist() == [-1, 1]


@dataclass(frozen=True)
class Memory:
    """Sure of what it learned, undecided of everything else; keeps what it learned from and was asked."""

    learned: list[set[str]]
    asked: list[set[str]]

    def fit(self, real: Sequence[str], fake: Sequence[str], seed: int) -> Scorer:
        self.learned.append({*real, *fake})

        def score(texts: Sequence[str]) -> Floats:
            self.asked.append(set(texts))
            return np.array([len(text) + 0.5 for text in texts])

        return score


@pytest.mark.parametrize("beside", [None, paired(["other 90"], ["mine 90"], np.array([90]))])
def test_cross_prediction_never_tests_a_place_it_was_trained_on_and_tests_all(beside: Windows | None) -> None:
    texts = [f"real {i}" for i in range(11)], [f"written {i}" for i in range(11)]
    windows, judge = paired(*texts, np.arange(11)), Memory([], [])
    tested = cross_predict(judge, windows, 0, beside)
    learned, asked = ([{int(text.split()[1]) for text in one} for one in each] for each in (judge.learned, judge.asked))
    assert len(asked) == FOLDS
    assert sorted(place for one in asked for place in one) == list(range(11)), "every place once"
    for trained_on, here in zip(learned, asked, strict=True):
        assert trained_on == (set(range(11)) - here) | ({90} if beside else set())
        assert max(here) - min(here) == len(here) - 1, "a stretch of neighbours"
    assert tested.windows is windows
    assert tested.logit.tolist() == [len(text) + 0.5 for text in windows.texts]


def test_a_family_picked_on_other_text_is_reported_even_if_another_is_right_more_often_here() -> None:
    windows = paired(["real"] * 20, ["mean fake", "real fake"] * 10, np.arange(20))
    families = {"half": Known("mean", 2), "whole": Known("fake", 1)}
    found = {name: [predict(judge, windows, windows, seed=0)] for name, judge in families.items()}
    assert Judged(found, picked="half").detection.accuracy == 0.75 < Judged(found).detection.accuracy
