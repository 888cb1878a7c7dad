"""Texts that the adversarial stage learns from: real sequences of a split, and work on them side by side.

Shapes: N sequences, T tokens.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from troupe.compute import torch_threads
from troupe.data.batches import Batches, open_ids
from troupe.data.corpus import Split
from troupe.evaluation.workers import workers
from troupe.layout import TOKENS
from troupe.params import Params
from troupe.seeding import derive_seed
from troupe.stages.progress import track

AT_ONCE = 128  # sequences that a worker writes together
Made = TypeVar("Made")
Purpose = tuple[str | int, ...]


def sequences(split: Split, length: int, n: int, params: Params, purpose: Purpose) -> Batches:
    """Real ones: `batches(0)[0]` are `n`, each once as long as there are. Raises CorpusError if there is none."""
    return Batches(open_ids(TOKENS, split), length, n, derive_seed(params.run.seed, *purpose))


def side_by_side(
    work: Callable[[Tensor, Sequence[int]], Made], real_NT: Tensor, shown: str, params: Params, purpose: Purpose
) -> list[Made]:
    """What `work` makes of every `AT_ONCE` sequences and a seed for each: the same however many workers there are."""
    n = len(real_NT)
    seeds = [derive_seed(params.run.seed, *purpose, "fake", row) for row in range(n)]
    cuts = [seeds[first : first + AT_ONCE] for first in range(0, n, AT_ONCE)]
    with torch_threads(params.run.threads), workers() as pool, track(shown, n) as show:
        parts: list[Made] = []
        for made in pool.map(work, torch.split(real_NT, AT_ONCE), cuts):
            parts.append(made)
            show(min(n, len(parts) * AT_ONCE), {})
    return parts
