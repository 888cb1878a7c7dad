"""What every stage shares: parameters from the command line, errors as one line, metric log, progress."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from troupe.progress import MetricsLog, lines_under, lines_up_to, read_metrics, track

SHIPPED = Path(__file__).parents[2] / "params.yaml"
STAGE = """
from troupe.errors import CorpusError
from troupe.stages.common import stage_main

def body(params):
    if params.pretrain.steps == 13:
        raise CorpusError("data.source: unlucky")
    print(params.pretrain.steps)

stage_main("probe", body)
"""


def run(tmp_path: Path, *args: str, overrides: str = "", profile: str = "") -> subprocess.CompletedProcess[str]:
    (tmp_path / "params.yaml").write_text(SHIPPED.read_text())
    return subprocess.run(
        [sys.executable, "-c", STAGE, *args],
        cwd=tmp_path,
        env={"TROUPE_SET": overrides, "TROUPE_PROFILE": profile},
        capture_output=True,
        text=True,
        check=False,
    )


def test_overrides_come_from_the_environment(tmp_path: Path) -> None:
    assert run(tmp_path, overrides="pretrain.steps=7 run.seed=3").stdout == "7\n"


def test_a_profile_comes_from_the_environment_too_and_overrides_win(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "mine.yaml").write_text("pretrain: {steps: 5}\n")
    assert run(tmp_path, profile="mine").stdout == "5\n"
    assert run(tmp_path, profile="mine", overrides="pretrain.steps=7").stdout == "7\n"
    assert run(tmp_path, profile="yours").stderr == "probe: profile 'yours': no such profile; there are mine\n"


def test_a_named_file_is_read_as_it_stands(tmp_path: Path) -> None:
    """Under DVC the overrides are already in the file; laying them over it again would hide what DVC recorded."""
    steps = run(tmp_path).stdout
    assert run(tmp_path, "--params", "params.yaml", overrides="pretrain.steps=7").stdout == steps != "7\n"


def test_an_error_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    result = run(tmp_path, overrides="pretrain.steps=13")
    assert (result.returncode, result.stderr) == (2, "probe: data.source: unlucky\n")


def test_a_wrong_override_stops_the_stage(tmp_path: Path) -> None:
    result = run(tmp_path, overrides="pretrain.steps=some")
    assert result.returncode == 2
    assert result.stderr.startswith("probe: override: pretrain.steps")
    assert result.stdout == ""


def test_the_log_is_on_disk_line_by_line(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log(1, {"train/loss": 2.5})
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (record["step"], record["train/loss"]) == (1, 2.5)


def test_a_resumed_log_drops_what_the_lost_attempt_wrote(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsLog(path)
    for step in (10, 20, 30):
        first(step, {"loss": float(step)})
    with path.open("a") as file:
        file.write('{"step": 40, "lo')  # killed while writing
    second = MetricsLog(path, lines_up_to(path, 20))
    second(30, {"loss": 0.5})
    assert [(r["step"], r["loss"]) for r in read_metrics(path)] == [(10, 10.0), (20, 20.0), (30, 0.5)]


def test_a_resumed_log_of_several_methods_drops_what_each_had_logged_beyond_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsLog(path)
    for method, steps in {"tilt": 2, "gan": 3, "distil": 1}.items():
        for step in range(steps + 1):
            first.under(method)(step, {"val/bpb": step / 2})
    lines = [*lines_under(path, "gan", 2), *lines_under(path, "distil", 0)]
    resumed = MetricsLog(path, lines)
    resumed.under("tilt")(0, {"val/bpb": 9.0})
    kept = [(r["step"], name, value) for r in read_metrics(path) for name, value in r.items() if "/" in name]
    gan = [(step, "gan/val/bpb", step / 2) for step in range(3)]
    assert kept == [*gan, (0, "distil/val/bpb", 0.0), (0, "tilt/val/bpb", 9.0)]


def test_a_fresh_log_starts_empty(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path)(1, {"loss": 1.0})
    MetricsLog(path)
    assert read_metrics(path) == []


def test_progress_outside_a_terminal_is_plain_and_sparse(capsys: pytest.CaptureFixture[str]) -> None:
    with track("pretrain", 1000) as update:
        for step in range(1, 1001):
            update(step, {"loss": 2.3125, "tok/s": 14_200})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 3
    assert lines[-1].split() == ["pretrain", "1000/1000", "loss", "2.312", "tok/s", "14.2k", "0:00", "left"]
