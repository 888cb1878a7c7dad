"""Jobs with real processes: what is done is never done again, and nothing is left when a study ends."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from studies.jobs import FIGURES, Figures, Job, code_digest, run_jobs
from troupe.errors import ProcessFailed

ROOT = Path(__file__).parents[2]
CODE = [Path(__file__)]


def body(job: Job, folder: Path, needed: Path | None) -> Figures:
    """Notes that it ran, waits if asked to, fails if asked to."""
    with (folder / "ran").open("a") as file:
        file.write("once\n")
    time.sleep(job.settings.get("seconds", 0.0))
    if "fail" in job.settings:
        raise ValueError(job.settings["fail"])
    before = (needed / "ran").read_text() if needed else ""
    return {"value": job.seed, "before": before, "threads": torch.get_num_threads(), "process": os.getpid()}


def runs(work: Path) -> list[str]:
    return [file.read_text() for file in sorted(work.glob("made/*/ran"))]


@pytest.mark.slow
def test_jobs_run_side_by_side_after_those_they_need_and_once(tmp_path: Path) -> None:
    """A job that fails is told at the end; the one that needs it never runs, the others are done."""
    start, bad = Job("start", 1, {"seconds": 0.2}), Job("bad", 1, {"fail": "no luck"})
    good = [Job("later", 2, {}, needs=start), start, Job("other", 3, {"seconds": 0.2})]
    with pytest.raises(ProcessFailed, match=r"made, bad, seed 1: (?s:.*)ValueError: no luck\n"):
        run_jobs("made", body, [bad, Job("after it", 1, {}, needs=bad), *good], CODE, tmp_path, workers=2)
    assert runs(tmp_path) == ["once\n"] * 4

    found = run_jobs("made", body, good, CODE, tmp_path, workers=2)
    assert runs(tmp_path) == ["once\n"] * 4
    assert [figures["value"] for figures in found] == [2, 1, 3]
    assert [figures["before"] for figures in found] == ["once\n", "", ""]
    assert {figures["threads"] for figures in found} == {1}
    assert os.getpid() not in {figures["process"] for figures in found}


def test_a_key_changes_with_all_that_figures_depend_on(tmp_path: Path) -> None:
    job = Job("arm", 1, {"a": 1, "b": 2})
    changed = [
        replace(job, arm="other"),
        replace(job, seed=2),
        replace(job, settings={"a": 1, "b": 3}),
        replace(job, needs=job),
        replace(job, needs=replace(job, seed=2)),
    ]
    assert len({one.key("code") for one in (job, *changed)} | {job.key("other code")}) == 7
    assert replace(job, settings={"b": 2, "a": 1}).key("code") == job.key("code")

    (tmp_path / "code").mkdir()
    file = tmp_path / "code" / "part.py"
    file.write_text("x = 1\n")
    before = code_digest([tmp_path / "code"])
    assert code_digest([tmp_path / "code"]) == before
    file.write_text("x = 2\n")
    assert code_digest([tmp_path / "code"]) != before


STUDY = """
from pathlib import Path
from studies.jobs import Job, run_jobs
from tests.studies.test_jobs import CODE, body

if __name__ == "__main__":
    jobs = [*(Job("quick", seed, {}) for seed in range(3)), Job("long", 9, {"seconds": 60})]
    run_jobs("made", body, jobs, CODE, Path("."), workers=1)
"""


def stop_in_the_long_job(folder: Path, number: signal.Signals, times: int) -> None:
    """Start the study, send it a signal when its long job runs for the `times`th time; no process may be left."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "study.py"], cwd=folder, env=environment, stderr=subprocess.DEVNULL
    ) as process:
        while "".join(runs(folder)).count("once") < 3 + times:
            assert process.poll() is None
            time.sleep(0.01)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        process.wait(10)
    assert not psutil.wait_procs(children, timeout=10)[1]


@pytest.mark.slow
def test_a_killed_study_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "study.py").write_text(STUDY)
    stop_in_the_long_job(tmp_path, signal.SIGKILL, times=1)
    assert len(list(tmp_path.glob(f"made/*/{FIGURES}"))) == 3
    stop_in_the_long_job(tmp_path, signal.SIGINT, times=2)
    assert sorted(runs(tmp_path)) == ["once\n", "once\n", "once\n", "once\nonce\n"]
