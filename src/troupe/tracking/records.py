"""The local record of a pipeline run, from which MLflow is filled: the folder .troupe/runs/<run_id>/.

run.json                 what was run with which parameters, and how each stage went (pipelines/workspace.py)
<stage>.metrics.jsonl    curves: {"step", "time" in unix seconds, name: value, ...} per line
<stage>.system.jsonl     what the stage's processes used, in the same form
<stage>.summary.json     figures of the finished stage (of the tokens: .meta.json)
corpus.manifest.json     the text that was learned from
reports/                 the report as it stood when the run ended
"""

import json
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from troupe import layout
from troupe.files import read_json, write_atomic

KEPT = ("metrics.jsonl", "summary.json", "manifest.json", "meta.json")  # of a stage's outputs
Record = Mapping[str, Any]


def keep(run_dir: Path, stage: str) -> None:
    """Copy a finished stage's small files into the run's record, where no later run overwrites what is unsent."""
    before_the_text = stage in ("inputs", layout.CORPUS.name)  # what lies in the corpus folder is an earlier run's
    for folder in {layout.ARTIFACTS / stage} if before_the_text else {layout.CORPUS, layout.ARTIFACTS / stage}:
        for source in (folder / name for name in KEPT if (folder / name).exists()):
            write_atomic(run_dir / f"{folder.name}.{source.name}", source.read_bytes())


def keep_report(run_dir: Path) -> None:
    """Copy the report into the run's record, but for the model that its page holds, and what is of no run."""
    if layout.REPORTS.exists():
        without = shutil.ignore_patterns(layout.EMBEDDED.name, layout.STUDIES.name, layout.INDEX.name)
        shutil.copytree(layout.REPORTS, run_dir / layout.REPORTS, ignore=without, dirs_exist_ok=True)


def read_record(run_dir: Path) -> Record:
    """run.json. Raises ArtifactError if it is missing or broken."""
    record: Record = read_json(run_dir / "run.json")
    return record


def commit(record: Record) -> str:
    """The git commit of a run, with a plus behind it when tracked files differed from it; "none" outside git."""
    git = record["git"]
    return f"{git['commit']}{'+' if git['dirty'] else ''}" if git["commit"] else "none"


def kept_files(run_dir: Path, stage: str) -> list[Path]:
    """The files that `keep` copied for a stage."""
    return [path for name in KEPT if (path := run_dir / f"{stage}.{name}").exists()]


def curves(run_dir: Path, record: Record, stage: str) -> Path:
    """A stage's kept curves, or those it is writing; never what an earlier run left in their place."""
    kept, live = run_dir / f"{stage}.metrics.jsonl", layout.ARTIFACTS / stage / "metrics.jsonl"
    began = unix_milliseconds(record["started"]) / 1000
    return live if not kept.exists() and live.exists() and live.stat().st_mtime >= began else kept


def read_lines(path: Path) -> list[Record]:
    """Every whole record of a metric log; none if it is missing; a last line that is half written is left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def unix_milliseconds(moment: str) -> int:
    """MLflow's unit of time, from a time such as 2026-01-31T12:00:00+0000."""
    return round(datetime.fromisoformat(moment).timestamp() * 1000)
