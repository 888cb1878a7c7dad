"""Tolerances from arithmetic: from the number format, or from how far apart equal computations lie on this machine.

Another processor, library or number of threads adds the same numbers in another order, and rounds differently.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from troupe.data.batches import Batches
from troupe.seeding import generator

ORDERS = 4
# What one more order may be off by, in units of the worst of ORDERS: training multiplies a difference, so its logarithm
# is what spreads evenly, and e^2 is some two standard deviations of it.
BEYOND = 8


def roundings(n: float, size: float = 1.0, dtype: torch.dtype = torch.float32) -> float:
    """How far apart two results of `size` may lie that were each rounded to `dtype` n times, by half an eps at most."""
    return n * torch.finfo(dtype).eps * size


class Reordered(Batches):
    """The batches of another, the sequences of each in another order: what is a mean over them is the same mean."""

    def __init__(self, batches: Batches, order: int) -> None:
        super().__init__(batches.ids, batches.block_size, batches.batch_size, batches.seed)
        self.order = order

    def batches(self, step: int) -> tuple[Tensor, Tensor]:
        return _in_order(super().batches(step), self.order, step)


@contextmanager
def every_batch_reordered(order: int) -> Iterator[None]:
    """The same for whatever is trained inside."""
    batches = Batches.batches
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batches, "batches", lambda self, step: _in_order(batches(self, step), order, step))
        yield


def _in_order(batch: tuple[Tensor, Tensor], order: int, step: int) -> tuple[Tensor, Tensor]:
    x_BT, y_BT = batch
    order_B = torch.randperm(len(x_BT), generator=generator(order, "order", step))
    return x_BT[order_B], y_BT[order_B]


def rounded_share(n: int, dtype: torch.dtype) -> float:
    """How far n roundings in a row may take a tensor, as a share of its norm: four standard deviations of n independent
    ones, each even over an eps."""
    return 4 * torch.finfo(dtype).eps * math.sqrt(n / 12)


def roundings_of_forward(n_layer: int) -> int:
    """In a row, of a transformer's forward pass: nine a layer (the outputs of the two norms, of the projections into
    attention, of attention, of its projection out, of the MLP's two products and its activation, and a sum), then
    those of the last norm and of the logits."""
    return 9 * n_layer + 2


def tolerance(apart_N: Tensor, figures_N: Tensor) -> float:
    """How far another equal computation may be off at any step of a training, where some are off by apart_N.

    At any: a difference grows from step to step, but not every order makes its first one at the same step.
    """
    return float(BEYOND * (apart_N.max() + roundings(1, dtype=figures_N.dtype) * figures_N.abs().max()))


def spread(figures: Callable[[Batches], Tensor], batches: Batches) -> tuple[Tensor, float]:
    """Figures of a training, means over batches, one a step, and the tolerance for them that orders of them give."""
    expected_N = figures(batches)
    found_N = [(figures(Reordered(batches, order)) - expected_N).abs() for order in range(ORDERS)]
    return expected_N, tolerance(torch.stack(found_N), expected_N)
