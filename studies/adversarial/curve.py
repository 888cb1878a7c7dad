"""Quality against diversity over temperatures: two models are compared where they are equally diverse.

M. Caccia et al. 2020, "Language GANs Falling Short", section 3: one temperature trades quality for diversity, so that
any single figure can be bought; a model is better only if its whole curve is.

Both figures must be such that lower is better: bits under an independent model for quality, and reverse bits or
self-BLEU for diversity, say.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Point:
    """A model's texts at one temperature."""

    temperature: float
    quality: float
    diversity: float


@dataclass(frozen=True)
class Gap:
    """Quality of one model less that of another, over the diversities that both reach; below 0 the one is better."""

    low: float  # the diversities from here
    high: float  # to there
    mean: float
    least: float
    most: float


def gap(one: Sequence[Point], other: Sequence[Point]) -> Gap | None:
    """Interpolate both curves linearly between their points; None where no diversity is reached by both.

    The mean is exact for such curves. Raises ValueError if a curve has two qualities at one diversity.
    """
    curves = [_curve(points) for points in (one, other)]
    low, high = max(d[0] for d, _ in curves), min(d[-1] for d, _ in curves)
    if low > high:
        return None
    corners = np.unique(np.concatenate([[low, high], *(d[(d > low) & (d < high)] for d, _ in curves)]))
    first, second = (np.interp(corners, d, q) for d, q in curves)
    difference = first - second
    mean = np.trapezoid(difference, corners) / (high - low) if high > low else difference[0]
    return Gap(float(low), float(high), float(mean), float(difference.min()), float(difference.max()))


def _curve(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray]:
    """Diversities, ascending, and the quality at each."""
    ordered = sorted(points, key=lambda point: point.diversity)
    diversity = np.array([point.diversity for point in ordered])
    if not len(ordered) or (np.diff(diversity) == 0).any():
        raise ValueError("a curve needs points, each of another diversity")
    return diversity, np.array([point.quality for point in ordered])
