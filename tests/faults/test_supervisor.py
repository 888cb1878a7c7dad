"""Nothing outlives the pipeline: real processes, real kill -9."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipelines import supervisor
from pipelines.repro import StageFailed, run_stage
from pipelines.servers import listening, port_of
from pipelines.supervisor import Kept, started, supervise
from pipelines.workspace import claim
from tests.pipelines.small import environment, eventually, make, processes_in

STAGE = "echo $$ > stage.pid; exec sleep 60"  # it has not come to ask for its own death, as ours do
RUN_STAGE = """
from pipelines.repro import run_stage
from pipelines.workspace import claim
with claim() as run:
    for stage in ("inputs", "first", "second"):
        run_stage(stage, run, print)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_output_status_and_environment(folder: Path) -> None:
    lines: list[str] = []
    command = ["sh", "-c", 'echo "$GREETING"; echo trouble >&2; printf "caf\\303\\251 \\377\\n"; exit 3']
    status = supervise(command, lines.append, folder / "logs" / "x.log", environment={"GREETING": "hello"})
    assert status == 3
    assert lines == ["hello", "trouble", "café �"]
    assert (folder / "logs" / "x.log").read_text().splitlines() == lines


def test_death_by_a_signal_is_told_as_shells_do(folder: Path) -> None:
    assert supervise(["sh", "-c", "kill -9 $$"], print, folder / "x.log") == 128 + signal.SIGKILL


def test_what_the_command_uses_is_sampled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "SAMPLE_SECONDS", 0.2)
    busy = "import time; end = time.time() + 1.5; kept = bytearray(60_000_000)\nwhile time.time() < end: pass"
    supervise([sys.executable, "-c", busy], print, folder / "x.log", folder / "x.system.jsonl")
    records = [json.loads(line) for line in (folder / "x.system.jsonl").read_text().splitlines()]
    assert max(record["system/memory_megabytes"] for record in records) > 60
    assert 5 < max(record["system/cpu_percent"] for record in records) < 300
    assert all(record["step"] >= 0 and abs(record["time"] - time.time()) < 60 for record in records)


def test_a_daemon_that_the_command_leaves_behind_is_ended(folder: Path) -> None:
    """It also holds the pipe open: the supervisor must not wait for it."""
    began = time.monotonic()
    assert supervise(["sh", "-c", "sleep 60 & echo $! > pid"], print, folder / "x.log") == 0
    assert time.monotonic() - began < 20
    eventually(lambda: ended(int((folder / "pid").read_text())))


def test_an_exception_ends_the_group_politely_first(folder: Path) -> None:
    def stop_at_once(_: str) -> None:
        raise KeyboardInterrupt

    script = "trap 'echo asked > asked; exit' INT; echo ready; while :; do sleep 0.1; done"
    with pytest.raises(KeyboardInterrupt):
        supervise(["sh", "-c", script], stop_at_once, folder / "x.log")
    assert (folder / "asked").exists()
    assert not processes_in(folder)


def test_what_does_not_listen_is_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "GRACE_SECONDS", 0.5)
    with started(["sh", "-c", "trap '' TERM; touch ready; while :; do sleep 0.1; done"]):
        eventually((folder / "ready").exists)
    assert not processes_in(folder)


def test_sigterm_to_the_supervisor_reaches_the_command(folder: Path) -> None:
    code = (
        "from pathlib import Path; from pipelines.supervisor import supervise, terminable\n"
        "with terminable(): supervise(['sh', '-c', \"trap 'touch asked; exit' INT; touch ready; "
        "while :; do sleep 0.1; done\"], print, Path('x.log'))"
    )
    with subprocess.Popen([sys.executable, "-c", code], env=environment()) as child:
        eventually((folder / "ready").exists)
        child.terminate()
        assert child.wait(20) == 128 + signal.SIGTERM
    assert (folder / "asked").exists()
    assert not processes_in(folder)


@pytest.mark.slow
def test_what_should_run_runs_again_after_a_pause_that_grows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.1)
    lines: list[str] = []
    first, later = (["sh", "-c", f"echo {name}; exec sleep 60"] for name in ("first", "later"))
    kept = Kept("It", first, folder / "it.log")
    kept.again = later
    try:
        for number in (1, 2):
            before = kept.child.pid
            eventually(lambda n=number: (folder / "it.log").read_text().count("\n") == n)
            os.kill(psutil.Process(before).children()[0].pid, signal.SIGKILL)  # the command, not its guard
            eventually(lambda old=before: kept.look(lines.append) or kept.child.pid != old)
    finally:
        kept.stop()
    assert ended(kept.child.pid)
    assert (folder / "it.log").read_text().split()[:2] == ["first", "later"]
    assert [line.partition(";")[0] for line in lines] == ["It has ended (status 137)"] * 2


SERVER = """
import os, socket
listener = socket.socket(fileno=0)
while True:
    caller, _ = listener.accept()
    caller.sendall(str(os.getpid()).encode())
    caller.close()
"""


@pytest.mark.security("a server of `make ui` is down: nobody else can take its port, and be sent the token")
def test_while_a_server_is_down_its_port_is_nobody_elses_and_who_asks_waits(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.1)
    with listening() as listener:
        place = ("127.0.0.1", port_of(listener))
        kept = Kept("It", [sys.executable, "-c", SERVER], folder / "it.log", listener)
        try:
            with socket.create_connection(place, timeout=20) as caller:
                first = int(caller.recv(10))
            os.kill(first, signal.SIGKILL)
            eventually(lambda: ended(first), 5)
            with socket.create_connection(place, timeout=20) as caller:
                with pytest.raises(OSError, match="in use"):
                    socket.create_server(place)
                eventually(lambda: kept.look(str) or kept.child.poll() is not None, 5)
                eventually(lambda: kept.look(str) or kept.child.poll() is None, 5)
                assert int(caller.recv(10)) not in (0, first)
        finally:
            kept.stop()


@pytest.mark.fault("kill -9 of the pipeline: dvc and the stage end with it, the next run works")
def test_kill_9_of_the_pipeline_ends_dvc_and_the_stage_and_the_next_run_works(folder: Path) -> None:
    make(folder, STAGE)
    with subprocess.Popen([sys.executable, "-c", RUN_STAGE], env=environment(), cwd=folder) as pipeline:
        eventually((folder / "stage.pid").exists)
        chain = psutil.Process(pipeline.pid).children(recursive=True)
        assert len(chain) >= 3, "guard, dvc, stage"
        pipeline.kill()
    eventually(lambda: all(ended(process.pid) for process in chain), 5)
    assert not processes_in(folder)

    (folder / "work.sh").write_text("cat first.txt > second.txt")
    again = subprocess.run([sys.executable, "-c", RUN_STAGE], env=environment(), cwd=folder, capture_output=True)
    assert again.returncode == 0, again.stderr
    assert (folder / "second.txt").exists()


@pytest.mark.fault("kill -9 of dvc or of what starts it: no process is left behind")
@pytest.mark.slow
def test_kill_9_of_one_link_of_the_chain_ends_the_others(folder: Path) -> None:
    """dvc killed would leave its stage running; the guard killed would leave both."""
    make(folder, STAGE)
    with claim() as run:
        run_stage("inputs", run, print)
        run_stage("first", run, print)
        for link in ("dvc", "guard"):
            (folder / "stage.pid").unlink(missing_ok=True)
            threading.Thread(target=kill_parent, args=(link,)).start()
            with pytest.raises(StageFailed) as caught:
                run_stage("second", run, print)
            assert caught.value.again
            eventually(lambda: ended(stage_pid()), 5)
            assert not processes_in(folder)


def stage_pid() -> int:
    path = Path("stage.pid")
    return int(path.read_text() or 0) if path.exists() else 0


def kill_parent(link: str) -> None:
    eventually(stage_pid)
    dvc = psutil.Process(stage_pid()).parent()
    assert dvc
    victim = dvc if link == "dvc" else dvc.parent()
    assert victim
    victim.kill()
