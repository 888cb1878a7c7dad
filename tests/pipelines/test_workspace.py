import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.workspace import DVC_RWLOCK, claim, running_record
from tests.pipelines.small import environment, eventually
from troupe.errors import WorkspaceBusy
from troupe.layout import RUNS, STATE

GONE = 2**22 + 1  # above the largest process number of Linux


@pytest.fixture(autouse=True)
def _in_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


HOLD = "import time; from pipelines.workspace import claim\nwith claim(): time.sleep(60)"


@pytest.mark.fault("a second pipeline at once: one line, nothing changed")
def test_a_second_pipeline_is_refused_in_one_line_and_changes_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], env=environment()) as child:
        eventually(lambda: list(RUNS.glob("*/run.json")))
        before = sorted(RUNS.iterdir())
        with pytest.raises(WorkspaceBusy) as caught, claim():
            pass
        child.kill()
    assert str(child.pid) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(RUNS.iterdir()) == before
    with claim():
        pass  # a killed holder holds nothing


def test_one_can_claim_again_and_again() -> None:
    for _ in range(2):
        with claim():
            assert json.loads((STATE / "holder.json").read_text())["pid"] == os.getpid()
        assert not (STATE / "holder.json").exists()


def note_dvc(pid: int) -> None:
    holder = {"pid": pid, "cmd": "dvc repro"}
    DVC_RWLOCK.parent.mkdir(parents=True)
    DVC_RWLOCK.write_text(json.dumps({"write": {"/w/a.txt": holder}, "read": {"/w/b.txt": [holder]}}))


def test_the_lock_of_a_dead_dvc_is_removed() -> None:
    note_dvc(GONE)
    with claim():
        assert not DVC_RWLOCK.exists()


def test_the_lock_of_a_dvc_whose_number_lives_on_in_another_process_is_removed() -> None:
    note_dvc(os.getppid())  # as in a container, where everything is process 1
    with claim():
        assert not DVC_RWLOCK.exists()


def test_a_lock_cut_short_by_a_kill_is_removed() -> None:
    DVC_RWLOCK.parent.mkdir(parents=True)
    DVC_RWLOCK.write_text('{"write": {"/w/a')
    with claim():
        assert not DVC_RWLOCK.exists()


def test_a_dvc_at_work_is_left_in_peace() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "dvc"]) as dvc:
        note_dvc(dvc.pid)
        with pytest.raises(WorkspaceBusy, match=f"process {dvc.pid}"), claim():
            pass
        assert DVC_RWLOCK.exists()
        dvc.kill()


def test_the_record_of_a_run() -> None:
    with claim("run.seed=7", "cpu-hours") as run:
        assert run.environment()["TROUPE_SET"] == "run.seed=7"
        assert run.environment()["TROUPE_PROFILE"] == "cpu-hours"
        with run.recorded():
            with pytest.raises(RuntimeError), run.attempt("pretrain"):
                raise RuntimeError
            with run.attempt("pretrain") as ended:
                ended("ran")
            run.note_cached("corpus")
    record = json.loads((RUNS / run.id / "run.json").read_text())
    assert record["outcome"] == "completed"
    assert (record["overrides"], record["profile"]) == ("run.seed=7", "cpu-hours")
    assert record["started"] <= record["finished"]
    assert {name: (stage["outcome"], stage["attempts"]) for name, stage in record["stages"].items()} == {
        "pretrain": ("ran", 2),
        "corpus": ("cached", 0),
    }


@pytest.mark.parametrize(("error", "outcome"), [(RuntimeError, "failed"), (KeyboardInterrupt, "interrupted")])
def test_the_record_of_a_run_that_ends_badly(error: type[BaseException], outcome: str) -> None:
    with pytest.raises(error), claim() as run, run.recorded():
        raise error
    assert json.loads((RUNS / run.id / "run.json").read_text())["outcome"] == outcome


def test_a_run_that_found_nothing_to_do_leaves_no_record() -> None:
    with claim():
        pass
    assert not list(RUNS.iterdir())


def test_a_killed_run_is_recorded_as_such_by_the_next() -> None:
    with claim() as killed:
        text = (killed.folder / "run.json").read_text()
    killed.folder.mkdir()
    (killed.folder / "run.json").write_text(text)  # what a kill leaves
    assert running_record() == killed.id
    with claim() as run:
        assert json.loads((killed.folder / "run.json").read_text())["outcome"] == "killed"
        assert running_record() == run.id
    assert running_record() is None


def test_who_only_looks_does_not_keep_a_pipeline_out() -> None:
    """The upkeep holds the lock for a moment now and then."""
    look = "import time; from troupe.lock import *\nwith workspace_lock(): print(1, flush=True); time.sleep(0.2)"
    with subprocess.Popen([sys.executable, "-c", look], env=environment(), stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        with claim():
            pass
