"""A workspace with a real MLflow store, records of a run as the pipeline writes them, and tiny real models."""

import os
import shutil
from pathlib import Path
from typing import Any, Protocol

import pytest
from filelock import FileLock

from troupe import environment
from troupe.files import write_json
from troupe.tracking.connection import connection

RUN_ID = "20260131-120000-abcd"


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make its tables: once for all tests, under xdist too."""
    environment.prepare()
    here = tmp_path_factory.getbasetemp()
    path = (here.parent if "PYTEST_XDIST_WORKER" in os.environ else here) / "empty.db"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{path}.new"
            with connection() as client:
                client.search_experiments()
            del os.environ["MLFLOW_TRACKING_URI"]
            Path(f"{path}.new").replace(path)
    return path


@pytest.fixture
def workspace(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace, with a blank in its name, as the current folder."""
    folder = tmp_path / "my workspace"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


class WriteRun(Protocol):
    def __call__(self, outcome: str = ..., stages: dict[str, str] | None = ..., run_id: str = ...) -> Path: ...


@pytest.fixture
def write_run() -> WriteRun:
    return _write_run


def _write_run(outcome: str = "completed", stages: dict[str, str] | None = None, run_id: str = RUN_ID) -> Path:
    """A run record as pipelines/workspace.py writes it."""
    run_dir = Path(".troupe/runs") / run_id
    stages = {"pretrain": "ran"} if stages is None else stages
    record: dict[str, Any] = {
        "run_id": run_id,
        "started": "2026-01-31T12:00:00+0000",
        "finished": None if outcome == "running" else "2026-01-31T12:10:00+0000",
        "outcome": outcome,
        "overrides": "pretrain.steps=30",
        "git": {"commit": "c0ffee", "dirty": False},
        "params": {"run": {"seed": 7}, "pretrain": {"steps": 30, "learning_rate": 0.02}},
        "stages": {name: {"outcome": state, "seconds": 4.2, "attempts": 1} for name, state in stages.items()},
    }
    write_json(run_dir / "run.json", record)
    return run_dir
