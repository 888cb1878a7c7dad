"""Token ids to training batches. B sequences, T tokens of context (block_size).

An epoch cuts the ids into windows of T + 1 tokens that share one token with their neighbour (the last target of one is
the first input of the next), beginning at a random offset, and visits them in a random order. The offset changes from
epoch to epoch, so that the same tokens meet other contexts; fewer than 2 T tokens at the two ends sit an epoch out.

On disk the ids of a split are train.npy and, once that holds SHARD_TOKENS, train-001.npy, train-002.npy, ... DVC
digests shards side by side, and a text that has grown at its end shares its first shards with what it was.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from troupe.data.corpus import Split
from troupe.errors import ArtifactError, CorpusError
from troupe.files import atomic_file
from troupe.seeding import generator

Ids = NDArray[np.unsignedinteger]
SHARD_TOKENS = 2**25  # 64 MiB of two bytes each


class Shards:
    """The ids of a split as one sequence, mapped from files of which all but the last are of one length."""

    def __init__(self, parts: Sequence[Ids]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, places: NDArray[np.int64]) -> Ids:
        """The ids at `places`, an array of any shape."""
        part_of, place = np.divmod(places, len(self.parts[0]))
        found = np.empty(places.shape, self.parts[0].dtype)
        for number in np.unique(part_of):
            here = part_of == number
            found[here] = self.parts[number][place[here]]
        return found


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


def save_ids(directory: Path, split: Split, pieces: Iterable[Ids], vocab_size: int) -> int:
    """Write the token ids of a split, in the smallest type that holds the vocabulary; returns how many there are."""
    for stale in _shard_files(directory, split):
        stale.unlink()
    shard: Ids = np.empty(SHARD_TOKENS, np.uint16 if vocab_size <= 2**16 else np.uint32)
    n_ids = 0
    for number, ids in enumerate(_filled(shard, pieces)):
        with atomic_file(directory / _shard_name(split, number)) as file:
            np.save(file, ids, allow_pickle=False)
        n_ids += len(ids)
    return n_ids


def load_ids(directory: Path, split: Split) -> Ids:
    """The token ids of a split as one array: mapped from disk, but in memory if there is more than one shard.

    Raises ArtifactError as `open_ids` does.
    """
    parts = open_ids(directory, split).parts
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def open_ids(directory: Path, split: Split) -> Shards:
    """The token ids of a split, mapped from disk. Raises ArtifactError if a file is missing or broken."""
    names = [path.name for path in _shard_files(directory, split)]
    expected = [_shard_name(split, number) for number in range(max(1, len(names)))]
    if absent := next((name for name in expected if name not in names), None):
        raise ArtifactError(f"{directory / absent}: no such file; run the tokens stage, or `make pipeline`")
    return Shards([_open_shard(directory / name) for name in expected])


def _open_shard(path: Path) -> Ids:
    try:
        ids: Ids = np.lib.format.open_memmap(path, mode="r")  # refuses pickled objects
    except ValueError as error:
        raise ArtifactError(f"{path}: not an array of token ids: {error}") from None
    return ids


def _shard_name(split: Split, number: int) -> str:
    return f"{split}-{number:03d}.npy" if number else f"{split}.npy"


def _shard_files(directory: Path, split: Split) -> list[Path]:
    return sorted([*directory.glob(f"{split}.npy"), *directory.glob(f"{split}-*.npy")])


def _filled(shard: Ids, pieces: Iterable[Ids]) -> Iterator[Ids]:
    """`shard`, filled with the next ids again and again; at last as much of it as the ids that are left need."""
    used = 0
    for piece in pieces:
        ids = piece
        while len(ids) > len(shard) - used:
            shard[used:], ids = ids[: len(shard) - used], ids[len(shard) - used :]
            yield shard
            used = 0
        shard[used : used + len(ids)] = ids
        used += len(ids)
    yield shard[:used]
