"""The judge and its interval: what it must catch, what it must not, and how often the interval is right."""

import numpy as np
import pytest
import torch
from scipy import stats

from troupe.evaluation import realism
from troupe.evaluation.realism import Ruling, Windows, known_ngrams, paired, real_against_real, trial, verdict
from troupe.params import EvaluateParams

N = 60
WORDS = ["the", "of", "and", "to", "in", "is", "that", "for", "was", "with", "not", "his", "but", "are", "this", "have"]
KNOWN = known_ngrams(" ".join(WORDS) * 3)


def sentences(seed: int, n: int = N, words: list[str] = WORDS) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words, 12)) for _ in range(n)]


def ruling(correct: np.ndarray, place: np.ndarray | None = None) -> Ruling:
    return Ruling(correct, np.arange(len(correct)) if place is None else place, 0.5)


def test_it_catches_text_of_another_kind() -> None:
    places, swapped = np.arange(N), [word[::-1] for word in WORDS]
    heard = trial(
        paired(sentences(0), sentences(1, words=swapped), places),
        paired(sentences(2), sentences(3, words=swapped), places),
        KNOWN,
    )
    assert all(split.correct.mean() > 0.95 and split.auc > 0.99 for split in heard.values())


def test_it_catches_text_that_is_told_apart_by_unknown_ngrams_only() -> None:
    """Every generated text is garbled in another way, so that no n-gram of one helps with the next."""
    rng = np.random.default_rng(0)

    def garbled(text: str) -> str:
        letters = list(text)
        for at in rng.choice(len(letters), 5, replace=False):
            letters[at] = chr(rng.integers(0x400, 0x4FF))
        return "".join(letters)

    def windows(seed: int) -> Windows:
        return paired(sentences(seed), [garbled(text) for text in sentences(seed + 1)], np.arange(N))

    assert realism.judged(windows(0), windows(2), KNOWN).correct.mean() > 0.95


def test_it_cannot_tell_text_of_one_kind_apart() -> None:
    heard = [
        trial(
            paired(sentences(4 * r), sentences(4 * r + 1), np.arange(N)),
            paired(sentences(4 * r + 2), sentences(4 * r + 3), np.arange(N)),
            KNOWN,
        )
        for r in range(5)
    ]
    for split in ("validation", "test"):
        found = verdict([rulings[split] for rulings in heard])
        assert found["low"] < 0.5 < found["high"]


def test_real_against_real_calls_one_of_every_two_neighbours_generated() -> None:
    texts = [str(i) for i in range(11)]
    windows = real_against_real(texts, np.arange(11), torch.Generator().manual_seed(0))
    assert windows.texts == texts[:10]
    assert windows.generated.reshape(5, 2).sum(axis=1).tolist() == [1] * 5
    assert 0 < windows.generated[::2].sum() < 5


def test_cross_judging_never_hears_a_place_it_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs: list[tuple[set[int], set[int]]] = []

    def spy(train: Windows, test: Windows, known: realism.Known) -> Ruling:
        pairs.append((set(train.place.tolist()), set(test.place.tolist())))
        return ruling(np.ones(len(test.texts), bool), test.place)

    monkeypatch.setattr(realism, "judged", spy)
    heard = realism.cross_judged(paired(sentences(0), sentences(1), np.arange(N)), KNOWN)
    assert [(max(a) < min(b)) or (max(b) < min(a)) for a, b in pairs] == [True, True]
    assert sorted(heard.place.tolist()) == sorted([*range(N), *range(N)])


def test_evenly_spread_errors_are_a_binomial() -> None:
    """7 of every 10 in 8 stretches of 10: no variance between stretches, so the smoothed binomial is what remains."""
    found = verdict([ruling(np.arange(80) % 10 < 7)])
    share = (56 + 1) / (80 + 2)
    assert (found["accuracy"], found["correct"], found["n"]) == (0.7, 56, 80)
    assert found["standard_error"] == pytest.approx(np.sqrt(share * (1 - share) / 80))


def test_neighbours_that_agree_count_as_one() -> None:
    """4 stretches of 10 all right, 4 all wrong: residual sums of +-5, so a variance of 8/7 * 8 * 25 / 80^2 = 1/28 and
    Student's t with 7 degrees of freedom, not the binomial's 1/320."""
    found = verdict([ruling(np.arange(80) // 10 % 2 == 0)])
    assert found["standard_error"] == pytest.approx(np.sqrt(1 / 28))
    assert found["high"] - 0.5 == pytest.approx(stats.t.ppf(0.975, 7) * np.sqrt(1 / 28))


def test_repeating_the_same_windows_gains_nothing() -> None:
    """Five judges of one opinion about the same text know no more of new text than one does."""
    once = verdict([ruling(np.arange(100) < 70)])
    often = verdict([ruling(np.arange(100) < 70)] * 5)
    assert often["standard_error"] == pytest.approx(once["standard_error"], rel=0.01)


def test_judges_that_disagree_widen_the_interval() -> None:
    agree = verdict([ruling(np.arange(80) % 10 < 7)] * 4)
    differ = verdict([ruling(np.arange(80) % 10 < n) for n in (5, 9, 6, 8)])
    assert differ["accuracy"] == agree["accuracy"]
    assert differ["high"] - differ["low"] > 2 * (agree["high"] - agree["low"])


def test_never_wrong_is_not_certain() -> None:
    found = verdict([ruling(np.ones(50, bool))])
    assert found["accuracy"] == found["high"] == 1
    assert 0.9 < found["low"] < 1


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Answers hang on the place, shared by all judges, and on the judge: 95 %, within about two points."""
    rng, places, judges = np.random.default_rng(0), 80, 5

    def correct(times: int) -> np.ndarray:
        place = rng.normal(0, 1, (times, 1, places, 1))
        judge = rng.normal(0, 0.2, (times, judges, 1, 1))
        return 0.4 + place + judge + rng.normal(0, 1, (times, judges, places, 2)) > 0

    truth, place = correct(3000).mean(), np.repeat(np.arange(places), 2)
    covered = [
        found["low"] <= truth <= found["high"]
        for found in (verdict([ruling(judge.ravel(), place) for judge in one]) for one in correct(600))
    ]
    assert 0.93 <= np.mean(covered) <= 0.99


def test_the_digest_names_the_judge() -> None:
    params = EvaluateParams(
        stride=1, train_bytes=1, held_out_bytes=1, ngram_max_order=1, sample_tokens=1, prompt="a", judge_seeds=5,
        judge_window=128, judge_texts=400, temperature=1.0, top_k=1, top_p=1.0,
    )  # fmt: skip
    text = {"train": "a", "validation": "b"}
    digest = realism.description(params, text)["digest"]
    assert digest == realism.description(params.model_copy(update={"top_k": 2}), text)["digest"]
    assert digest != realism.description(params.model_copy(update={"judge_window": 64}), text)["digest"]
    assert digest != realism.description(params, text | {"validation": "c"})["digest"]


@pytest.mark.parametrize(("bytes_per_token", "block_size", "tokens"), [(1.0, 128, 48), (3.0, 128, 16), (1.0, 32, 16)])
def test_every_tokenizer_gives_about_the_same_prompt(bytes_per_token: float, block_size: int, tokens: int) -> None:
    assert realism.prompt_length(bytes_per_token, block_size) == tokens
