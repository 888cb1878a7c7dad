"""How a generator is measured during a game, how far it may go from its start, and how a collapse is noticed.

A discriminator is no judge of the generator that was trained against it, and the lowest likelihood loss would nearly
always choose the model of step 0. So training goes on while the generator stays within bounds of where it started, in
likelihood on held-out text and in variety; it stops at the first measurement outside. The last generator within bounds
is the game's candidate. Whether it is better than the start is decided by independent judges (judging/selection.py).

Shapes: B sequences, S generated tokens.
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Look:
    """The generator on validation text, after `step` generator updates, and its discriminator if there is one."""

    step: int
    bpb: float  # bits per UTF-8 byte of the text; lower is better
    distinct_2: float  # of the generated continuations; the real ones' value is the good one
    kl: float = 0.0  # KL(generator || start) in nats per generated token
    auc: float | None = None  # of the discriminator; 0.5 = it cannot tell real from generated
    auc_low: float | None = None  # lower limit of its 95 % interval
    gap: float | None = None  # mean score of real minus generated text, in the objective's own unit

    def figures(self) -> dict[str, float]:
        """As they are logged."""
        figures = {"val/bpb": self.bpb, "val/distinct_2": self.distinct_2, "val/kl": self.kl}
        if self.auc is not None and self.gap is not None:
            figures |= {"critic/auc": self.auc, "critic/gap": self.gap}
        return figures

    def facts(self) -> dict[str, float | None]:
        """As they are stored; `Look(**facts)` reads them back."""
        return asdict(self)


def distinct_2(ids_BS: Tensor) -> float:
    """Different pairs of neighbouring tokens / all pairs, over all sequences together; 1 if no pair occurs twice.

    It falls as sequences are added, so compare equal amounts only.
    """
    pairs_N2 = torch.stack([ids_BS[:, :-1], ids_BS[:, 1:]], dim=-1).flatten(0, 1)
    return len(torch.unique(pairs_N2, dim=0)) / max(1, len(pairs_N2))


@dataclass(frozen=True)
class Bounds:
    """How far a generator may go from where it started."""

    max_bpb_rise: float  # as a share of the start's
    min_distinct: float  # different token pairs, as a share of the start's
    min_auc: float = 0.0  # that the discriminator must have at the start, by its lower limit


def fault(look: Look, start: Look, bounds: Bounds) -> str | None:
    """Which bound the generator of this look is beyond, in one line; None if it is within all."""
    if not math.isfinite(look.bpb):
        return f"val/bpb is {look.bpb} at step {look.step}"
    limits = {
        "val/bpb": (look.bpb, "above", start.bpb * (1 + bounds.max_bpb_rise)),
        "val/distinct_2": (look.distinct_2, "below", start.distinct_2 * bounds.min_distinct),
    }
    for name, (value, side, bound) in limits.items():
        if value > bound if side == "above" else value < bound:
            return f"{name} is {value:.4f} at step {look.step}, {side} the bound of {bound:.4f}"
    return None


def no_signal(start: Look, bounds: Bounds) -> str | None:
    """Why the game is not worth playing, in one line: a generator would be trained on noise. None if it is."""
    if start.auc is None or start.auc_low is None or start.auc_low > bounds.min_auc:
        return None
    return (
        f"no signal: critic/auc is {start.auc:.3f}, at least {start.auc_low:.3f}, against a bar of {bounds.min_auc:.3f}"
    )
