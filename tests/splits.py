"""The text of a split, whole, which no stage asks for."""

from pathlib import Path

from troupe.data.corpus import Split, split_blocks


def split_text(directory: Path, split: Split) -> str:
    return "".join(split_blocks(directory, split))
