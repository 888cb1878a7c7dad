"""A discriminator in the adversarial stage, and who follows it: first its lessons, then a game, if one is asked for.

Without a signal there is nothing to follow, and nothing is played.
"""

from dataclasses import dataclass, replace
from typing import Any

from troupe.adversarial.discrimination import Verdict
from troupe.adversarial.game import Game
from troupe.adversarial.loop import Judge, Outcome, Validate
from troupe.adversarial.selection import distinct_2, no_signal
from troupe.compute import torch_threads
from troupe.data.dataset import TokenDataset
from troupe.models.bundle import Bundle
from troupe.models.gpt2 import GPT
from troupe.models.reader import Discriminator
from troupe.params import Params
from troupe.stages.critic import taught
from troupe.stages.game import NAME, Table, learning, new_game
from troupe.stages.reference import digest
from troupe.training.interruption import signals_noted

Figures = dict[str, Any]


@dataclass(frozen=True)
class Played:
    """A game that is over."""

    game: Game
    outcome: Outcome

    def facts(self, chosen: str) -> Figures:
        """How it went, and the looks at the start and at the contender that is chosen, if the game has looked at it."""
        start = self.outcome.start
        look = {"start": start, "refined": self.outcome.kept}.get(chosen)
        continued_BS = self.game.held_out_BT[:, self.game.params.prompt_length :]
        return {
            "steps": self.game.params.steps,
            "stopped": self.outcome.fault,
            "collapsed": self.outcome.fault is not None and no_signal(start, self.game.bounds) is None,
            "kept_step": look.step if look else 0,
            **{f"start/{name}": value for name, value in start.figures().items()},
            **({f"kept/{name}": value for name, value in look.figures().items()} if look else {}),
            "real/val/distinct_2": distinct_2(continued_BS),
        }


@dataclass(frozen=True)
class Followed:
    """The discriminator that knows the start, what it found, and the game, if there was one."""

    first: Discriminator
    verdict: Verdict
    played: Played | None = None

    @property
    def refined(self) -> GPT | None:
        """The generator that the game kept, if that is not the start."""
        return self.played.game.generator if self.played and self.played.outcome.kept.step else None

    @property
    def last(self) -> Discriminator:
        """The one that knows the refined generator."""
        return replace(self.first, critic=self.played.game.critic) if self.played else self.first

    def facts(self, chosen: str) -> Figures:
        """As they are stored; `chosen`: the name of the contender."""
        return {
            "signal": self.verdict.signal,
            "discriminator": str(self.verdict),
            "discriminator/auc": self.verdict.interval.auc,
            "discriminator/auc_low": self.verdict.interval.low,
            "discriminator/auc_high": self.verdict.interval.high,
            **self.references(),
            **(self.played.facts(chosen) if self.played else {}),
        }

    def references(self) -> dict[str, str]:
        """The digest of the reference that this stage trains."""
        return {"small_reference_weights_sha256": digest(self.first.features.references[-1])}


def follow(
    expert: Bundle,
    dense: Bundle,
    data: TokenDataset,
    judge: Judge,
    bits_per_byte: Validate,
    table: Table,
    params: Params,
) -> Followed:
    """Teach a discriminator of the expert model's texts; if it has a signal and `learn` says so, play.

    Raises Interrupted: during the lessons nothing is saved, the game goes on where it was.
    """
    settings = params.adversarial
    with signals_noted("while the discriminator learned"):
        discriminator, verdict = taught(expert, dense, data, params)
    print(f"{NAME}: {verdict}", flush=True)
    if settings.learn == "none" or not verdict.signal:
        return Followed(discriminator, verdict)
    game = new_game(expert, discriminator, data, params)
    with torch_threads(settings.threads):  # not run.threads: params.yaml says why
        outcome = table.play(game, bits_per_byte, learning(game.start, settings), judge)
    return Followed(discriminator, verdict, Played(game, outcome))
