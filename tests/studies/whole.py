"""A whole study at tiny size, run as a user runs it."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from studies.core.command import STUDIES

WORDS = ["to", "be", "or", "not", "that", "is", "the", "question"]


def shipped(study: str) -> Any:
    """The tree of a study's own configuration, to be made smaller."""
    return YAML(typ="safe").load((STUDIES / study / f"{study}.yaml").read_text())


def write_text(path: Path, n_words: int) -> None:
    picks = torch.randint(len(WORDS), (n_words,), generator=torch.Generator().manual_seed(0)).tolist()
    path.write_text(" ".join(WORDS[pick] for pick in picks))


def run_study(
    study: str,
    main: Callable[[], None],
    tree: Mapping[str, Any],
    titles: Sequence[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    seeds: int,
    more: str = "",
) -> dict[tuple[str, int], Any]:
    """Runs `main` in `folder` with the configuration `tree`: its page has a picture and parts of these titles.

    Returns what the study recorded, by arm and seed.
    """
    (folder / "small.yaml").write_text(json.dumps(tree))
    options = f"--config small.yaml --quick --seeds {seeds} --workers 2 --out out --work work {more}"
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [f"studies.{study}", *options.split()])
    main()
    page = (folder / "out" / "small.md").read_text()
    assert [line[4:] for line in page.splitlines() if line.startswith("### ")] == ["Verdict", *titles]
    assert "](small.svg)" in page
    assert "<svg" in (folder / "out" / "small.svg").read_text()
    records = [json.loads(line) for line in (folder / "out" / "small.jsonl").read_text().splitlines()]
    found = {(record["arm"], record["seed"]): record for record in records}
    assert len(found) == len(records)
    return found
