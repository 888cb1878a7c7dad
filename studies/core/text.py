"""The text of a study, cut and encoded by the pipeline's own parts, once for all jobs."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from troupe.data.bpe import make_tokenizer
from troupe.data.corpus import SPLITS, Split, read_manifest, split_blocks, write_corpus
from troupe.data.dataset import Ids, load_ids, save_ids
from troupe.data.encoding import cut_pieces, encode_pieces
from troupe.data.source import describe, read_pieces
from troupe.data.tokenizer import FILE
from troupe.dependencies import code_digest
from troupe.files import read_json, write_json
from troupe.params import DataParams, TokensParams

Parts = Mapping[Split, tuple[Split, ...]]  # of the text, and the splits that each holds
PARTS: Parts = {  # a study without a critic trains on its text too
    "train": ("train", "critic"),
    "validation": ("validation",),
    "test": ("test",),
}
ALL_PARTS: Parts = {split: (split,) for split in SPLITS}  # as the pipeline has them
META = "meta.json"  # written last: it says that the folder is complete


@dataclass(frozen=True)
class Text:
    """Token ids and bytes of UTF-8 of the parts."""

    vocab_size: int
    ids: dict[Split, Ids]
    n_bytes: dict[Split, int]


def prepare_text(data: DataParams, tokens: TokensParams, work: Path, parts_of_text: Parts = PARTS) -> str:
    """Write the text that `data` names to a folder in `work`, unless it is there; the folder's name digests the text,
    how it is cut and encoded, its parts, and the code that does so.

    Raises CorpusError for text that cannot be used.
    """
    source = describe(data.source)
    parts = [code_digest(__name__), source.sha256, data.block_bytes, tokens.model_dump(), dict(parts_of_text)]
    name = f"text-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]}"
    folder = work / name
    if (folder / META).exists():
        return name
    write_corpus(folder, read_pieces(data.source), data.source, source, data.block_bytes)
    tokenizer = make_tokenizer(
        tokens.kind, cut_pieces(split_blocks(folder, *parts_of_text["train"])), tokens.vocab_size
    )
    tokenizer.save(folder / FILE)
    for part, splits in parts_of_text.items():
        pieces = encode_pieces(tokenizer, cut_pieces(split_blocks(folder, *splits)), threads=1)
        save_ids(folder, part, pieces, tokenizer.vocab_size)
    facts = read_manifest(folder)["splits"]
    n_bytes = {part: sum(facts[split]["bytes"] for split in splits) for part, splits in parts_of_text.items()}
    write_json(folder / META, {"vocab_size": tokenizer.vocab_size, "bytes": n_bytes})
    return name


def bytes_of(folder: Path, part: Split) -> bytes:
    """The UTF-8 text of a part."""
    return b"".join(text.encode() for text in split_blocks(folder, *PARTS[part]))


def load_text(folder: Path) -> Text:
    """What `prepare_text` wrote. Raises ArtifactError if it is not whole."""
    meta: dict[str, Any] = read_json(folder / META)
    return Text(meta["vocab_size"], {part: load_ids(folder, part) for part in meta["bytes"]}, meta["bytes"])


def shortened(text: Text, tokens: int | None) -> Text:
    """The text with at most so many tokens of every part but `train`; their bytes in proportion."""
    ids = {part: of if part == "train" or not tokens else of[:tokens] for part, of in text.ids.items()}
    n_bytes = {part: round(text.n_bytes[part] * len(ids[part]) / len(text.ids[part])) for part in ids}
    return Text(text.vocab_size, ids, n_bytes)
