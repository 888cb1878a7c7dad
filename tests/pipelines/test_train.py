"""`python -m pipelines run` on its own: Prefect, DVC and MLflow are real; each run brings its own Prefect server."""

import json
import os
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipelines.servers import answers
from tests.pipelines.small import GRAPH, PYTHON, WORK, environment, eventually, make, pipeline, processes_in
from tests.servers import free_port
from troupe.credentials import TOKEN, USER
from troupe.layout import RUNS

WORST = "a%41 b#c?d=e&f'[g]*h:i$j;k"
pytestmark = [pytest.mark.slow, pytest.mark.servers]


def record(folder: Path) -> dict[str, Any]:
    """The record of the last run."""
    last = max((folder / RUNS).glob("*/run.json"), key=os.path.getmtime)
    return dict(json.loads(last.read_text()))


def states(folder: Path) -> list[str]:
    """Of all flow runs, the first one first, as Prefect's database has them."""
    with closing(sqlite3.connect(folder / ".troupe" / "prefect" / "prefect.db")) as database:
        return [state for (state,) in database.execute("SELECT state_type FROM flow_run ORDER BY start_time")]


@pytest.mark.fault("kill -9 of a stage: the same command completes the run")
def test_killed_then_completed(tmp_path: Path) -> None:
    """In a folder whose name means something to URLs, SQL, globs, shells and format strings."""
    folder = tmp_path / WORST
    folder.mkdir()
    make(folder, "touch began; exec sleep 60")
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
    assert [path.name for path in tmp_path.iterdir()] == [WORST], "nothing appears beside it"
    assert (folder / "mlflow.db").exists()
    assert states(folder) == ["CRASHED", "COMPLETED"], "Prefect does not show the killed run as running for ever"


@pytest.mark.fault("Prefect gone, or frozen, in a run: every stage is done, and its end is shown by the next server")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_prefect_gone_for_good_in_the_middle_of_a_run(number: signal.Signals, tmp_path: Path) -> None:
    """Frozen, its socket takes every request and answers none."""
    folder = make(tmp_path)
    waits = GRAPH.replace(
        "cmd: cat artifacts", "cmd: touch began; while ! test -e go; do sleep 0.1; done; cat artifacts"
    )
    (folder / "dvc.yaml").write_text(waits)
    port = free_port()
    serve = [PYTHON, "-m", "pipelines.prefect_server", "--port", str(port), "--no-ui"]
    home = {"PREFECT_HOME": f"{folder}/.troupe/prefect"}
    with subprocess.Popen(serve, cwd=folder, env=environment(**home)) as server:
        eventually(lambda: answers(f"http://127.0.0.1:{port}/api/health"), 90)
        token = (folder / TOKEN).read_text().strip()
        there = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
        refused = pipeline(folder, **there)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "wants a password; set PREFECT_API_AUTH_STRING" in refused.stderr
        command, own = (
            [PYTHON, "-m", "pipelines", "run"],
            environment(**there, PREFECT_API_AUTH_STRING=f"{USER}:{token}"),
        )
        with subprocess.Popen(command, cwd=folder, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
            eventually((folder / "began").exists, 90)
            server.send_signal(number)
            (folder / "go").touch()
            said, complained = (stream.decode() for stream in run.communicate(timeout=120))
        [outcome] = folder.glob(".troupe/alive/local/*.json")
        assert time.time() - outcome.stat().st_mtime < 15, "from the run's end to the command's"
        server.kill()
    assert run.returncode == 0, complained
    assert "nothing to promote" in said
    assert complained == "Prefect's server does not answer; it will show how this run has ended when it does\n"
    assert record(folder)["outcome"] == "completed"
    assert states(folder) == ["RUNNING"]
    (folder / "work.sh").write_text(f"# another\n{WORK}")
    assert pipeline(folder).returncode == 0
    assert states(folder) == ["COMPLETED", "COMPLETED"]


@pytest.mark.fault("a broken MLflow store: every stage is done, then one line")
def test_a_broken_store_is_a_status_after_all_stages_are_done(tmp_path: Path) -> None:
    """One line with the remedy, at the first run and at the next, which has nothing to do; the remedy helps."""
    folder = make(tmp_path)
    (folder / "mlflow.db").write_bytes(b"no database at all" * 100)
    for _ in range(2):
        ended = pipeline(folder)
        assert ended.returncode == 2
        assert ended.stderr.count("\n") == 1
        assert "mlflow.db: no database; move it away" in ended.stderr
        assert "Traceback" not in ended.stdout
        assert "models   artifacts/" in ended.stdout, "it went on to the last words"
        assert (folder / "second.txt").exists()
    assert record(folder)["outcome"] == "completed"
    (folder / "mlflow.db").rename(folder / "mlflow.db.broken")
    assert pipeline(folder).returncode == 0
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        assert store.execute("select count(*) from tags where key = 'troupe.run_id'").fetchone() > (0,)


@pytest.mark.parametrize("name", ["a{b}", "a\nb", b"a\xff".decode(errors="surrogateescape")])
def test_a_path_in_which_no_stage_can_run_is_refused_at_once(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    refused = pipeline(tmp_path / name)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.count("\n") == 1
    assert "rename the folder" in refused.stderr
    assert not any((tmp_path / name).iterdir())


def test_bad_input_is_one_line_before_any_server_starts(tmp_path: Path) -> None:
    folder = make(tmp_path)
    refused = pipeline(folder, "after", TROUPE_SET="bad")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "inputs: override: run.seed: not a number\n"
    silent = pipeline(folder, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert silent.returncode == 2
    assert silent.stderr.startswith("PREFECT_API_URL: no Prefect server answers at http://127.0.0.1:9/api")
    assert silent.stderr.count("\n") == 1
