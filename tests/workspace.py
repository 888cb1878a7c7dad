"""A throw-away workspace: what a clone holds, and its pipeline at tiny scale."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import PRECISION, THREADS
from troupe.bundles.bundle import found_identity
from troupe.layout import MODEL_STAGES as MODELS

ROOT = Path(__file__).parents[1]
CLONED = ("params.yaml", "profiles", "dvc.yaml", ".dvc/config", ".dvcignore", ".gitignore", "pipelines", "src")

PROFILE = "tiny"  # small enough for seconds
NUMERICS = f"run.threads={THREADS} run.precision={PRECISION}"


def clone(folder: Path) -> Path:
    """Copy the working tree's tracked part to `folder` and commit it there, as a user's clone would be."""
    for name in CLONED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, target)
    git = ["git", "-c", "user.name=tester", "-c", "user.email=tester@localhost"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "A clone"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    return folder


def run(folder: Path, *command: str, seconds: float = 800, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python COMMAND...` in a workspace with the tests' threads and no tracking server of the outer world."""
    outer = ("MLFLOW_", "PREFECT_", "TROUPE_")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(outer) or k == "TROUPE_CACHE"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**inherited, "OMP_NUM_THREADS": str(THREADS), **environment},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def pipeline(folder: Path, overrides: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """`make pipeline PROFILE=tiny SET="..."`."""
    command = ("-m", "pipelines", "run", "--profile", PROFILE, "--set", f"{NUMERICS} {overrides}".strip())
    return run(folder, *command, **environment)


def succeed(result: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def digests(workspace: Path) -> dict[str, str]:
    """The identity of each model."""
    return {stage: found_identity(workspace / "artifacts" / stage) for stage in MODELS}


def stamps(workspace: Path) -> dict[str, int]:
    """When each model was written: a stage that ran again writes its model again."""
    return {stage: (workspace / "artifacts" / stage / "model.safetensors").stat().st_mtime_ns for stage in MODELS}
