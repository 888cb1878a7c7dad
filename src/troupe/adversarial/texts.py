"""Texts that adversarial methods are trained on: real sequences of a split and their generated counterparts.

Shapes: N sequences, B of them at a time, T tokens (prompt and continuation).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

import torch
from torch import Tensor

from troupe import decoding
from troupe.adversarial.method import Task
from troupe.compute import torch_threads, workers
from troupe.data.batches import Batches
from troupe.data.corpus import Split
from troupe.errors import CorpusError
from troupe.models.gpt2 import GPT
from troupe.progress import track
from troupe.seeding import derive_seed

HELD_OUT = 256  # validation sequences at most on which a signal is tested: a standard error of 0.025 in the AUC
AT_ONCE = 32  # sequences that a worker generates together: few, so that none is left with a long piece at the end
MOST_AT_ONCE = 256  # sequences of one call of `continued`
Made = TypeVar("Made")


def sequences(task: Task, split: Split, length: int, n: int, *purpose: str | int) -> Batches:
    """Real ones: `batches(0)[0]` are `n`, each once as long as there are. Raises CorpusError if there is none."""
    ids = task.data.shards(split)
    if len(ids) <= length:
        raise CorpusError(
            f"{split} split: {len(ids)} tokens are too few for one text of {length} and the token after it; bring more "
            "text, or lower model.block_size (tilt) or the method's sequence_length"
        )
    return Batches(ids, length, n, derive_seed(task.seed, *purpose))


def each_once(task: Task, split: Split, length: int, most: int, *purpose: str | int) -> Tensor:
    """Real ones, at most `most` and no more than there are: ids_NT. Raises CorpusError if there is none."""
    there = sequences(task, split, length, most, *purpose).windows_per_epoch
    return sequences(task, split, length, min(most, there), *purpose).batches(0)[0].to(task.device)


def continued(model: GPT, real_NT: Tensor, prompt_length: int, seeds: Sequence[int]) -> Tensor:
    """ids_NT: the same prompts, continued by a model at temperature 1."""
    parts, n_new = [], real_NT.size(1) - prompt_length
    at_once = min(MOST_AT_ONCE, decoding.side_by_side(model))
    for first in range(0, len(real_NT), at_once):
        prompts_BP, own = real_NT[first : first + at_once, :prompt_length], seeds[first : first + at_once]
        parts.append(decoding.generate(model, prompts_BP, n_new, decoding.Decoding(), own))
    return torch.cat(parts)


@contextmanager
def generating(model: GPT) -> Iterator[ThreadPoolExecutor]:
    """Workers that generate with `model`. When this is left for an error, as when the stage is stopped, they end
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
    model: GPT,
    real_NT: Tensor,
    task: Task,
    shown: str,
    *purpose: str | int,
) -> list[Made]:
    """What `work` makes of a few sequences at a time and a seed for each: the same however many workers there are.

    At most `AT_ONCE`, and no more than `model`, with its context and vocabulary, has room for. `shown` is the name in
    progress lines.
    """
    n, at_once = len(real_NT), min(AT_ONCE, decoding.side_by_side(model))
    seeds = [derive_seed(task.seed, *purpose, "fake", row) for row in range(n)]
    cuts = [seeds[first : first + at_once] for first in range(0, n, at_once)]
    with torch_threads(task.threads), generating(model) as pool, track(shown, n) as show:
        parts: list[Made] = []
        for made in pool.map(work, torch.split(real_NT, at_once), cuts):
            parts.append(made)
            show(min(n, len(parts) * at_once), {})
    return parts
