"""Texts that the adversarial stage learns from: real sequences of a split, and work on them side by side.

Shapes: N sequences, T tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

import torch
from torch import Tensor

from troupe import decoding
from troupe.compute import threads_of, torch_threads
from troupe.data.batches import Batches
from troupe.data.corpus import Split
from troupe.data.dataset import TokenDataset
from troupe.errors import CorpusError
from troupe.evaluation.workers import workers
from troupe.models.gpt2 import GPT
from troupe.params import Params
from troupe.seeding import derive_seed
from troupe.stages.progress import track

AT_ONCE = 32  # sequences that a worker writes together: few, so that none is left with a long piece at the end
Made = TypeVar("Made")
Purpose = tuple[str | int, ...]


def sequences(data: TokenDataset, split: Split, length: int, n: int, params: Params, purpose: Purpose) -> Batches:
    """Real ones: `batches(0)[0]` are `n`, each once as long as there are. Raises CorpusError if there is none."""
    ids = data.shards(split)
    if len(ids) <= length:
        raise CorpusError(
            f"{split} split: {len(ids)} tokens are too few for one text of {length} and the token after it; bring more "
            "text, or lower model.block_size (the tilt) or adversarial.sequence_length (the discriminator)"
        )
    return Batches(ids, length, n, derive_seed(params.run.seed, *purpose))


def each_once(data: TokenDataset, split: Split, length: int, most: int, params: Params, purpose: Purpose) -> Tensor:
    """Real ones, at most `most` and no more than there are: ids_NT. Raises CorpusError if there is none."""
    there = sequences(data, split, length, most, params, purpose).windows_per_epoch
    return sequences(data, split, length, min(most, there), params, purpose).batches(0)[0]


@contextmanager
def writing(model: GPT) -> Iterator[ThreadPoolExecutor]:
    """Workers that write with `model`. When this is left for an error, as when the stage is stopped, they give up
    before their next token."""
    left = Event()

    def go_on(*_: object) -> None:
        if left.is_set():
            raise CancelledError

    hook = model.register_forward_pre_hook(go_on)
    try:
        with workers() as pool:
            try:
                yield pool
            except BaseException:
                left.set()  # before the pool waits for those that are at work
                raise
    finally:
        hook.remove()


def side_by_side(
    work: Callable[[Tensor, Sequence[int]], Made],
    writer: GPT,
    real_NT: Tensor,
    shown: str,
    params: Params,
    purpose: Purpose,
) -> list[Made]:
    """What `work` makes of a few sequences at a time and a seed for each: the same however many workers there are.

    At most `AT_ONCE`, and no more than `writer`, with its context and vocabulary, has room for.
    """
    n, at_once = len(real_NT), min(AT_ONCE, decoding.side_by_side(writer.config))
    seeds = [derive_seed(params.run.seed, *purpose, "fake", row) for row in range(n)]
    cuts = [seeds[first : first + at_once] for first in range(0, n, at_once)]
    with torch_threads(threads_of(params.run)), writing(writer) as pool, track(shown, n) as show:
        parts: list[Made] = []
        for made in pool.map(work, torch.split(real_NT, at_once), cuts):
            parts.append(made)
            show(min(n, len(parts) * at_once), {})
    return parts
