"""Curves over temperature, by hand: what is read off them, and when one is better than another."""

import pytest

from studies.core.statistics import Estimate
from studies.oracle.curves import (
    BEHIND,
    MOVES,
    SAME,
    UNCLEAR,
    Comparison,
    Curve,
    Point,
    at,
    colder_side,
    compare,
    gaps,
    lowest,
    mean_curve,
    nll_oracle_at,
    reaching,
)

CURVE = [Point(0.5, 5.0, 9.0), Point(0.8, 7.0, 8.0), Point(1.0, 8.0, 7.5), Point(1.2, 9.0, 7.6)]


def shifted(curve: Curve, oracle: float = 0.0, test: float = 0.0) -> Curve:
    return [Point(t, o + oracle, n + test) for t, o, n in curve]


def test_points_of_a_curve() -> None:
    assert at(CURVE, 0.8) == Point(0.8, 7.0, 8.0)
    assert lowest(CURVE) == Point(1.0, 8.0, 7.5)
    assert [point.temperature for point in colder_side(CURVE)] == [1.0, 0.8, 0.5]  # not the warmer 1.2


def test_nll_oracle_at_equal_nll_test() -> None:
    """Half way from (8, 7.5) to (7, 8); a quarter of the way from (7, 8) to (5, 9); beyond the ends, the ends."""
    assert nll_oracle_at(CURVE, 7.75) == pytest.approx(7.5)
    assert nll_oracle_at(CURVE, 8.25) == pytest.approx(6.5)
    assert nll_oracle_at(CURVE, 7.0) == 8.0
    assert nll_oracle_at(CURVE, 10.0) == 5.0


def test_the_temperature_that_reaches_a_published_number() -> None:
    """6.0 is half way between temperatures 0.5 and 0.8."""
    assert reaching(CURVE, 6.0) == pytest.approx((0.65, 6.0, 8.5))
    assert reaching(CURVE, 7.0) == (0.8, 7.0, 8.0)
    assert reaching(CURVE, 4.9) is None
    assert reaching(CURVE, 9.5) is None


def test_gaps_are_taken_above_the_higher_of_the_two_lowest() -> None:
    """Ours starts at 7.75, where theirs is at 7.5: 8 - 7.5. At 0.25 above, 8.0: ours half way to 7, theirs at 7."""
    assert gaps(shifted(CURVE, test=0.25), CURVE, [0.0, 0.25]) == pytest.approx([0.5, 0.5])
    assert gaps(shifted(CURVE, oracle=-0.3), CURVE, [0.0, 0.5, 1.0]) == pytest.approx([-0.3] * 3)


def test_a_generator_that_only_slides_along_the_curve_is_no_better() -> None:
    """What lowering the temperature does, built into the weights: at temperature 1 it is now where 0.8 was. SeqGAN's
    own measure, NLL_oracle at temperature 1, would call it better by 1 nat."""
    colder = [Point(t / 0.8, o, n) for t, o, n in CURVE[:3]]
    found = compare([colder, colder], [CURVE, CURVE], [0.1, 0.5, 1.0])
    assert found.nll_oracle == Estimate(-1.0, 0.0)
    assert found.nll_test == Estimate(0.5, 0.0)
    assert found.gap.mean == pytest.approx(0.0)
    assert found.verdict == SAME


def test_a_comparison_is_paired_by_seed() -> None:
    """Seeds lie 3 nats apart, which no difference within a seed sees."""
    theirs = [CURVE, shifted(CURVE, 3.0), shifted(CURVE, -3.0)]
    ours = [shifted(curve, oracle) for curve, oracle in zip(theirs, (0.2, 0.21, 0.19), strict=True)]
    found = compare(ours, theirs, [0.25, 0.5])
    assert found.gap.mean == pytest.approx(0.2)
    assert found.gap.half == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)  # Student's t with 2 degrees of freedom
    assert found.verdict == BEHIND
    assert [one.mean for one in found.by_level] == pytest.approx([0.2, 0.2])


@pytest.mark.parametrize(
    ("gap", "verdict"),
    [
        (Estimate(-0.2, 0.1), MOVES),
        (Estimate(0.2, 0.1), BEHIND),
        (Estimate(0.1, 0.2), SAME),
        (Estimate(0.1, 0.1), SAME),
        (Estimate(-0.2, None), UNCLEAR),
    ],
)
def test_an_interval_gives_the_verdict(gap: Estimate, verdict: str) -> None:
    nothing = Estimate(0.0, 0.0)
    assert Comparison([], gap, nothing, nothing, nothing).verdict == verdict


def test_the_mean_of_curves() -> None:
    for found, wanted in zip(mean_curve([CURVE, shifted(CURVE, 2.0, 1.0)]), shifted(CURVE, 1.0, 0.5), strict=True):
        assert found == pytest.approx(wanted)
