"""The tokens of a run: what stage `tokens` writes to artifacts/tokens, opened once and handed on.

The ids of a split are train.npy and, once that holds SHARD_TOKENS, train-001.npy, train-002.npy, ...: DVC digests
shards side by side, and a text that has grown at its end shares its first shards with what it was.
Nothing here imports torch, which takes longer than to encode a small text.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from troupe.data.corpus import Split
from troupe.data.room import FEWEST_WINDOWS
from troupe.data.tokenizer import FILE, Tokenizer, load_tokenizer
from troupe.errors import ArtifactError
from troupe.files import atomic_file, read_json
from troupe.layout import TOKENS

Ids = NDArray[np.unsignedinteger]
SHARD_TOKENS = 2**25  # 64 MiB of two bytes each
META = "meta.json"


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


@dataclass(frozen=True)
class TokenDataset:
    """The tokenizer, what is known of every split, and its token ids, which are read when they are asked for."""

    folder: Path
    tokenizer: Tokenizer
    n_tokens: Mapping[Split, int]
    n_bytes: Mapping[Split, int]  # of UTF-8
    corpus_sha256: str
    test_sha256: str  # of the text of the test split
    block_bytes: int  # of the blocks in which the text was split

    @classmethod
    def open(cls, folder: Path = TOKENS) -> Self:
        """Raises ArtifactError if meta.json or tokenizer.json is missing or broken."""
        meta: dict[str, Any] = read_json(folder / META)
        tokenizer = load_tokenizer(folder / FILE)
        try:
            digests = {name: meta[name] for name in ("corpus_sha256", "test_sha256", "block_bytes")}
            return cls(folder, tokenizer, meta["tokens"], meta["bytes"], **digests)
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{folder / META}: not what stage tokens writes ({error!r}); run it again") from None

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def bytes_per_token(self, split: Split) -> float:
        """The mean over a split."""
        return self.n_bytes[split] / self.n_tokens[split]

    def ids(self, split: Split) -> Ids:
        """The ids of a split as one array. Raises ArtifactError if a file is missing or broken."""
        return load_ids(self.folder, split)

    def shards(self, split: Split) -> Shards:
        """The ids of a split, mapped from disk, for those that read a few at a time. Raises as `ids`."""
        return open_ids(self.folder, split)

    def files(self, *splits: Split) -> list[Path]:
        """All that a result made of these splits depends on."""
        shards = [file for split in splits for file in shard_files(self.folder, split)]
        return [self.folder / META, self.folder / FILE, *shards]


def save_ids(directory: Path, split: Split, pieces: Iterable[Ids], vocab_size: int) -> int:
    """Write the token ids of a split, in the smallest type that holds the vocabulary; returns how many there are."""
    for stale in shard_files(directory, split):
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
    names = [path.name for path in shard_files(directory, split)]
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


def shard_files(directory: Path, split: Split) -> list[Path]:
    """The files of a split that are there, in their order."""
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


@dataclass(frozen=True)
class MeasuredRoom:
    """From the ids of a split, of which no more than its first windows are read."""

    bytes: int
    ids: Shards
    bytes_of_token: NDArray[np.int64]

    @property
    def tokens(self) -> int:
        return len(self.ids)

    def windows(self, width: int, prompt: int, most_bytes: int) -> int:
        n_ids = min(self.tokens, prompt + (FEWEST_WINDOWS + 1) * (width + 1))
        beginning = self.ids[np.arange(n_ids)]
        starts = window_starts(self.bytes_of_token[beginning], width, prompt, min(self.bytes, most_bytes))
        return min(FEWEST_WINDOWS, len(starts))


def window_starts(bytes_N: NDArray[np.int64], width: int, prompt: int, total: int) -> NDArray[np.int64]:
    """The tokens at which windows of `width` bytes begin, one after the other, in a text of `total` bytes.

    `bytes_N` are those of each token of the text or of its beginning. `prompt` tokens stand before the first window.
    """
    ends, starts, start = np.cumsum(bytes_N), list[int](), prompt
    while start < len(ends) and ends[start - 1] + width <= total:
        starts.append(start)
        start = int(np.searchsorted(ends, ends[start - 1] + width)) + 1
    return np.array(starts, np.int64)


def token_bytes(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Bytes of every token, by id."""
    return np.array([len(tokenizer.decode_bytes([token])) for token in range(tokenizer.vocab_size)])
