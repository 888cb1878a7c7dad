import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines import alive as module
from pipelines.alive import FOLDER, alive, dead, settled
from tests.pipelines.small import environment, eventually

HOLD = "import time; from pipelines.alive import alive\nwith alive('one'): print('in', flush=True); time.sleep(60)"


@pytest.fixture(autouse=True)
def _in_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "SECONDS_TO_LOCK", 0.0)


def test_a_killed_process_is_dead_until_somebody_has_dealt_with_it() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], env=environment(), stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        assert dead() == []
        child.kill()
    eventually(dead, 5)
    assert dead() == ["one"], "looking changes nothing"
    settled("one")
    assert dead() == []


def test_who_ends_with_an_exception_is_done() -> None:
    with pytest.raises(RuntimeError), alive("two"):
        raise RuntimeError
    assert not list(FOLDER.iterdir())


def test_a_process_that_has_just_made_its_file_is_given_time_to_lock_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_TO_LOCK", 5.0)
    FOLDER.mkdir(parents=True)
    (FOLDER / "three").touch()
    assert dead() == []
    later = time.time() + 6
    monkeypatch.setattr(time, "time", lambda: later)
    assert dead() == ["three"]
