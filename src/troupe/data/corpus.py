"""The corpus: one UTF-8 text, and a manifest that says what it is, where its blocks are cut, and what each split holds.

The split. The text is cut into blocks of `data.block_bytes`, each cut moved on to the next start of a UTF-8 character.
Of every ten blocks, the second is for the critic (the real text that the adversarial stage's discriminator learns from,
and no model before it), the fifth for validation (every choice of a model looks only there), the tenth for test (only
reported figures and the gate look there), the other seven for training. Each split is its blocks joined in order.

Why nothing leaks: every byte belongs to exactly one block and every block to one split; the tokenizer, the n-gram model
and the language models before the adversarial stage see the training text only; and each split is turned into token ids
by itself, so that no token and no context window holds bytes of two splits. Held-out blocks lie all over the text: all
splits have the same mix. They lie between blocks of training text: none of them continues another.

What it does not protect from: text that stands in the corpus twice, other than as a whole document (data/source.py
leaves such copies out). Where a sentence or a licence header recurs, or a document is a near-copy of another, a
held-out block may repeat what the training blocks say, and a model that remembers looks better than on new text; remove
near-copies first (python-docs is cleaned of repeated paragraphs). And the
ends of a held-out block continue sentences that training blocks begin or end.

The text may be larger than memory: it is written in one pass, and of a split no more than its own blocks is read.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, get_args

from troupe.errors import ArtifactError, CorpusError
from troupe.files import atomic_file, read_json, write_json

Split = Literal["train", "critic", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
CYCLE = 10  # blocks
HELD_OUT: dict[int, Split] = {1: "critic", 4: "validation", 9: "test"}  # by place in the cycle, counted from 0
TEXT, MANIFEST = "corpus.txt", "manifest.json"
CONTINUATION = bytes(range(0x80, 0xC0))  # the bytes that stand inside a UTF-8 character, never at its beginning
LONGEST_CHARACTER = 4  # bytes of UTF-8


@dataclass(frozen=True)
class Source:
    """What a source holds: `bytes` and `sha256` are those of its text in UTF-8, `files` the user's, if any.

    `copies` documents, with `copied_bytes` of text, were left out of it, since they repeat others.
    """

    kind: str
    files: list[str]
    bytes: int
    sha256: str
    licence: str
    copies: int = 0
    copied_bytes: int = 0


def check_size(n_bytes: int, block_bytes: int) -> None:
    """Raise CorpusError, with the remedy, if a text is too short to hold one block out for each purpose."""
    if n_bytes < CYCLE * block_bytes:
        remedy = f"lower data.block_bytes to at most {n_bytes // CYCLE} or bring more text"
        raise CorpusError(
            f"the text has {n_bytes} bytes, fewer than {CYCLE} blocks of data.block_bytes={block_bytes}; {remedy}"
        )


def cut_blocks(chunks: Iterable[bytes]) -> Iterator[tuple[Split, bytes]]:
    """The blocks of a UTF-8 text, in order, from its chunks of `data.block_bytes` (the last may be shorter)."""
    block = b""
    for i, chunk in enumerate(chunks):
        begun = chunk.lstrip(CONTINUATION)
        if i > 0:
            yield split_of(i - 1), block + chunk[: len(chunk) - len(begun)]
        block = begun
    if block:
        yield split_of(i), block


def split_of(block: int) -> Split:
    """The split that a block belongs to, by its number."""
    return HELD_OUT.get(block % CYCLE, "train")


def write_corpus(directory: Path, pieces: Iterable[str], name: str, source: Source, block_bytes: int) -> None:
    """Write corpus.txt, from the pieces of the text, and manifest.json.

    Raises CorpusError if the text is too short, or not the one in `source`.
    """
    check_size(source.bytes, block_bytes)
    digest = hashlib.sha256()
    sizes, digests = dict.fromkeys(SPLITS, 0), {split: hashlib.sha256() for split in SPLITS}
    with atomic_file(directory / TEXT) as file:

        def written() -> Iterator[bytes]:
            for piece in pieces:
                content = piece.encode()
                digest.update(content)
                file.write(content)
                yield content

        for split, block in cut_blocks(_chunks(written(), block_bytes)):
            sizes[split] += len(block)
            digests[split].update(block)
        if digest.hexdigest() != source.sha256:
            raise CorpusError(
                f"data.source {name!r}: its text has sha256 {digest.hexdigest()}, but the inputs stage saw "
                f"{source.sha256}: the text or the parameter changed in between; run `make pipeline` again"
            )
    manifest = {
        "source": name,
        "licence": source.licence,
        "bytes": source.bytes,
        "sha256": source.sha256,
        "block_bytes": block_bytes,
        "splits": {split: {"bytes": sizes[split], "sha256": digests[split].hexdigest()} for split in SPLITS},
    }
    write_json(directory / MANIFEST, manifest)


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a corpus. Raises ArtifactError if it is missing or broken."""
    manifest: dict[str, Any] = read_json(directory / MANIFEST)
    return manifest


def split_beginning(directory: Path, split: Split, n_bytes: int) -> str:
    """The first blocks of a split, as many as hold `n_bytes`, or all of it. Raises ArtifactError as `split_blocks`."""
    taken: list[str] = []
    for block in split_blocks(directory, split):
        taken.append(block)
        n_bytes -= len(block.encode())
        if n_bytes <= 0:
            break
    return "".join(taken)


def split_blocks(directory: Path, *splits: Split) -> Iterator[str]:
    """The text of one split, or of several together, block by block in the order of the text.

    Raises ArtifactError if the corpus is missing or, after the last block, if it is not the one of the manifest.
    """
    manifest = read_manifest(directory)
    path, digests = directory / TEXT, {split: hashlib.sha256() for split in splits}
    for part, block in _read_blocks(path, manifest["block_bytes"], splits):
        digests[part].update(block)
        yield block.decode(errors="replace")
    for split, digest in digests.items():
        if digest.hexdigest() != manifest["splits"][split]["sha256"]:
            raise ArtifactError(
                f"{path}: its {split} text is not the one in {MANIFEST}; delete {directory} and run again"
            )


def _chunks(contents: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The joined contents in chunks of one size; the last may be shorter."""
    held = bytearray()
    for content in contents:
        held += content
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)


def _read_blocks(path: Path, block_bytes: int, splits: Collection[Split]) -> Iterator[tuple[Split, bytes]]:
    """The blocks that `cut_blocks` makes, but of some splits only: what lies between them is not read."""
    places = [place for place in range(CYCLE) if split_of(place) in splits]
    try:
        with path.open("rb") as file:
            for number in (cycle + place for cycle in count(0, CYCLE) for place in places):
                file.seek(number * block_bytes)
                if not (chunk := file.read(block_bytes + LONGEST_CHARACTER - 1)):
                    return
                begun, rest = chunk[:block_bytes].lstrip(CONTINUATION), chunk[block_bytes:]
                block = begun + rest[: len(rest) - len(rest.lstrip(CONTINUATION))]
                if block:
                    yield split_of(number), block
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; run the corpus stage, or `make pipeline`") from None
