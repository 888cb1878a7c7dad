"""Means over seeds with their intervals, and differences that are paired by seed.

estimate([3.1, 3.0, 3.2])  # 3.100 ± 0.248: mean and 95 % interval over the seeds
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from scipy.stats import t

from studies.core.jobs import Figures

CONFIDENCE = 0.95
Results = Mapping[str, Sequence[Figures]]  # of every arm the figures of its jobs, one per seed in the same order


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and the half width of its 95 % interval, by Student's t; None for a single seed."""

    mean: float
    half: float | None

    def __format__(self, spec: str) -> str:
        return f"{self.mean:{spec}}" + ("" if self.half is None else f" ± {self.half:{spec.lstrip('+')}}")


def estimate(values: Sequence[float]) -> Estimate:
    """Of one figure per seed. Taken of differences within a seed, it pairs them."""
    if len(values) == 1:
        return Estimate(values[0], None)
    factor = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return Estimate(mean(values), factor * stdev(values) / len(values) ** 0.5)


def over(runs: Sequence[Figures], *path: str) -> Estimate:
    """A figure over seeds, e.g. over(runs, "test", "loss")."""
    values: list[Any] = list(runs)
    for name in path:
        values = [value[name] for value in values]
    return estimate(values)


def pairs(results: Results, name: str, other: str, of: Callable[[Figures], float]) -> list[tuple[float, float]]:
    """A figure of two arms, seed by seed."""
    return [(of(ours), of(theirs)) for ours, theirs in zip(results[name], results[other], strict=True)]


def less(results: Results, name: str, other: str, of: Callable[[Figures], float]) -> Estimate:
    """A figure of one arm less that of another, paired by seed."""
    return estimate([ours - theirs for ours, theirs in pairs(results, name, other, of)])
