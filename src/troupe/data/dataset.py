"""The tokens of a run: what stage `tokens` writes to artifacts/tokens, opened once and handed on.

Nothing here imports torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from troupe.data.corpus import Split
from troupe.data.ids import Ids, Shards, load_ids, open_ids, shard_files
from troupe.data.tokenizer import FILE, Tokenizer, load_tokenizer
from troupe.errors import ArtifactError
from troupe.files import read_json
from troupe.layout import TOKENS

META = "meta.json"


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
        """The ids of a split as one array (data/ids.py). Raises ArtifactError if a file is missing or broken."""
        return load_ids(self.folder, split)

    def shards(self, split: Split) -> Shards:
        """The ids of a split, mapped from disk, for those that read a few at a time. Raises as `ids`."""
        return open_ids(self.folder, split)

    def files(self, *splits: Split) -> list[Path]:
        """All that a result made of these splits depends on."""
        shards = [file for split in splits for file in shard_files(self.folder, split)]
        return [self.folder / META, self.folder / FILE, *shards]
