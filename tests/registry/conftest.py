"""A workspace with a real MLflow store, records of a run as the pipeline writes them, and tiny real models."""

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from troupe import environment
from troupe.bundles.bundle import save_bundle
from troupe.data.tokenizer import ByteTokenizer
from troupe.files import write_json
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.seeding import generator
from troupe.tracking import store
from troupe.tracking.connection import connection

REPOSITORY = Path(__file__).parents[2]

environment.prepare()  # before anything here imports mlflow
with warnings.catch_warnings(action="ignore"):
    import mlflow.pyfunc  # noqa: F401 - it warns of its own type hints, once


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make its tables: once for all tests, under xdist too."""
    here = tmp_path_factory.getbasetemp()
    path = (here.parent if "PYTEST_XDIST_WORKER" in os.environ else here) / "empty.db"
    with FileLock(f"{path}.lock"), pytest.MonkeyPatch.context() as patch:
        if not path.exists():
            made = path.with_name("made.db")
            patch.setenv("MLFLOW_TRACKING_URI", store.address(made))
            with connection() as client:
                client.search_experiments()
            made.replace(path)
    return path


@pytest.fixture
def workspace(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace without models, with a blank in its name, as the current folder."""
    folder = tmp_path / "my workspace"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


@pytest.fixture
def write_run() -> Callable[..., Path]:
    """Write a run record as pipelines/workspace.py does; return its folder."""
    return _write_run


@pytest.fixture
def evaluated(workspace: Path) -> Callable[..., Path]:
    """Write what a whole run leaves in the workspace; return the folder of its record."""
    return _evaluated


def _write_run(
    outcome: str = "completed", stages: dict[str, str] | None = None, run_id: str = "20260131-120000-abcd"
) -> Path:
    run_dir = Path(".troupe/runs") / run_id
    stages = {"pretrain": "ran"} if stages is None else stages
    record: dict[str, Any] = {
        "run_id": run_id,
        "started": "2026-01-31T12:00:00+0000",
        "finished": None if outcome == "running" else "2026-01-31T12:10:00+0000",
        "outcome": outcome,
        "profile": "cpu-minutes",
        "overrides": "pretrain.steps=30",
        "git": {"commit": "c0ffee", "dirty": False},
        "params": {"run": {"seed": 7}, "pretrain": {"steps": 30, "learning_rate": 0.02}},
        "stages": {name: {"outcome": state, "seconds": 4.2, "attempts": 1} for name, state in stages.items()},
    }
    write_json(run_dir / "run.json", record)
    return run_dir


def _evaluated(seed: int = 1, bpb: float = 1.5, accuracy: float = 0.8, test_sha256: str = "text") -> Path:
    """The three models of one seed, the adversarial one the candidate, with these test figures."""
    Path("artifacts").mkdir(exist_ok=True)
    shutil.copy(REPOSITORY / "params.yaml", "artifacts/params.yaml")
    write_json(Path("artifacts/corpus/manifest.json"), {"sha256": "da7a" * 16, "source": "python-docs", "blocks": []})
    judge = {"accuracy": accuracy, "correct": round(2000 * accuracy), "n": 2000, "standard_error": 0.02}
    report = {
        "test_sha256": test_sha256,
        "judge": {"digest": "judge"},
        "models": {
            stage: {
                "weights_sha256": write_model(stage, seed),
                "test": {"bpb": bpb, "judge": judge},
            }
            for stage in ("pretrain", "moe", "adversarial")
        },
        "controls": {
            "known_bad": {"accuracy": 0.99},
            "real_against_real": {"accuracy": 0.5, "standard_error": 0.02},
        },
        "candidate": {"stage": "adversarial", "reason": "lowest judge accuracy on validation"},
    }
    write_json(Path("reports/metrics.json"), report)
    return _write_run(stages={"pretrain": "ran", "moe": "ran", "adversarial": "ran"}, run_id=f"run-{seed}")


def write_model(stage: str, seed: int) -> str:
    """A tiny real model where its stage would leave it; its digest."""
    model = GPT(GPTConfig(vocab_size=256, block_size=16, n_layer=1, n_head=2, n_embd=8, dropout=0.0))
    init_gpt2(model, generator(seed, stage))
    digest = save_bundle(Path("artifacts") / stage, model, ByteTokenizer(), {})
    write_json(Path("artifacts") / stage / "summary.json", {"weights_sha256": digest, "parameters": 3000})
    return digest
