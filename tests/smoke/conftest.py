"""What the smoke tests start from: one run of the pipeline for all of them, under xdist too."""

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from tests.workspace import clone, pipeline, succeed


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `clone`, in which the pipeline has run once, and `copy`, the same without its MLflow store, which
    knows its place by an absolute path."""
    here = tmp_path_factory.getbasetemp()
    folder = (here.parent if "PYTEST_XDIST_WORKER" in os.environ else here) / "first-run"
    with FileLock(f"{folder}.lock"):
        if not (folder / "copy").exists():
            shutil.rmtree(folder, ignore_errors=True)
            succeed(pipeline(clone(folder / "clone")))
            shutil.copytree(
                folder / "clone", folder / "new", ignore=shutil.ignore_patterns("mlflow.db*", "mlartifacts")
            )
            (folder / "new").replace(folder / "copy")
    return folder
