"""Textbook claims about GAN and WGAN, and whether the runs bear them out.

A claim says that one arm's figure lies above (or below) another's. It is judged by the 95 % interval of the difference
within seeds: confirmed if the whole interval lies on the side that the claim names, not confirmed if it lies on the
other side, unclear if it holds 0. A claim of several comparisons is confirmed if all of them are, not confirmed if one
is not, else unclear.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from studies.core.statistics import Estimate, estimate
from studies.gan.arms import Part
from studies.gan.runs import Run, Runs, left_of_gradient, meaning, success_by_seed

Verdict = Literal["confirmed", "not confirmed", "unclear"]
WASSERSTEIN = ("wgan", "wgan-gp")


@dataclass(frozen=True)
class Comparison:
    """`better` minus `worse`, in the direction of the claim: positive bears it out."""

    what: str
    better: str
    worse: str
    difference: Estimate

    @property
    def verdict(self) -> Verdict:
        mean, half = self.difference.mean, self.difference.half
        if half is None or abs(mean) <= half:
            return "unclear"
        return "confirmed" if mean > 0 else "not confirmed"


@dataclass(frozen=True)
class Claim:
    text: str
    comparisons: Sequence[Comparison]

    @property
    def verdict(self) -> Verdict:
        verdicts = {comparison.verdict for comparison in self.comparisons}
        if verdicts == {"confirmed"}:
            return "confirmed"
        return "not confirmed" if "not confirmed" in verdicts else "unclear"


def claims(runs: Runs, mixtures: Sequence[str], success: float) -> list[Claim]:
    """The five; `success` is the share of its first distance that a run has to come down to."""
    return [
        Claim(
            "Mode collapse: a GAN drops modes that a Wasserstein critic keeps",
            [_over_seeds(runs, f"modes, {name}", _modes, "main", arm, "gan", name) for name, arm in _each(mixtures)],
        ),
        Claim(
            "Vanishing gradients: a strong discriminator leaves the minimax generator without a gradient; the "
            "non-saturating loss and a Wasserstein critic leave it one",
            [
                _over_seeds(runs, "log10 of the gradient left", left_of_gradient, "strong_critic", arm, "gan-minimax")
                for arm in ("gan", *WASSERSTEIN)
            ],
        ),
        Claim(
            "Meaningful loss: a Wasserstein critic's loss tells sample quality, a GAN's does not",
            [
                _over_seeds(runs, f"correlation, {name}", meaning, "main", arm, "gan", name)
                for name, arm in _each(mixtures)
            ],
        ),
        Claim(
            "Stability: a Wasserstein critic works at more learning rates",
            [_stable(runs, arm, success) for arm in WASSERSTEIN],
        ),
        Claim(
            "Cost: an epoch with a Wasserstein critic takes longer",
            [
                _over_seeds(runs, f"log2 of seconds, {name}", _cost, "main", arm, "gan", name)
                for name, arm in _each(mixtures)
            ],
        ),
    ]


def _each(mixtures: Sequence[str]) -> list[tuple[str, str]]:
    return [(mixture, arm) for mixture in mixtures for arm in WASSERSTEIN]


def _over_seeds(
    runs: Runs,
    what: str,
    figure: Callable[[Run], float],
    part: Part,
    better: str,
    worse: str,
    mixture: str | None = None,
) -> Comparison:
    ours, theirs = (sorted(runs.of(part, arm, mixture), key=lambda run: run.seed) for arm in (better, worse))
    differences = [figure(one) - figure(other) for one, other in zip(ours, theirs, strict=True)]
    return Comparison(what, better, worse, estimate(differences))


def _stable(runs: Runs, arm: str, success: float) -> Comparison:
    ours, theirs = (success_by_seed(runs.of("sweep", name), success) for name in (arm, "gan"))
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    return Comparison("share of learning rates", arm, "gan", estimate(differences))


def _modes(run: Run) -> float:
    return run.end("modes")


def _cost(run: Run) -> float:
    return math.log2(run.figures["seconds"])
