import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines import alive as module
from pipelines.alive import alive, dead, folder, killed, outcome_of, settled
from tests.pipelines.small import environment, eventually
from troupe.credentials import USER, token

HOLD = "import time; from pipelines.alive import alive\nwith alive('one'): print('in', flush=True); time.sleep(60)"

SAY = HOLD.replace("print", "say({'type': 'COMPLETED'})\nprint").replace("'):", "') as say:")


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
    assert (dead(), killed()) == (["one"], ["one"]), "looking changes nothing"
    settled("one")
    assert dead() == []


def test_who_has_said_how_it_ended_is_alive_until_its_process_ends() -> None:
    """It has to say so to Prefect, too."""
    with subprocess.Popen([sys.executable, "-c", SAY], env=environment(), stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        assert (dead(), outcome_of("one")) == ([], {"type": "COMPLETED"})
        child.kill()
    eventually(dead, 5)
    assert (dead(), killed(), outcome_of("one")) == (["one"], [], {"type": "COMPLETED"})
    settled("one")
    assert not list(folder().iterdir())


def test_who_ends_with_an_exception_is_done() -> None:
    with pytest.raises(RuntimeError), alive("two"):
        raise RuntimeError
    assert not list(folder().iterdir())


def test_a_process_that_has_just_made_its_file_is_given_time_to_lock_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_TO_LOCK", 5.0)
    folder().mkdir(parents=True)
    (folder() / "three").touch()
    assert dead() == []
    later = time.time() + 6
    monkeypatch.setattr(time, "time", lambda: later)
    assert dead() == ["three"]


def test_a_killed_run_of_another_server_is_left_to_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker in a container and one outside: neither server knows the other's runs."""
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect:4200/api")
    folder().mkdir(parents=True)
    (folder() / "four").touch()
    assert dead() == ["four"]
    for other in ("http://127.0.0.1:4200/api", "http://127.0.0.1:4201/api"):
        monkeypatch.setenv("PREFECT_API_URL", other)
        assert dead() == []


def test_only_the_workspaces_own_servers_share_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on the host may report to a container's server, whose port on loopback may be that of `make ui` later."""
    own = folder()
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", f"{USER}:{token()}")
    for port in (4200, 4201):
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
        assert folder() == own
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", f"{USER}:of-the-containers")
    assert folder() == own.with_name("127.0.0.1-4201")
