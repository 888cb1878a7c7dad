"""The one rule for selection: which of several models is kept, by paired comparisons on validation text.

All generators continue the same real text (protocol.py), so that two of them are compared window by window: what makes
a place easy or hard cancels, and the difference of two accuracies is known better than either. The more complex model
replaces the simpler one if the 95 % interval of that difference lies above 0, so that it is detected less often; or if
it predicts validation text with clearly fewer bits, and is not detected more often by two standard errors. A model that
needs clearly more bits never replaces another, however seldom it is detected; and none is selected, by way of others,
that is detected clearly more often than the first or needs clearly more bits. Of equals the simpler is kept. How good
it is, stage evaluate measures on test text: a figure by which a model was picked looks too good.

An interval of 95 %, because one standard error is passed by chance in one case of six: then a stage that never improved
anything would still replace the model time and again. With few repetitions it reaches beyond two errors (Student's t).
Bits have hardly any noise beside that: all models predict every token of one text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from troupe.judging.two_sample import Judged, clustered

ERRORS = 2  # standard errors of the difference by which a model that saves bits must not fall behind


@dataclass(frozen=True)
class Candidate:
    """A model that may be selected, by its figures on validation text."""

    bpb: float  # bits per byte
    judged: Judged

    def facts(self) -> dict[str, Any]:
        """As they are stored."""
        return {"judge": self.judged.worst, **self.judged.detection.model_dump(), "bpb": self.bpb}


@dataclass(frozen=True)
class PairedComparison:
    """How much less often a candidate is detected than the simpler one that it may replace, and the bits it saves."""

    candidate: str
    against: str
    lead: float  # share of windows
    standard_error: float
    reach: float  # the 95 % interval is lead ± reach
    saved: float  # share of the simpler one's bits per byte
    margin: float  # a share of bits, saved or lost, that counts

    @property
    def detected_less(self) -> bool:
        return self.lead > self.reach

    @property
    def detected_more(self) -> bool:
        return self.lead < -ERRORS * self.standard_error

    @property
    def costs_bits(self) -> bool:
        """Also if there is no saying how many."""
        return not self.saved >= -self.margin

    @property
    def saves_bits(self) -> bool:
        return self.saved > 0 and self.saved >= self.margin

    @property
    def better(self) -> bool:
        return not self.costs_bits and (self.detected_less or (self.saves_bits and not self.detected_more))

    def __str__(self) -> str:
        how_often = f"{'more' if self.lead < 0 else 'less'} often than {self.against}"
        errors = f"± {self.reach:.3f}, standard error {self.standard_error:.3f}"
        found = f"{self.candidate} is detected {how_often}, by {abs(self.lead):.3f} ({errors})"
        bits = f"needs {abs(self.saved):.1%} {'fewer' if self.saved > 0 else 'more'} bits"
        return f"{found}, and {bits}: {self._conclusion()}"

    def _conclusion(self) -> str:
        if self.costs_bits:
            return "too many bits"
        if self.detected_less:
            return "better"
        if self.detected_more:
            return "worse"
        return "detected as often, it predicts better" if self.better else "no clear difference"

    def facts(self) -> dict[str, Any]:
        """As they are stored."""
        return {**asdict(self), "better": self.better}


@dataclass(frozen=True)
class Selection:
    """The name of the selected candidate, and the comparisons that led to it."""

    selected: str
    comparisons: Sequence[PairedComparison]

    @property
    def reason(self) -> str:
        return "; ".join(map(str, self.comparisons))


def select(candidates: Mapping[str, Candidate], margin: float) -> Selection:
    """From the simplest candidate on, each against the one that is selected so far.

    `margin` is the share of bits per byte that counts as a difference.
    """
    first, *others = candidates
    selected, comparisons = first, list[PairedComparison]()
    for name in others:
        found = [compare(selected, name, candidates, margin)]
        if found[0].better and selected != first:  # small steps must not lead to what one step may not
            found.append(compare(first, name, candidates, margin))
        comparisons += found
        if found[0].better and not any(one.detected_more or one.costs_bits for one in found):
            selected = name
    return Selection(selected, comparisons)


def compare(simpler: str, other: str, candidates: Mapping[str, Candidate], margin: float) -> PairedComparison:
    """The difference of two candidates' accuracies, each by the family that detects it best, and of their bits.

    Window by window and repetition by repetition; the error is that of `clustered`, at least what independent
    differences would have.
    """
    one, two = candidates[simpler], candidates[other]
    pairs = [*zip(*(it.judged.predictions[it.judged.worst] for it in (one, two)), strict=True)]
    lead_M = [mine.correct.astype(float) - its.correct for mine, its in pairs]
    every_M = np.concatenate(lead_M)
    above_half = [max(0.5, it.judged.detection.accuracy) for it in (one, two)]
    lead = above_half[0] - above_half[1]  # accuracies below one half are those of a guess: there is nothing to gain
    found = clustered(lead_M, [mine.windows.place for mine, _ in pairs], float(every_M.var() / len(every_M)))
    return PairedComparison(other, simpler, lead, found.standard_error, found.reach, 1 - two.bpb / one.bpb, margin)
