"""Which contender the adversarial stage keeps.

All write at the same places beside the same real texts (hearing.py), so that two of them are compared window by window:
what makes a place easy or hard to tell cancels, and the difference is known better than either accuracy. The more
complex one takes the place of the simpler if it is told less by more than two standard errors of that difference; or if
it is told neither less nor more by so much, and validation text costs it clearly fewer bits. Whom it costs clearly more
bits never wins, however seldom it is told. Of equals the simpler is kept. How good it is, is for the evaluate stage to
say, on test text: whoever was picked by a noisy figure looks too good.

Two, because one is passed by chance in one case of six: then a stage that never improved anything would still replace
the model time and again. Bits are hardly noisy beside that: all predict the same text, every token of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from troupe.evaluation.realism import clustered
from troupe.stages.contenders import START
from troupe.stages.hearing import Figures, Hearing

ERRORS = 2  # standard errors of the difference by which a more complex contender must lead


@dataclass(frozen=True)
class Duel:
    """By how much less a contender is told than the simpler one that it challenges, and how many bits it saves."""

    contender: str
    against: str
    lead: float  # share of windows
    standard_error: float
    saved: float | None = None  # share of the simpler one's bits per byte of validation text
    margin: float = 0.0  # as large a share, saved or lost, counts

    @property
    def told_less(self) -> bool:
        return self.lead > ERRORS * self.standard_error

    @property
    def told_more(self) -> bool:
        return self.lead < -ERRORS * self.standard_error

    @property
    def cheaper(self) -> bool:
        """Told as often, so far as one can see, and saves bits."""
        return not self.told_more and self.saved is not None and self.saved > 0 and self.saved >= self.margin

    @property
    def too_dear(self) -> bool:
        return self.saved is not None and self.saved < -self.margin

    @property
    def won(self) -> bool:
        return (self.told_less or self.cheaper) and not self.too_dear

    def __str__(self) -> str:
        told = f"{'more' if self.lead < 0 else 'less'} often than {self.against}"
        found = f"{self.contender} is told {told}, by {abs(self.lead):.3f} ± {self.standard_error:.3f}"
        if self.saved is not None:
            found += f", and costs {abs(self.saved):.1%} {'fewer' if self.saved > 0 else 'more'} bits"
        return f"{found}: {self.why()}"

    def why(self) -> str:
        if self.too_dear:
            return "it costs too many bits"
        if self.told_less:
            return "it is better"
        if self.told_more:
            return "it is worse"
        return "told as often, it predicts better" if self.won else "not enough"

    def facts(self) -> Figures:
        """As they are stored."""
        return {**asdict(self), "won": self.won}


def duels(heard: Mapping[str, Hearing], margin: float) -> list[Duel]:
    """From the simplest on, each against the one that is kept so far: one fewer than there are contenders."""
    fought: list[Duel] = []
    for name in list(heard)[1:]:
        fought.append(duel(kept(heard, fought), name, heard, margin))
    return fought


def kept(heard: Mapping[str, Hearing], fought: Sequence[Duel]) -> str:
    """Whoever won last; else the simplest, which nobody needs to hear if it is alone."""
    return next((one.contender for one in reversed(fought) if one.won), next(iter(heard), START))


def duel(simpler: str, other: str, heard: Mapping[str, Hearing], margin: float) -> Duel:
    """The paired difference of two contenders' accuracies, each by the judge that tells it best, and of their bits.

    Window by window and repetition by repetition; the error is that of `realism.clustered`, at least what independent
    differences would have.
    """
    both = list(zip(heard[simpler].rulings, heard[other].rulings, strict=True))
    lead_M = [one.correct.astype(float) - two.correct for one, two in both]
    every_M = np.concatenate(lead_M)
    found = clustered(lead_M, [one.place for one, _ in both], float(every_M.var() / len(every_M)))
    dear, cheap = heard[simpler].bpb, heard[other].bpb
    saved = None if dear is None or cheap is None else 1 - cheap / dear
    return Duel(other, simpler, found.mean, found.standard_error, saved, margin)
