"""Curves over temperature, and whether one lies below another at equal NLL_test.

NLL_test is convex in 1 / temperature (a mean of log-sum-exps less a linear function), so from its lowest point a curve
goes up on either side. What is compared is the colder side, where quality is bought with coverage; on the warmer one
both get worse.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

import numpy as np

from studies.core.statistics import Estimate, Results, estimate

MOVES, BEHIND, SAME, UNCLEAR = "moves the curve", "falls behind the curve", "no better curve shown", "unclear"


class Point(NamedTuple):
    """Both in nats per token; lower is better."""

    temperature: float
    nll_oracle: float
    nll_test: float


Curve = Sequence[Point]  # by rising temperature


def at(curve: Curve, temperature: float) -> Point:
    """Raises StopIteration if the curve was not measured there."""
    return next(point for point in curve if point.temperature == temperature)


def lowest(curve: Curve) -> Point:
    """Where NLL_test is."""
    return min(curve, key=lambda point: point.nll_test)


def colder_side(curve: Curve) -> Curve:
    """From the lowest NLL_test to the coldest."""
    return [point for point in reversed(curve) if point.temperature <= lowest(curve).temperature]


def nll_oracle_at(curve: Curve, nll_test: float) -> float:
    """On the colder side, between two temperatures by a straight line; beyond the ends as at the end."""
    side = colder_side(curve)
    return float(np.interp(nll_test, [point.nll_test for point in side], [point.nll_oracle for point in side]))


def reaching(curve: Curve, nll_oracle: float) -> Point | None:
    """The warmest point, between two temperatures by a straight line, whose NLL_oracle is as low; None if none is."""
    for colder, warmer in reversed(list(pairwise(curve))):
        if colder.nll_oracle <= nll_oracle < warmer.nll_oracle:
            share = (nll_oracle - colder.nll_oracle) / (warmer.nll_oracle - colder.nll_oracle)
            return Point(*(a + share * (b - a) for a, b in zip(colder, warmer, strict=True)))
    return None


def gaps(ours: Curve, theirs: Curve, levels: Sequence[float]) -> list[float]:
    """Our NLL_oracle less theirs where both have an NLL_test that lies by each of `levels` above the higher of the two
    lowest: below 0, ours is the better curve there."""
    start = max(lowest(ours).nll_test, lowest(theirs).nll_test)
    return [nll_oracle_at(ours, start + level) - nll_oracle_at(theirs, start + level) for level in levels]


@dataclass(frozen=True)
class Comparison:
    """An arm against the likelihood model that it started from, paired by seed; all in nats per token."""

    by_level: Sequence[Estimate]  # of `gaps`
    gap: Estimate  # mean over the levels
    nll_oracle: Estimate  # the arm's at temperature 1 less that of likelihood
    nll_test: Estimate
    lowest_test: Estimate  # the arm's lowest NLL_test over temperatures less that of likelihood

    @property
    def verdict(self) -> str:
        """By the 95 % interval of the gap: below 0, above 0, or neither."""
        mean, half = self.gap.mean, self.gap.half
        if half is None:
            return UNCLEAR
        if abs(mean) <= half:
            return SAME
        return MOVES if mean < 0 else BEHIND


def compare(ours: Sequence[Curve], theirs: Sequence[Curve], levels: Sequence[float]) -> Comparison:
    """Curves of equal seeds, in the same order."""
    pairs = list(zip(ours, theirs, strict=True))
    by_seed = [gaps(one, other, levels) for one, other in pairs]
    return Comparison(
        by_level=[estimate(of_level) for of_level in zip(*by_seed, strict=True)],
        gap=estimate([fmean(of_seed) for of_seed in by_seed]),
        nll_oracle=estimate([at(one, 1.0).nll_oracle - at(other, 1.0).nll_oracle for one, other in pairs]),
        nll_test=estimate([at(one, 1.0).nll_test - at(other, 1.0).nll_test for one, other in pairs]),
        lowest_test=estimate([lowest(one).nll_test - lowest(other).nll_test for one, other in pairs]),
    )


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Over seeds, temperature by temperature."""
    return [Point(*(fmean(values) for values in zip(*points, strict=True))) for points in zip(*curves, strict=True)]


def curves_of(results: Results, name: str) -> list[Curve]:
    return [[Point(**point) for point in figures["curve"]] for figures in results[name]]
