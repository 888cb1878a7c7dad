"""What commands say of servers of `make ui` that do not answer or are of another release; closed standard streams."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest

from pipelines import servers
from pipelines.servers import ANNOUNCEMENT, announced, answers, listening, port_of, prefect_server
from tests.pipelines.small import PYTHON, environment, eventually, listening_to_ctrl_c, make, pipeline, processes_in
from tests.servers import free_port

SCHEDULE = ["schedule", "--cron", "0 3 * * *"]


@contextmanager
def held(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Prefect server that `make ui` has announced in a folder: its socket is held, nobody answers."""
    monkeypatch.chdir(folder)
    with listening() as listener, announced(prefect_server(port_of(listener))):
        yield f"http://127.0.0.1:{port_of(listener)}/api"


def said(folder: Path, *words: str, **more: str) -> str:
    """What a command that is refused says, within 15 s: one line."""
    began = time.monotonic()
    command = [PYTHON, "-m", "pipelines", *words]
    ended = subprocess.run(command, cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1), ended.stderr
    assert time.monotonic() - began < 15
    return ended.stderr


@pytest.mark.fault("a server of `make ui` never starts again: who asks is told so within 15 s")
@pytest.mark.slow
def test_a_held_socket_at_which_nobody_answers_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with held(tmp_path, monkeypatch) as api:
        for words in (["serve"], SCHEDULE, ["sweep"]):
            expected = "Prefect's server of `make ui` does not answer; see .troupe/logs/prefect.log\n"
            assert said(tmp_path, *words) == expected
        assert said(tmp_path, "run", PREFECT_API_URL=api).startswith(
            f"PREFECT_API_URL: no Prefect server answers at {api}"
        )


@pytest.mark.slow
@pytest.mark.servers
def test_a_run_beside_such_a_server_brings_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path)
    with held(folder, monkeypatch):
        ended = pipeline(folder)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.fault("an upgrade while `make ui` runs: one line says to start that again")
@pytest.mark.slow
@pytest.mark.parametrize("words", [["run"], SCHEDULE], ids=lambda words: words[0])
def test_servers_of_another_release_are_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(tmp_path, monkeypatch):
        note = json.loads(ANNOUNCEMENT.read_text())
        assert note["releases"] == {package: version(package) for package in servers.PACKAGES}
        ANNOUNCEMENT.write_text(json.dumps(note | {"releases": note["releases"] | {"mlflow": "3.1.4"}}))
        assert said(tmp_path, *words) == (
            f"`make ui` runs mlflow 3.1.4, and {version('mlflow')} has been installed since; "
            "stop it with Ctrl-C and start it again\n"
        )


@pytest.mark.slow
@pytest.mark.servers
def test_make_ui_with_closed_standard_streams(tmp_path: Path) -> None:
    """As `make ui <&- >&- 2>&-` has it: no server's socket comes to stand where a child expects its input."""
    folder = make(tmp_path)
    ports = [str(free_port()), str(free_port())]
    words = f"exec {PYTHON} -m pipelines ui --prefect-port {ports[0]} --mlflow-port {ports[1]} <&- >&- 2>&-"
    with subprocess.Popen(["sh", "-c", words], cwd=folder, env=environment(), preexec_fn=listening_to_ctrl_c) as child:
        try:
            eventually((folder / ANNOUNCEMENT).exists, 120)
            assert all(
                answers(f"http://127.0.0.1:{port}/{at}")
                for port, at in zip(ports, ("api/health", "health"), strict=True)
            )
        finally:
            child.send_signal(signal.SIGINT)
            assert child.wait(60) == 130
    assert not processes_in(folder)
