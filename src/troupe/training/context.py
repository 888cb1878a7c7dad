"""What every training is given beside its model, text and parameters."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

from torch import nn

from troupe.training.checkpoint import Checkpoint
from troupe.training.loss import Autocast
from troupe.training.parallel import Team


def _ignored(*_: object) -> None:
    """Nobody asked for it."""


def _never() -> int:
    return 0


@dataclass(frozen=True)
class RunContext:
    """How to compute, where figures and checkpoints go, and when to stop. By default: in float32, without a trace."""

    autocast: Autocast = nullcontext  # the precision of a forward pass
    compiled: bool = False  # whether torch.compile fuses forward and backward passes
    team: Team | None = None  # the processes that train together; None: this one alone, on the model's device
    log: Callable[[int, Mapping[str, float]], None] = _ignored  # called with the number of a step and its figures
    save: Callable[[Checkpoint], None] = _ignored
    resume: Checkpoint | None = None  # the newest that `save` was called with before
    interrupted: Callable[[], int] = _never  # the number of the signal that asks to stop, 0 for none

    def team_of(self, model: nn.Module) -> Team:
        """The processes that train `model`."""
        return self.team or Team(device=next(model.parameters()).device)
