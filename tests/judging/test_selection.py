"""Selection: the paired difference of two candidates, what it takes to replace a simpler one, and what is selected."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from troupe.judging.selection import Candidate, compare, select
from troupe.judging.two_sample import Judged, Predictions, Windows

Correct = Sequence[Sequence[bool] | np.ndarray] | np.ndarray  # of each repetition, whether it is right about a window


def candidate(correct: Correct, places: int = 40, bpb: float = 1.0) -> Candidate:
    """By hand: one family of judges."""
    windows = Windows([""] * 2 * places, np.repeat([False, True], places), np.tile(np.arange(places), 2))
    return Candidate(bpb, Judged({"linear": [predictions(windows, np.array(one, bool)) for one in correct]}))


def predictions(windows: Windows, correct_M: np.ndarray) -> Predictions:
    return Predictions(windows, np.where(windows.generated == correct_M, 1.0, -1.0))


def test_a_comparison_is_the_paired_difference_with_its_clustered_error() -> None:
    """40 places of one repetition fall into stretches of 5: 8 of them. The judge is right about all windows of the
    simpler one; of the other it errs about both windows at the 10 places of the first two stretches.

    lead = 20/80 = 1/4. The residuals add up to 10 - 10/4 = 7.5 in two stretches and to -2.5 in six:
    variance = 8/7 (2 * 7.5^2 + 6 * 2.5^2) / 80^2 = 3/112.
    """
    errs = np.tile(np.arange(40) < 10, 2)
    found = compare("start", "gan", {"start": candidate([[True] * 80]), "gan": candidate([~errs])}, 0.01)
    assert (found.candidate, found.against) == ("gan", "start")
    assert found.lead == pytest.approx(1 / 4)
    assert found.standard_error == pytest.approx(math.sqrt(3 / 112))
    assert found.reach == pytest.approx(stats.t.ppf(0.975, 7) * found.standard_error)  # one repetition: 7 of stretches
    assert not found.better  # 1/4 is less than 2.36 errors of 0.16


def test_with_few_repetitions_two_errors_are_not_enough() -> None:
    """Three repetitions that disagree by 0.1, 0.2 and 0.3: the lead is more than two errors, which are known from so
    few that the interval still reaches below 0."""
    right = [np.arange(80) % 10 >= n for n in (1, 2, 3)]
    found = compare("start", "gan", {"start": candidate([[True] * 80] * 3), "gan": candidate(right)}, 0.01)
    assert found.lead == pytest.approx(0.2)
    assert 2 * found.standard_error < found.lead < found.reach
    assert not found.better


def test_what_both_find_hard_cancels() -> None:
    """Accuracies of 0.65 and 0.59 with errors of about 0.06 each: apart they say nothing. But wherever the simpler one
    is not detected the other is not either, so that the difference stands out."""
    rng = np.random.default_rng(0)
    hard = rng.permutation(80) < 28
    also = hard | (np.arange(80) % 11 == 0)
    both = {"start": candidate([~hard]), "gan": candidate([~also])}
    alone = both["start"].judged.detection.standard_error
    found = compare("start", "gan", both, 0.01)
    assert found.standard_error < alone / 2
    assert found.better
    assert 0 < found.lead < 2 * alone


def test_each_is_compared_by_the_family_that_detects_it_best() -> None:
    windows = Windows([""] * 80, np.repeat([False, True], 40), np.tile(np.arange(40), 2))
    always, half = (predictions(windows, np.arange(80) % n == 0) for n in (1, 2))
    one, other = (Candidate(1.0, Judged({"linear": [a], "boosted": [b]})) for a, b in ((always, half), (half, half)))
    assert compare("start", "gan", {"start": one, "gan": other}, 0.01).lead == 1 / 2
    assert one.facts()["judge"] == "linear"


def test_of_equals_the_simplest_is_kept_and_every_candidate_meets_the_one_selected_so_far() -> None:
    """Right about 60, 60, 40 and 39 of 80 windows, evenly over the text: the third is detected less, beyond error."""

    def right(n: int) -> Candidate:
        return candidate([[(i * n) // 80 != ((i + 1) * n) // 80 for i in range(80)]] * 2)

    names = ("start", "tilt_1", "gan", "ddo")
    candidates = dict(zip(names, map(right, (60, 60, 40, 39)), strict=True))
    selection = select(candidates, 0.01)
    assert [(one.candidate, one.against, one.better) for one in selection.comparisons] == [
        ("tilt_1", "start", False),
        ("gan", "start", True),
        ("ddo", "gan", False),
    ]
    first = selection.comparisons[0]
    assert first.lead == first.standard_error == 0.0
    assert selection.selected == "gan"
    assert select({"start": candidates["start"]}, 0.01).selected == "start"
    assert str(first).startswith("tilt_1 is detected less often than start, by 0.000 (± 0.000, standard error 0.000)")
    assert str(first).endswith("no clear difference")
    assert ": better" in selection.reason


@pytest.mark.parametrize(
    ("lead", "bpb", "better", "says"),
    [
        (0.025, 0.99, True, "needs 1.0% fewer bits: detected as often, it predicts better"),
        (-0.025, 0.99, True, "needs 1.0% fewer bits: detected as often, it predicts better"),
        (0.025, 0.995, False, "needs 0.5% fewer bits: no clear difference"),
        (0.025, 1.005, False, "needs 0.5% more bits: no clear difference"),
        (-0.25, 0.5, False, "needs 50.0% fewer bits: worse"),
        (0.25, 1.005, True, "needs 0.5% more bits: better"),
        (0.25, 1.02, False, "needs 2.0% more bits: too many bits"),
        (0.25, 2.0, False, "needs 100.0% more bits: too many bits"),
    ],
)
def test_bits_decide_where_judges_do_not(lead: float, bpb: float, better: bool, says: str) -> None:
    """Of 40 windows each at 40 places; the differing ones evenly over the text. The bar is 1 % of the bits."""
    n = round(abs(lead) * 80)
    differs = np.isin(np.arange(80), np.linspace(0, 79, n).round().astype(int))
    more, less = np.ones(80, dtype=bool), ~differs
    simpler, other = (more, less) if lead > 0 else (less, more)
    of = {"start": candidate([simpler]), "tilt_1": candidate([other], bpb=bpb)}
    found = compare("start", "tilt_1", of, 0.0099)
    assert found.lead == pytest.approx(lead)
    assert found.better == better
    assert says in str(found)
    assert select(of, 0.0099).selected == ("tilt_1" if better else "start")


def test_no_fewer_bits_are_no_gain_whatever_the_bar() -> None:
    of = {name: candidate([[True] * 80], bpb=2.0) for name in ("start", "tilt_1")}
    assert not compare("start", "tilt_1", of, 0.0).better


def test_small_steps_do_not_lead_to_what_one_step_may_not() -> None:
    """Each needs 0.8 % more bits than the one before, which is allowed, and is detected clearly less often: the second
    step would need 1.6 % more than the start."""
    correct = [np.arange(80) % 4 != 5, np.arange(80) % 4 != 0, np.arange(80) % 4 > 1]
    names = ("start", "tilt_1", "tilt_2")
    of = {name: candidate([one] * 2, bpb=1.008**n) for n, (name, one) in enumerate(zip(names, correct, strict=True))}
    selection = select(of, 0.01)
    assert [one.better for one in selection.comparisons[:2]] == [True, True]
    assert (selection.comparisons[2].against, selection.comparisons[2].costs_bits) == ("start", True)
    assert selection.selected == "tilt_1"
    assert select({name: of[name] for name in ("tilt_1", "tilt_2")}, 0.01).selected == "tilt_2"


def test_equal_candidates_are_exchanged_by_chance_in_few_cases() -> None:
    """Of 600 pairs of equal candidates. A normal deviate passes 2 with probability 0.023; the error, from eight
    stretches and two repetitions, is itself uncertain and on average too large."""
    rng = np.random.default_rng(0)

    def by_chance() -> Candidate:
        return candidate(rng.random((2, 160)) < 0.7, places=80)

    exchanged = sum(compare("a", "b", {"a": by_chance(), "b": by_chance()}, 0.01).better for _ in range(600))
    assert exchanged / 600 < 0.04
