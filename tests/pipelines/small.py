"""A real DVC workspace whose stages take no time, and the pipeline as a user starts it there."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.conftest import THREADS

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable
# `inputs` refuses one override; `first` and `second` copy; what else `second` does is up to the test (work.sh).
GRAPH = """
stages:
  inputs:
    cmd: exec sh check.sh
    always_changed: true
    outs:
      - artifacts/params.yaml: {cache: false, persist: true}
  first:
    cmd: cat artifacts/params.yaml > first.txt
    params:
      - artifacts/params.yaml: [run]
    outs: [first.txt]
  second:
    cmd: exec sh work.sh
    deps: [first.txt, work.sh]
    outs: [second.txt]
"""
CHECK = """
case "$TROUPE_SET" in bad*) echo 'inputs: override: run.seed: not a number' >&2; exit 2;; esac
echo "$TROUPE_PROFILE" > profile.txt
mkdir -p artifacts; echo "run: {seed: ${TROUPE_SET:-1}}" > artifacts/params.yaml
"""
WORK = "echo second at work; cat first.txt > second.txt\n"


def make(folder: Path, work: str = WORK) -> Path:
    """A workspace in `folder` whose last stage runs the shell script `work`."""
    (folder / ".dvc").mkdir()
    config = "[core]\n    no_scm = True\n    analytics = False\n"  # what `dvc init --no-scm` takes a second for
    for name, text in {".dvc/config": config, "dvc.yaml": GRAPH, "check.sh": CHECK, "work.sh": work}.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def environment(**more: str) -> dict[str, str]:
    """The tests' threads, no server of the outer world, and this repository's code wherever the workspace is."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PREFECT_", "TROUPE_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(THREADS), **more}


def listening_to_ctrl_c() -> None:
    """As `preexec_fn`: a background job is started without Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def pipeline(folder: Path, overrides: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """`make pipeline SET=overrides` in a workspace, with more in its environment."""
    command = [PYTHON, "-m", "pipelines", "run", "--profile", "", "--set", overrides]
    return subprocess.run(command, cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=120)


def eventually(holds: Callable[[], object], seconds: float = 30) -> None:
    """Wait until something holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


def processes_in(folder: Path) -> list[str]:
    """The command lines of processes, other than our own, that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                line = " ".join(process.cmdline())  # empty when it is just ending
                found += [line] if line and Path(process.cwd()) == folder else []
        except psutil.Error:
            continue
    return found
