"""Which generator is kept, and how a collapse is noticed. The training discriminator does not choose.

A discriminator is no judge of the generator that was trained against it, and the lowest likelihood loss would nearly
always choose the model of step 0. So training goes on while the generator stays within bounds of where it started, in
likelihood on held-out text and in variety; at the first look outside it stops.
Of the looks within bounds, the start among them, the one that a validation judge finds best is kept; without such a
judge, the last. Whether that one is *better* is for the independent judge of test text to say: the least of several
noisy figures is too low.

Shapes: B sequences, S generated tokens.
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Look:
    """The generator and its discriminator on validation text, after `step` generator updates."""

    step: int
    bpb: float  # bits per UTF-8 byte of the text; lower is better
    distinct_2: float  # of the generated continuations; the real ones' value is the good one
    auc: float  # of the discriminator; 0.5 = it cannot tell real from generated
    auc_low: float  # lower limit of its 95 % interval
    gap: float  # mean score of real minus generated text, in the objective's own unit
    kl: float = 0.0  # KL(generator || start) in nats per generated token
    judge: float | None = None  # accuracy of a judge that trained on neither player; 0.5 is best; None: not asked

    def figures(self) -> dict[str, float]:
        """As they are logged."""
        figures = {
            "val/bpb": self.bpb,
            "val/distinct_2": self.distinct_2,
            "val/kl": self.kl,
            "critic/auc": self.auc,
            "critic/gap": self.gap,
        }
        return figures if self.judge is None else {**figures, "val/judge": self.judge}

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
    """How far a generator may go from where it started and still be kept."""

    max_bpb_rise: float  # as a share of the start's
    min_distinct: float  # different token pairs, as a share of the start's
    min_auc: float = 0.0  # that the discriminator must have at the start, by its lower limit


def fault(look: Look, start: Look, bounds: Bounds) -> str | None:
    """What forbids keeping the generator of this look, in one line; None if nothing does."""
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
    """Why the game is not worth playing, in one line: a generator would follow noise. None if it is."""
    if start.auc_low > bounds.min_auc:
        return None
    return (
        f"no signal: critic/auc is {start.auc:.3f}, at least {start.auc_low:.3f}, against a bar of {bounds.min_auc:.3f}"
    )


def better(look: Look, kept: Look) -> bool:
    """Whether the generator of a later look takes the place of the one kept: if the judge finds it better, or if there
    is no judge."""
    return look.judge is None or kept.judge is None or look.judge < kept.judge
