"""The interval of an accuracy, and how often it is right; the floor; equal prompts for every tokenizer."""

import numpy as np
import pytest
import torch
from scipy import stats

from troupe.data.room import prompt_length
from troupe.evaluation.realism import Ruling, real_against_real, verdict


def ruling(correct: np.ndarray, place: np.ndarray | None = None) -> Ruling:
    return Ruling(correct, np.arange(len(correct)) if place is None else place, 0.5)


def test_real_against_real_calls_one_of_every_two_neighbours_generated() -> None:
    texts = [str(i) for i in range(11)]
    windows = real_against_real(texts, np.arange(11), torch.Generator().manual_seed(0))
    assert windows.texts == texts[:10]
    assert windows.generated.reshape(5, 2).sum(axis=1).tolist() == [1] * 5
    assert 0 < windows.generated[::2].sum() < 5


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


@pytest.mark.parametrize(("bytes_per_token", "block_size", "tokens"), [(1.0, 128, 48), (3.0, 128, 16), (1.0, 32, 16)])
def test_every_tokenizer_gives_about_the_same_prompt(bytes_per_token: float, block_size: int, tokens: int) -> None:
    assert prompt_length(bytes_per_token, block_size) == tokens
