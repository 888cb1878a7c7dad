"""The corpus: one UTF-8 text, and a manifest that says what it is and which of its blocks are held out.

The split. The text is cut into blocks of `data.block_bytes`, each cut moved on to the next start of a UTF-8 character.
Of every ten blocks, the fifth is for validation (every choice of a model looks only there), the tenth for test (only
reported figures and the gate look there), the other eight for training. Each split is its blocks joined in order.

Why nothing leaks: every byte belongs to exactly one block and every block to one split; the tokenizer, the n-gram model
and the language models see the training text only; and each split is turned into token ids by itself, so that no token
and no context window holds bytes of two splits. Held-out blocks lie all over the text: all splits have the same mix.

What it does not protect from: text that stands in the corpus twice. Where a sentence or a licence header recurs, or a
document is a near-copy of another, a held-out block may repeat what the training blocks say, and a model that remembers
looks better than it would on new text; remove duplicates first (python-docs is cleaned of repeated paragraphs). And the
ends of a held-out block continue sentences that training blocks begin or end.
"""

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from troupe.data.source import Source
from troupe.errors import ArtifactError, CorpusError
from troupe.files import read_json, write_atomic, write_json

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
CYCLE = 10  # blocks
HELD_OUT: dict[int, Split] = {4: "validation", 9: "test"}  # by place in the cycle, counted from 0
TEXT, MANIFEST = "corpus.txt", "manifest.json"


def check_size(n_bytes: int, block_bytes: int) -> None:
    """Raise CorpusError, with the remedy, if a text is too short to hold one block out for each purpose."""
    if n_bytes < CYCLE * block_bytes:
        remedy = f"lower data.block_bytes to at most {n_bytes // CYCLE} or bring more text"
        raise CorpusError(
            f"the text has {n_bytes} bytes, fewer than {CYCLE} blocks of data.block_bytes={block_bytes}; {remedy}"
        )


def cut_blocks(content: bytes, block_bytes: int) -> list[tuple[int, int, Split]]:
    """The blocks of a UTF-8 text as (start, end, split), offsets in bytes, which cover it without gap or overlap."""
    starts = [_character_start(content, at) for at in range(0, len(content), block_bytes)]
    borders = pairwise([*starts, len(content)])
    return [(start, end, HELD_OUT.get(i % CYCLE, "train")) for i, (start, end) in enumerate(borders)]


def write_corpus(directory: Path, text: str, name: str, source: Source, block_bytes: int) -> None:
    """Write corpus.txt and manifest.json. Raises CorpusError if the text is too short, or not the one in `source`."""
    content = text.encode()
    digest = hashlib.sha256(content).hexdigest()
    if digest != source.sha256:
        raise CorpusError(
            f"data.source {name!r}: its text has sha256 {digest}, but the inputs stage saw {source.sha256}: "
            "the text or the parameter changed in between; run `make pipeline` again"
        )
    check_size(len(content), block_bytes)
    blocks = cut_blocks(content, block_bytes)
    manifest = {
        "source": name,
        "licence": source.licence,
        "bytes": len(content),
        "sha256": digest,
        "blocks": [{"start": start, "end": end, "split": split} for start, end, split in blocks],
        "splits": {split: _facts(_join(content, blocks, split)) for split in SPLITS},
    }
    write_atomic(directory / TEXT, content)
    write_json(directory / MANIFEST, manifest)


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a corpus. Raises ArtifactError if it is missing or broken."""
    manifest: dict[str, Any] = read_json(directory / MANIFEST)
    return manifest


def split_text(directory: Path, split: Split) -> str:
    """The text of one split. Raises ArtifactError if the corpus is missing or is not the one of the manifest."""
    manifest = read_manifest(directory)
    path = directory / TEXT
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; run the corpus stage, or `make pipeline`") from None
    blocks = [(block["start"], block["end"], block["split"]) for block in manifest["blocks"]]
    part = _join(content, blocks, split)
    if _facts(part) != manifest["splits"][split]:
        raise ArtifactError(f"{path}: its {split} text is not the one in {MANIFEST}; delete {directory} and run again")
    return part.decode()


def _character_start(content: bytes, at: int) -> int:
    while at < len(content) and content[at] & 0b1100_0000 == 0b1000_0000:  # a continuation byte of UTF-8
        at += 1
    return at


def _join(content: bytes, blocks: list[tuple[int, int, Split]], split: Split) -> bytes:
    return b"".join(content[start:end] for start, end, part in blocks if part == split)


def _facts(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
