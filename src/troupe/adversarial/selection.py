"""Which generator is kept, and how a collapse is noticed. The training discriminator has no say in it.

A discriminator is no judge of the generator that was trained against it, and the lowest likelihood loss would nearly
always choose the model of step 0. So the rule is one that neither can bend: training goes on while the generator stays
close to where it started, in likelihood on held-out text and in variety; at the first look that finds it outside these
bounds it stops, and the generator of the look before is kept. Whether that one is *better* is for the independent
judge of the evaluate stage to say.

Shapes: B sequences, S generated tokens.
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from troupe.params import AdversarialParams


@dataclass(frozen=True)
class Look:
    """The generator and its discriminator on validation text, after `step` generator updates."""

    step: int
    bpb: float  # bits per UTF-8 byte of the text; lower is better
    distinct_2: float  # of the generated continuations; the real ones' value is the good one
    auc: float  # of the discriminator; 0.5 = it cannot tell real from generated
    gap: float  # mean score of real minus generated text, in the objective's own unit

    def figures(self) -> dict[str, float]:
        """As they are logged."""
        return {
            "val/bpb": self.bpb,
            "val/distinct_2": self.distinct_2,
            "critic/auc": self.auc,
            "critic/gap": self.gap,
        }

    def facts(self) -> dict[str, float]:
        """As they are stored; `Look(**facts)` reads them back."""
        return asdict(self)


def auc(real_B: Tensor, fake_B: Tensor) -> float:
    """The probability that a real sequence scores above a generated one, ties counting half (Mann & Whitney 1947)."""
    difference_BB = (real_B.unsqueeze(1) - fake_B).double()
    return torch.heaviside(difference_BB, difference_BB.new_tensor(0.5)).mean().item()


def distinct_2(ids_BS: Tensor) -> float:
    """Different pairs of neighbouring tokens / all pairs, over all sequences together; 1 if no pair occurs twice.

    It falls as sequences are added, so compare equal amounts only.
    """
    pairs_N2 = torch.stack([ids_BS[:, :-1], ids_BS[:, 1:]], dim=-1).flatten(0, 1)
    return len(torch.unique(pairs_N2, dim=0)) / max(1, len(pairs_N2))


def fault(look: Look, start: Look, params: AdversarialParams) -> str | None:
    """What forbids keeping the generator of this look, in one line; None if nothing does."""
    highest, lowest = start.bpb * (1 + params.max_bpb_rise), start.distinct_2 * params.min_distinct
    if not math.isfinite(look.bpb):
        return f"val/bpb is {look.bpb} at step {look.step}"
    if look.bpb > highest:
        return f"val/bpb is {look.bpb:.4f} at step {look.step}, above the bound of {highest:.4f}"
    if look.distinct_2 < lowest:
        return f"val/distinct_2 is {look.distinct_2:.4f} at step {look.step}, below the bound of {lowest:.4f}"
    return None
