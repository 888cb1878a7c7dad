"""Curves of quality against diversity, made up so that their gap is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.adversarial.curve import Gap, Point, gap


def curve(*pairs: tuple[float, float]) -> list[Point]:
    """(diversity, quality)"""
    return [Point(0.7 + 0.1 * i, quality, diversity) for i, (diversity, quality) in enumerate(pairs)]


def test_a_temperature_alone_wins_nothing() -> None:
    """Two points of one line: at another temperature the same model has better quality and worse diversity."""
    line = curve((0, 4), (1, 3), (2, 2), (3, 1))
    assert gap(line[:3], line[1:]) == Gap(low=1, high=2, mean=0, least=0, most=0)


def test_a_curve_that_is_lower_throughout_is_better_by_so_much() -> None:
    found = gap(curve((0, 3.5), (2, 1.5)), curve((0, 4), (1, 3), (2, 2)))
    assert found == Gap(low=0, high=2, mean=-0.5, least=-0.5, most=-0.5)


def test_curves_that_cross_are_told_by_least_and_most() -> None:
    """q = d against q = 1 - d between 0 and 1: from -1 to 1, 0 on average."""
    found = gap(curve((0, 0), (1, 1)), curve((0, 1), (1, 0)))
    assert found == Gap(low=0, high=1, mean=0, least=-1, most=1)


def test_the_mean_is_that_of_the_lines_not_of_the_points() -> None:
    """A triangle of height 1 over half of the range 0 to 4: area 1 of a range of 4."""
    found = gap(curve((0, 0), (1, 1), (2, 0), (4, 0)), curve((0, 0), (4, 0)))
    assert found is not None
    assert found.mean == pytest.approx(1 / 4)


def test_only_what_both_reach_is_compared() -> None:
    found = gap(curve((0, 9), (2, 1), (4, 9)), curve((2, 0), (3, 0)))
    assert found == Gap(low=2, high=3, mean=3, least=1, most=5)
    assert gap(curve((0, 1), (1, 1)), curve((2, 1), (3, 1))) is None


def test_two_qualities_at_one_diversity_are_refused() -> None:
    with pytest.raises(ValueError, match="another diversity"):
        gap(curve((0, 1), (0, 2)), curve((0, 1), (1, 1)))


values = st.dictionaries(st.integers(0, 20), st.integers(0, 20), min_size=1).map(lambda found: curve(*found.items()))


@given(values, values)
def test_exchanging_the_curves_changes_the_sign(one: list[Point], other: list[Point]) -> None:
    there, back = gap(one, other), gap(other, one)
    assert (there is None) == (back is None)
    if there and back:
        assert (there.mean, there.least, there.most) == pytest.approx((-back.mean, -back.most, -back.least))
        assert there.least - 1e-9 <= there.mean <= there.most + 1e-9
