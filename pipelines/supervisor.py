"""The one way in which a child process is started: in its own process group, watched, and never left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Literal

import psutil

GUARD = Path(__file__).with_name("guard.py")
SAMPLE_SECONDS = 2.0
GRACE_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before a command that should run is started again
STEADY_SECONDS = 60.0  # what has run for longer begins with the shortest pause again


def supervise(
    command: Sequence[str],
    on_line: Callable[[str], None],
    log: Path,
    system_log: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a command to its end and return its exit status.

    Every line of its output, standard error too, goes to `log` and to `on_line` as it comes. `system_log` receives JSON
    lines {"step" and "time" in seconds, "system/cpu_percent" (100 is one core), "system/memory_megabytes"} of the
    command and its children. An exception, a signal that raises one included, ends the whole group: SIGINT first, as
    Ctrl-C would, at which dvc waits for its stage (at SIGTERM it does not) and a stage that trains saves its state;
    SIGKILL after GRACE_SECONDS. What the command says until then reaches `on_line` too, but for tracebacks of programs
    that the signal has met while they started; they stand in the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with started(command, subprocess.PIPE, environment) as child, log.open("a", encoding="utf-8") as file:
        watcher = threading.Thread(target=_watch, args=(child, system_log), daemon=True)
        watcher.start()

        def logged() -> Iterator[str]:
            for line in _lines(child):
                file.write(line + "\n")
                file.flush()
                yield line

        try:
            for line in logged():
                on_line(line)
        except BaseException:
            _end(child, signal.SIGINT)
            for line in _without_tracebacks(logged()):
                on_line(line)
            raise
        watcher.join()
        return child.wait()


@contextmanager
def started(
    command: Sequence[str],
    output: IO[str] | int | None = None,
    environment: Mapping[str, str] | None = None,
    listener: socket.socket | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Have a command running behind a guard (guard.py); its whole process group ends with this block or this process.

    SIGTERM first, SIGKILL for what is left after GRACE_SECONDS. `environment` adds to our own. `listener` is its
    standard input (file descriptor 0), as inetd has it; this process keeps it, and with it the port.
    """
    stdin = ["--stdin", str(listener.fileno())] if listener else []
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", str(GUARD), *stdin, *command],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        env={**os.environ, "PATH": _path(), "PYTHONUNBUFFERED": "1", **(environment or {})},
        start_new_session=True,
        pass_fds=[listener.fileno()] if listener else [],
    )
    try:
        yield child
    finally:
        _end(child, signal.SIGTERM)
        for pipe in (child.stdin, child.stdout):
            if pipe:
                pipe.close()


class Kept:
    """A command that is started again whenever it ends, after a pause that doubles each time it ends soon."""

    def __init__(self, name: str, command: Sequence[str], log: Path, listener: socket.socket | None = None) -> None:
        """Start it, with its output in `log`. `again` is the command for every later time.

        A server is given the socket that it is to listen on: while it does not run, who connects waits for it, and
        nobody else can take its port.
        """
        self.name, self.log, self._listener = name, log, listener
        self.again = command
        self._pause = FIRST_PAUSE
        self._due: float | None = None  # when it starts again; None while it runs
        self._stack = ExitStack()
        self._start(command, "w")

    def look(self, say: Callable[[str], None]) -> None:
        """Start it again if it has ended and its pause is over. `say` receives a line when it has ended."""
        now = time.monotonic()
        if self._due is None:
            if (status := self.child.poll()) is None:
                return
            self._stack.close()  # and with it what the command has left in its group
            self._pause = FIRST_PAUSE if now - self._began > STEADY_SECONDS else min(2 * self._pause, LONGEST_PAUSE)
            self._due = now + self._pause
            say(f"{self.name} has ended (status {status}); it starts again in {self._pause:.0f} s; see {self.log}")
        elif now >= self._due:
            self._start(self.again, "a")

    def stop(self) -> None:
        """End it for good."""
        self._stack.close()

    def _start(self, command: Sequence[str], mode: Literal["w", "a"]) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        file = self._stack.enter_context(self.log.open(mode, encoding="utf-8"))
        self.child = self._stack.enter_context(started(command, file, listener=self._listener))
        self._began, self._due = time.monotonic(), None


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise SystemExit(143) in here, so that `finally` runs and children are stopped, as with Ctrl-C."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(child: subprocess.Popen[bytes], request: signal.Signals) -> None:
    """Ask the whole group to end, and see to it that it does."""
    if child.poll() is None:
        _signal_group(child, request)
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_SECONDS)
    _signal_group(child, signal.SIGKILL)
    child.wait()


def _lines(child: subprocess.Popen[bytes]) -> Iterator[str]:
    assert child.stdout
    for line in child.stdout:
        yield line.decode("utf-8", errors="replace").rstrip("\r\n")


def _without_tracebacks(lines: Iterable[str]) -> Iterator[str]:
    inside = False
    for line in lines:
        if line.startswith("Traceback (most recent call last)"):
            inside = True
        elif not inside:
            yield line
        elif line and not line[0].isspace():  # the exception itself, which ends it
            inside = False


def _path() -> str:
    """PATH with this interpreter's folder first: `python` in dvc.yaml is the one that runs the pipeline."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # the whole group has ended
        os.killpg(child.pid, number)


def _watch(child: subprocess.Popen[bytes], system_log: Path | None) -> None:
    """Sample until the command ends; then end what it left in its group, such as a stage whose dvc was killed."""
    began, usage = time.time(), _Usage(child.pid)
    while True:
        try:
            child.wait(SAMPLE_SECONDS)
        except subprocess.TimeoutExpired:
            if system_log:
                now = time.time()
                record = {"step": round(now - began), "time": round(now, 3), **usage.sample()}
                with system_log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
        else:
            return _signal_group(child, signal.SIGKILL)


class _Usage:
    """CPU and memory of a process and its descendants."""

    def __init__(self, pid: int) -> None:
        self._pid, self._cpu, self._time = pid, 0.0, time.monotonic()

    def sample(self) -> dict[str, float]:
        cpu, memory = 0.0, 0
        for process in self._tree():
            try:
                times = process.cpu_times()
                cpu += times.user + times.system
                memory += process.memory_info().rss
            except psutil.Error:
                continue  # ended meanwhile
        now = time.monotonic()
        percent = 100 * max(0.0, cpu - self._cpu) / (now - self._time)  # below zero when a child has ended
        self._cpu, self._time = cpu, now
        return {"system/cpu_percent": round(percent, 1), "system/memory_megabytes": round(memory / 1e6, 1)}

    def _tree(self) -> list[psutil.Process]:
        try:
            process = psutil.Process(self._pid)
            return [process, *process.children(recursive=True)]
        except psutil.Error:
            return []
