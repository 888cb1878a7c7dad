"""Token ids to training batches. B sequences, T tokens of context (block_size).

An epoch cuts the ids into windows of T + 1 tokens that share one token with their neighbour (the last target of one is
the first input of the next), beginning at a random offset, and visits them in a random order. The offset changes from
epoch to epoch, so that the same tokens meet other contexts; fewer than 2 T tokens at the two ends sit an epoch out.
"""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from troupe.data.dataset import Ids, Shards
from troupe.errors import CorpusError
from troupe.seeding import generator


class Batches:
    """Batches as a pure function of the step: a run that resumes at step n sees what it would have seen."""

    def __init__(self, ids: Ids | Shards, block_size: int, batch_size: int, seed: int) -> None:
        """Raises CorpusError if `ids` do not fill one window."""
        if len(ids) < block_size + 1:
            raise CorpusError(
                f"a split of {len(ids)} tokens is shorter than model.block_size + 1 = {block_size + 1}; "
                "lower model.block_size or bring more text"
            )
        self.ids, self.block_size, self.batch_size, self.seed = ids, block_size, batch_size, seed
        self.windows_per_epoch = max(1, len(ids) // block_size - 1)
        self._greatest_offset = len(ids) - 1 - self.windows_per_epoch * block_size
        self._starts = lru_cache(maxsize=2)(self._draw_starts)  # a batch may straddle two epochs

    def batches(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch of a step as (x_BT, y_BT), int64; y is x one token later."""
        drawn_B = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs_B, places_B = np.divmod(drawn_B, self.windows_per_epoch)
        starts_B = np.array([self._starts(int(epoch))[place] for epoch, place in zip(epochs_B, places_B, strict=True)])
        window_BT1 = self.ids[starts_B[:, None] + np.arange(self.block_size + 1)].astype(np.int64)
        return torch.from_numpy(window_BT1[:, :-1].copy()), torch.from_numpy(window_BT1[:, 1:].copy())

    def _draw_starts(self, epoch: int) -> NDArray[np.int64]:
        rng = generator(self.seed, "batches", epoch)
        offset = int(torch.randint(self._greatest_offset + 1, (), generator=rng))
        order: NDArray[np.int64] = torch.randperm(self.windows_per_epoch, generator=rng).numpy()
        return offset + order * self.block_size
