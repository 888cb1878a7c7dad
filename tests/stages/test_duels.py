"""Duels: the paired difference of two contenders, what it takes to win, and who is kept."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from troupe.evaluation.realism import Ruling, verdict
from troupe.stages.duels import duel, duels, kept
from troupe.stages.hearing import Hearing


def heard(told: Sequence[Sequence[bool] | np.ndarray] | np.ndarray, places: int = 40) -> Hearing:
    """A hearing by hand: `told` holds, of each repetition, whether the judge was right about every window."""
    place_M = np.tile(np.arange(places), 2)
    rulings = [Ruling(np.array(correct), place_M, 0.5) for correct in told]
    return Hearing({"accuracy": float(np.concatenate([ruling.correct for ruling in rulings]).mean())}, rulings)


def test_a_duel_is_the_paired_difference_with_its_clustered_error() -> None:
    """40 places of one repetition fall into stretches of 5: 8 of them. The judge is right about all windows of the
    simpler one; of the other it errs about both windows at the 10 places of the first two stretches.

    lead = 20/80 = 1/4. The residuals add up to 10 - 10/4 = 7.5 in two stretches and to -2.5 in six:
    variance = 8/7 (2 * 7.5^2 + 6 * 2.5^2) / 80^2 = 3/112.
    """
    errs = np.tile(np.arange(40) < 10, 2)
    found = duel("start", "refined", {"start": heard([[True] * 80]), "refined": heard([~errs])}, 0.01)
    assert (found.contender, found.against) == ("refined", "start")
    assert found.lead == pytest.approx(1 / 4)
    assert found.standard_error == pytest.approx(math.sqrt(3 / 112))
    assert not found.won  # 1/4 is less than two errors of 0.16


def test_what_both_find_hard_cancels() -> None:
    """Accuracies of 0.55 and 0.49 with errors of about 0.06 each: apart they tell nothing. But wherever the simpler one
    is not told the other is not told either, so that the difference stands out."""
    rng = np.random.default_rng(0)
    hard = rng.permutation(80) < 36
    also = hard | (np.arange(80) % 10 == 0)
    told = {"start": heard([~hard]), "refined": heard([~also])}
    alone = verdict(told["start"].rulings)["standard_error"]
    found = duel("start", "refined", told, 0.01)
    assert found.standard_error < alone / 2
    assert found.won
    assert 0 < found.lead < 2 * alone


def test_of_equals_the_simplest_is_kept_and_every_challenger_meets_who_is_kept_so_far() -> None:
    """Right about 60, 60, 40 and 39 of 80 windows, evenly over the text: the third is told less, beyond the error."""

    def right(n: int) -> Hearing:
        return heard([[(i * n) // 80 != ((i + 1) * n) // 80 for i in range(80)]] * 2)

    told = dict(zip(("start", "tilted_1", "tilted_2", "refined"), map(right, (60, 60, 40, 39)), strict=True))
    fought = duels(told, 0.01)
    assert [(one.contender, one.against, one.won) for one in fought] == [
        ("tilted_1", "start", False),
        ("tilted_2", "start", True),
        ("refined", "tilted_2", False),
    ]
    assert fought[0].lead == fought[0].standard_error == 0.0
    assert kept(told, fought) == "tilted_2"
    assert kept({"start": told["start"]}, []) == "start"
    assert str(fought[0]) == "tilted_1 is told less often than start, by 0.000 ± 0.000: not enough"
    assert "it is better" in str(fought[1])


@pytest.mark.parametrize(
    ("lead", "bpb", "won", "said"),
    [
        (0.025, 0.99, True, "costs 1.0% fewer bits: told as often, it predicts better"),
        (-0.025, 0.99, True, "costs 1.0% fewer bits: told as often, it predicts better"),
        (0.025, 0.995, False, "costs 0.5% fewer bits: not enough"),
        (0.025, 1.005, False, "costs 0.5% more bits: not enough"),
        (-0.25, 0.5, False, "costs 50.0% fewer bits: it is worse"),
        (0.25, 1.005, True, "costs 0.5% more bits: it is better"),
        (0.25, 1.02, False, "costs 2.0% more bits: it costs too many bits"),
        (0.25, 2.0, False, "costs 100.0% more bits: it costs too many bits"),
        (0.025, None, False, ": not enough"),
        (0.25, None, True, "it is better"),
    ],
)
def test_bits_decide_where_judges_do_not(lead: float, bpb: float | None, won: bool, said: str) -> None:
    """Of 40 windows each at 40 places; the differing ones evenly over the text. The bar is 1 % of the bits."""
    n = round(abs(lead) * 80)
    differs = np.isin(np.arange(80), np.linspace(0, 79, n).round().astype(int))
    told = [heard([np.ones(80, dtype=bool)]), heard([~differs])]
    simpler, other = told if lead > 0 else reversed(told)
    of = {"start": replace(simpler, bpb=1.0), "tilted": replace(other, bpb=bpb)}
    found = duel("start", "tilted", of, 0.0099)
    assert found.lead == pytest.approx(lead)
    assert found.won == won
    assert said in str(found)
    assert kept(of, duels(of, 0.0099)) == ("tilted" if won else "start")


def test_no_fewer_bits_are_no_gain_whatever_the_bar() -> None:
    of = {name: replace(heard([[True] * 80]), bpb=2.0) for name in ("start", "tilted")}
    assert not duel("start", "tilted", of, 0.0).won


def test_equal_contenders_are_exchanged_by_chance_in_few_cases() -> None:
    """Of 600 pairs of equal contenders. A normal deviate passes 2 with probability 0.023; the error, from eight
    stretches and two repetitions, is itself uncertain and on average too large."""
    rng = np.random.default_rng(0)

    def by_chance() -> Hearing:
        return heard(rng.random((2, 160)) < 0.7, places=80)

    won = sum(duel("a", "b", {"a": by_chance(), "b": by_chance()}, 0.01).won for _ in range(600))
    assert won / 600 < 0.04
