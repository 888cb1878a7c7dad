"""The referee: its bound on the divergence against divergences that are known, whom it catches, and who is heard on
what."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.data.tokenizer import ByteTokenizer
from troupe.evaluation import families
from troupe.evaluation.families import Floats, Scorer
from troupe.evaluation.realism import Windows, paired
from troupe.evaluation.referee import (
    Opinion,
    Trial,
    cross_hear,
    description,
    floor_trials,
    hear,
    referee,
    summed_up,
    writer_trials,
)
from troupe.evaluation.windows import Places, find_places
from troupe.params import EvaluateParams

counts = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=5).map(
    lambda pairs: np.array([*pairs, (10, 10)])
)


def opinion(generated: Sequence[bool], logit: Floats) -> Opinion:
    return Opinion(Windows([""] * len(generated), np.array(generated), np.arange(len(generated))), logit)


def categorical(counts_C2: np.ndarray, logit_C: Floats) -> Opinion:
    """Windows of C kinds: so many real and so many generated ones of each kind, which gets the logit of its kind."""
    generated = [label == 1 for row in counts_C2 for label in (0, 1) for _ in range(row[label])]
    kind = [c for c, row in enumerate(counts_C2) for _ in range(row.sum())]
    return opinion(generated, logit_C[kind])


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
def test_no_judge_claims_more_than_the_divergence(counts_C2: np.ndarray, logits: list[float]) -> None:
    whole = balanced(counts_C2)
    found = summed_up([categorical(whole, np.array(logits[: len(whole)]))])
    assert found["jsd"] <= divergence(whole) + 1e-12


@given(counts)
def test_the_ideal_judge_reaches_the_divergence(counts_C2: np.ndarray) -> None:
    whole = balanced(counts_C2)
    odds = np.log(np.maximum(whole[:, 1], 1e-30) / np.maximum(whole[:, 0], 1e-30))
    assert summed_up([categorical(whole, odds)])["jsd"] == pytest.approx(divergence(whole), abs=1e-9)


def test_a_judge_that_is_sure_and_right_gives_one_bit_and_a_blind_one_none() -> None:
    labels = [False, True] * 40
    sure = summed_up([opinion(labels, np.where(labels, 60.0, -60.0))])
    assert (sure["jsd"], sure["accuracy"], sure["auc"]) == (pytest.approx(1), 1, 1)
    blind = summed_up([opinion(labels, np.zeros(80))])
    assert (blind["jsd"], blind["jsd_low"], blind["jsd_high"], blind["accuracy"], blind["auc"]) == (0, 0, 0, 0.5, 0.5)


def test_a_judge_that_errs_with_confidence_claims_nothing() -> None:
    labels = [False, True] * 40
    found = summed_up([opinion(labels, np.where(labels, -5.0, 5.0))])
    assert (found["jsd"], found["jsd_high"], found["accuracy"]) == (0, 0, 0)


def test_random_scores_tell_nothing() -> None:
    rng, labels = np.random.default_rng(0), [False, True] * 2000
    found = summed_up([opinion(labels, rng.normal(0, 0.1, 4000))])
    assert found["auc"] == pytest.approx(0.5, abs=0.03)
    assert found["low"] < 0.5 < found["high"]
    assert found["jsd_low"] == 0


def test_the_interval_of_the_bound_holds_the_expected_bound_as_often_as_it_says() -> None:
    """Two kinds, real with 3/4 and 1/4, generated the other way round: a divergence of 1 - H(1/4) bits."""
    truth = 1 + (3 * np.log2(3 / 4) + np.log2(1 / 4)) / 4
    rng, labels = np.random.default_rng(1), np.tile([False, True], 100)
    covered = [
        found["jsd_low"] <= truth <= found["jsd_high"]
        for found in (
            summed_up([opinion(labels.tolist(), np.where((rng.random(200) < 0.75) == labels, 1, -1) * np.log(3))])
            for _ in range(400)
        )
    ]
    assert 0.92 <= np.mean(covered) <= 0.99


@dataclass(frozen=True)
class Known:
    """Calls generated what has the word, so many nats sure; keeps what it learned from."""

    word: str
    nats: float

    def fit(self, real: Sequence[str], fake: Sequence[str], seed: int) -> Scorer:
        assert not any(self.word in text for text in real)
        assert len(real) == len(fake)
        return lambda texts: np.array([self.nats if self.word in text else -self.nats for text in texts])


def test_the_worst_judge_is_the_one_that_tells_best() -> None:
    windows = paired(["real"] * 20, ["mean fake", "real fake"] * 10, np.arange(20))
    found = referee({"half": Known("mean", 2), "whole": Known("fake", 1)}, [Trial(windows, windows, seed=0)] * 3)
    assert found["worst"] == "whole"
    assert {name: judge["accuracy"] for name, judge in found["judges"].items()} == {"half": 0.75, "whole": 1}
    assert found["judges"]["whole"]["n"] == 3 * 40


def test_a_judge_is_heard_on_what_it_did_not_learn_from() -> None:
    learn, test = paired(["a"], ["b"], np.arange(1)), paired(["c"], ["b d"], np.arange(1))
    found = hear(Known("b", 1), Trial(learn, test, seed=0))
    assert found.windows is test
    assert found.logit.tolist() == [-1, 1]


def places(letters: str) -> Places:
    ids = np.frombuffer((letters * 40).encode(), np.uint8)
    return find_places("test", ids, ByteTokenizer(), width=10, prompt=3)


def test_a_writer_writes_at_the_same_places_with_other_random_numbers() -> None:
    calls: list[tuple[str, int]] = []

    def write(at: Places, seed: int) -> list[str]:
        calls.append((at.real()[0], seed))
        return ["written"] * len(at.starts)

    learn, test = places("abcde"), places("vwxyz")
    first, second = writer_trials(write, learn, test, seeds=[1, 2])
    assert len({seed for _, seed in calls}) == 4
    assert first.learn.texts == second.learn.texts == learn.real() + ["written"] * len(learn.starts)
    assert first.hear.texts[0] == test.real()[0]
    assert (first.seed, second.seed) == (1, 2)


def test_the_floor_holds_real_text_only_half_of_it_called_generated() -> None:
    first, second = floor_trials(places("abcde"), places("vwxyz"), seeds=[1, 2])
    assert set("".join(first.learn.texts)) == set("abcde")
    assert set("".join(first.hear.texts)) == set("vwxyz")
    assert first.hear.generated.mean() == 0.5
    assert (first.hear.generated != second.hear.generated).any()


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


def test_cross_hearing_never_hears_a_place_it_learned_from_and_hears_all() -> None:
    texts = [f"real {i}" for i in range(11)], [f"written {i}" for i in range(11)]
    windows, judge = paired(*texts, np.arange(11)), Memory([], [])
    heard = cross_hear(judge, windows, seed=0)
    places = [{int(text.split()[1]) for text in one} for one in (*judge.learned, *judge.asked)]
    assert places[:2] == places[:1:-1], "what one half taught the other is heard on, and the other way round"
    assert not places[0] & places[1]
    assert sorted(heard.windows.texts) == sorted(windows.texts)
    for text, generated, place, logit in zip(
        heard.windows.texts, heard.windows.generated, heard.windows.place, heard.logit, strict=True
    ):
        assert (generated, place, logit) == (text.startswith("written"), int(text.split()[1]), len(text) + 0.5)


def test_the_digest_names_the_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    params = EvaluateParams(
        stride=1, train_bytes=1, held_out_bytes=1, ngram_max_order=1, sample_tokens=1, prompt="a", judge_seeds=5,
        judge_window=128, judge_texts=400, temperatures=[], temperature=1.0, top_k=1, top_p=1.0,
    )  # fmt: skip
    text = {"train": "a", "validation": "b"}
    digest = description(params, text)["digest"]
    for same in ({"top_k": 2}, {"temperatures": [0.5]}):
        assert digest == description(params.model_copy(update=same), text)["digest"]
    assert digest != description(params.model_copy(update={"judge_window": 64}), text)["digest"]
    assert digest != description(params.model_copy(update={"stride": 2}), text)["digest"], "other bits per byte"
    assert digest != description(params, text | {"validation": "c"})["digest"]
    monkeypatch.setitem(families.TREES, "max_leaf_nodes", 9)
    assert digest != description(params, text)["digest"]
