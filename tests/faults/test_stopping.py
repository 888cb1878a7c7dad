"""SIGTERM and Ctrl-C at every moment of a process: its start, its work, its end; never a traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.supervisor import _without_tracebacks
from tests.forked import forked
from tests.pipelines.small import environment, eventually, listening_to_ctrl_c
from troupe.params import Params
from troupe.stages.common import stage_main

ROOT = Path(__file__).parents[2]
STARTS = {
    "stage": ["troupe.stages.pretrain"],
    "troupe": ["troupe.cli", "generate", "--prompt", "x", "--model", "none"],
    "pipeline": ["pipelines", "run", "--set", "bad"],
    "study": ["studies.gan", "--help"],
    "benchmark": ["benchmarks.tokenisation", "--help"],
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("entry", STARTS)
def test_at_its_start(tmp_path: Path, entry: str, number: signal.Signals) -> None:
    """Python itself takes 0.05 s to come to our first line; from there on one line is said."""
    command = [sys.executable, "-m", *STARTS[entry]]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listening_to_ctrl_c,
    ) as process:
        while not has_a_handler(process.pid) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    name = {"stage": "pretrain"}.get(entry, entry if entry in ("troupe", "pipeline") else STARTS[entry][0])
    assert (process.returncode, said) == (
        128 + number,
        f"{name}: stopped by {number.name}; the same command begins it again\n",
    )


def has_a_handler(pid: int) -> bool:
    """Whether a process catches SIGTERM, by what Linux says of it."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        time.sleep(0.5)
        return True
    caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_at_its_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["probe"])
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    says = tmp_path / "says"

    def body(_: Params) -> None:
        print("at work")
        try:
            time.sleep(60)
        finally:
            print("cleaned up")

    process = forked(lambda: stage_main("probe", body), says)
    eventually(lambda: says.exists() and "at work" in says.read_text())
    os.kill(process.pid or 0, number)
    process.join(60)
    assert process.exitcode == 128 + number
    end = f"probe: stopped by {number.name}; the same command begins it again"
    assert says.read_text().splitlines() == ["at work", "cleaned up", end]


def test_what_a_stopped_pipeline_prints_of_programs_that_are_not_ours() -> None:
    lines = [
        "pretrain: stopped by SIGTERM after step 3 of 40; the same command goes on there",
        "Traceback (most recent call last):",
        '  File "x.py", line 1, in <module>',
        "    import dvc",
        "",
        "KeyboardInterrupt",
        "the end",
    ]
    assert list(_without_tracebacks(lines)) == [lines[0], lines[-1]]
