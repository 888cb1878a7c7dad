"""Confidence intervals of means over correlated windows of text.

Shapes: M windows, G groups of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

NEIGHBOURS = 32  # windows in a stretch of text that counts as one: 4096 bytes when a window has 128
FEWEST_STRETCHES = 8


@dataclass(frozen=True)
class Clustered:
    """A mean of correlated values; its 95 % interval is mean ± reach."""

    mean: float
    standard_error: float
    reach: float


def clustered(values: Sequence[np.ndarray], places: Sequence[np.ndarray], least_variance: float) -> Clustered:
    """The mean of what every repetition found for its windows, known for other real text and other generated text.

    The repetitions share the real text, and windows near each other share a subject, so they are not independent. The
    variance is that between stretches of text (which holds the binomial error) plus that between repetitions, each
    with its own degrees of freedom, joined as Welch and Satterthwaite do; it is at least `least_variance`. One
    repetition knows nothing of the second part. The real text that the judge was trained on is taken as given.
    """
    value_M = np.concatenate(values).astype(float)
    mean = float(value_M.mean())
    repetition_M = np.repeat(np.arange(len(values)), [len(one) for one in values])
    parts = [
        _clustered_variance(value_M - mean, group_M) for group_M in (_stretches(np.concatenate(places)), repetition_M)
    ]
    variance = max(sum(v for v, _ in parts), least_variance)
    freedom = variance**2 / max(sum(v**2 / df for v, df in parts if df), 1e-300)
    standard_error = math.sqrt(variance)
    return Clustered(mean, standard_error, float(stats.t.ppf(0.975, max(freedom, 1.0))) * standard_error)


def _stretches(place_M: np.ndarray) -> np.ndarray:
    """(M,) the number of the stretch that each window lies in: neighbours together, in at least eight stretches."""
    places, index_M = np.unique(place_M, return_inverse=True)
    return np.asarray(index_M // max(1, min(NEIGHBOURS, len(places) // FEWEST_STRETCHES)))


def _clustered_variance(residual_M: np.ndarray, group_M: np.ndarray) -> tuple[float, int]:
    """The variance of a mean whose terms are correlated within groups (Liang and Zeger 1986), and G - 1."""
    _, index_M = np.unique(group_M, return_inverse=True)
    sum_G = np.bincount(index_M, weights=residual_M)
    groups = len(sum_G)
    if groups == 1:
        return 0.0, 0
    return float(groups / (groups - 1) * (sum_G**2).sum() / len(residual_M) ** 2), groups - 1
