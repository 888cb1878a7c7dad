"""The finished runs of the study of adversarial objectives, and the figures that its claims and tables are made of."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from scipy.stats import spearmanr

from studies.core.jobs import Figures
from studies.gan.arms import Part, Task

FAINT = 1e-12  # a gradient norm below the precision of float32: it counts as this one


@dataclass(frozen=True)
class Run:
    arm: str
    task: Task
    seed: int
    figures: Figures

    def end(self, name: str) -> float:
        """Of the last look."""
        return float(self.figures["looks"][-1][name])


@dataclass(frozen=True)
class Runs:
    all: Sequence[Run]

    def of(self, part: Part, arm: str, mixture: str | None = None) -> list[Run]:
        """In the order of their seeds, and of their learning rates within a sweep."""
        return [
            run for run in self.all if (run.task.part, run.arm) == (part, arm) and mixture in (None, run.task.mixture)
        ]

    def records(self) -> Iterator[dict[str, Any]]:
        """What stands in the file of raw results: all but the points that the figure shows."""
        for run in self.all:
            figures = {name: value for name, value in run.figures.items() if name != "points"}
            yield {"arm": run.arm, "seed": run.seed, "task": run.task.model_dump(), **figures}


def meaning(run: Run) -> float:
    """Spearman's correlation of minus the critic's loss with the distance to real points, over all looks but the first.

    The loss is minus an estimate of a divergence, up to a constant, so 1 is a loss that ranks quality without fault.
    0 if either stood still: a constant curve has no rank.
    """
    looks = run.figures["looks"][1:]
    losses, distances = [-one["loss"] for one in looks], [one["distance"] for one in looks]
    if min(len(set(losses)), len(set(distances))) < 2:
        return 0.0
    return float(spearmanr(losses, distances).statistic)


def left_of_gradient(run: Run) -> float:
    """log10 of the generator's gradient norm at the end, as a share of its peak: 0 is all of it, -3 a thousandth."""
    norms = [max(norm, FAINT) for _, norm in run.figures["norms"]]
    return math.log10(norms[-1] / max(norms))


def succeeded(run: Run, share: float) -> bool:
    first, last = run.figures["looks"][0], run.figures["looks"][-1]
    return bool(last["distance"] <= share * first["distance"])


def success_by_seed(runs: Sequence[Run], share: float) -> list[float]:
    """Of each seed, the share of the learning rates at which it succeeded."""
    seeds = sorted({run.seed for run in runs})
    return [mean(succeeded(run, share) for run in runs if run.seed == seed) for seed in seeds]
