"""The text of the study of adversarial refinement, cut into five parts that share no byte, and encoded.

Each part has one use: that keeps a classifier independent of what it classifies.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

import numpy as np
from pydantic import Field, model_validator

from troupe.data.bpe import make_tokenizer
from troupe.data.corpus import Split, cut_blocks
from troupe.data.dataset import Ids, TokenDataset, save_ids
from troupe.data.encoding import cut_pieces, encode_pieces
from troupe.data.source import read_text
from troupe.data.tokenizer import Tokenizer
from troupe.params import Count, DataParams

Role = Literal["generator", "reference", "real", "validation", "test"]
ROLES: tuple[Role, ...] = get_args(Role)
SPLITS: dict[Split, Role] = {"train": "generator", "critic": "real", "validation": "validation"}  # of the pipeline


class TextParams(DataParams):
    """`cycle`: whose the first, the second, ... block is, over and over; `bytes`: how much is used, null: all."""

    bytes: Count | None
    vocab_size: Annotated[int, Field(ge=257)]
    cycle: list[Role]

    @model_validator(mode="after")
    def everybody_has_text(self) -> Self:
        if absent := [role for role in ROLES if role not in self.cycle]:
            raise ValueError(f"cycle: no block is for {absent[0]!r}")
        return self


@dataclass(frozen=True)
class Text:
    """The five parts, as text and as token ids; the tokenizer was made from the generator's."""

    tokenizer: Tokenizer
    part: dict[Role, str]
    ids: dict[Role, Ids]

    def n_bytes(self, role: Role) -> int:
        return len(self.part[role].encode())


def load_text(params: TextParams) -> Text:
    """Raises CorpusError for text that cannot be used."""
    blocks: dict[Role, list[str]] = {role: [] for role in ROLES}
    for number, (_, block) in enumerate(cut_blocks(_chunks(params))):
        blocks[params.cycle[number % len(params.cycle)]].append(block.decode(errors="replace"))
    part = {role: "".join(of_role) for role, of_role in blocks.items()}
    tokenizer = make_tokenizer("bpe", cut_pieces([part["generator"]]), params.vocab_size)
    ids = {role: np.concatenate([*encode_pieces(tokenizer, cut_pieces([part[role]]), threads=1)]) for role in ROLES}
    return Text(tokenizer, part, ids)


def save_tokens(text: Text, folder: Path) -> None:
    """What the pipeline's methods read: `open_tokens` opens it."""
    for split, role in SPLITS.items():
        save_ids(folder, split, [text.ids[role]], text.tokenizer.vocab_size)


def open_tokens(text: Text, folder: Path) -> TokenDataset:
    n_tokens = {split: len(text.ids[role]) for split, role in SPLITS.items()}
    n_bytes = {split: text.n_bytes(role) for split, role in SPLITS.items()}
    return TokenDataset(folder, text.tokenizer, n_tokens, n_bytes, corpus_sha256="", test_sha256="", block_bytes=0)


def _chunks(params: TextParams) -> Iterator[bytes]:
    whole = read_text(params.source).encode()[: params.bytes]
    yield from (whole[i : i + params.block_bytes] for i in range(0, len(whole), params.block_bytes))
