"""Who competes in the adversarial stage: the start, and all that came of what was tried, from the simplest on."""

from dataclasses import replace
from typing import NamedTuple

from troupe.models.bundle import Bundle
from troupe.stages.following import Followed
from troupe.stages.tilt import Tilting

START = "start"  # the contender to which nothing was done


class Tried(NamedTuple):
    """What was asked for, and what came of it."""

    tilting: Tilting | None = None
    followed: Followed | None = None

    @property
    def steps(self) -> int:
        """The last in the log: of the game, then of the tilt."""
        game = self.followed.played.game.params.steps if self.followed and self.followed.played else 0
        return game + (len(self.tilting.rounds) if self.tilting else 0)

    def in_vain(self) -> list[str]:
        """Why there are no more contenders."""
        found = []
        if self.tilting and not self.tilting.models:
            found.append(f"tilt: {self.tilting}")
        if self.followed and not self.followed.verdict.signal:
            found.append(str(self.followed.verdict))
        if played := self.followed and self.followed.played:
            if played.outcome.fault:
                found.append(f"the game stopped, for {played.outcome.fault}")
            elif not played.outcome.kept.step:
                found.append("no generator of the game was told less at any look")
        return found


def contenders(start: Bundle, tried: Tried) -> dict[str, Bundle]:
    """The start and, where there are any, the model after each round of its tilt and the refined generator: from the
    simplest on."""
    followed, among = tried.followed, {START: start}
    if tried.tilting:
        among |= {f"tilted_{n}": replace(start, model=model) for n, model in enumerate(tried.tilting.models, 1)}
    if followed and followed.refined is not None:
        among["refined"] = replace(start, model=followed.refined)
    return among
