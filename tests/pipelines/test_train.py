"""`python -m pipelines run` on its own: Prefect, DVC and MLflow are real; each run brings its own Prefect server."""

import json
import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.small import PYTHON, WORK, environment, eventually, make, pipeline, processes_in
from troupe.layout import RUNS

pytestmark = [pytest.mark.slow, pytest.mark.servers]


def record(folder: Path) -> dict[str, Any]:
    """The record of the last run."""
    last = max((folder / RUNS).glob("*/run.json"), key=os.path.getmtime)
    return dict(json.loads(last.read_text()))


def test_killed_then_completed(tmp_path: Path) -> None:
    folder = make(tmp_path, "touch began; exec sleep 60")
    with subprocess.Popen([PYTHON, "-m", "pipelines", "run"], cwd=folder, env=environment()) as child:
        eventually((folder / "began").exists, 90)
        child.kill()
    eventually(lambda: not processes_in(folder))  # its Prefect server is gone, too

    (folder / "work.sh").write_text(WORK)
    completed = pipeline(folder, TROUPE_PROFILE="nightly")
    assert completed.returncode == 0, completed.stderr
    assert (record(folder)["profile"], (folder / "profile.txt").read_text()) == ("nightly", "nightly\n")
    assert "second at work" in completed.stdout
    assert "nothing to promote" in completed.stdout, "this graph has no evaluation"
    stages = record(folder)["stages"]
    assert {name: stage["outcome"] for name, stage in stages.items()} == {
        "inputs": "ran",
        "first": "cached",
        "second": "ran",
    }
    eventually(lambda: not processes_in(folder))
    with closing(sqlite3.connect(folder / ".troupe" / "prefect" / "prefect.db")) as database:
        states = database.execute("SELECT state_type FROM flow_run ORDER BY start_time").fetchall()
    assert states == [("CRASHED",), ("COMPLETED",)], "Prefect does not show the killed run as running for ever"


def test_bad_input_is_one_line_before_any_server_starts(tmp_path: Path) -> None:
    folder = make(tmp_path)
    refused = pipeline(folder, "after", TROUPE_SET="bad")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "inputs: override: run.seed: not a number\n"
    silent = pipeline(folder, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert silent.returncode == 2
    assert silent.stderr.startswith("PREFECT_API_URL: no Prefect server answers at http://127.0.0.1:9/api")
    assert silent.stderr.count("\n") == 1
