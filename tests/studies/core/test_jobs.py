"""Jobs with real processes: what is done is never done again, and nothing is left when a study ends."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from studies.adversarial import arms as adversarial
from studies.core import jobs as jobs_module
from studies.core.command import faults_in_one_line
from studies.core.jobs import FIGURES, Job, by_arm, records, run_jobs
from studies.gan import arms as gan
from studies.moe import arms as moe
from studies.oracle import arms as oracle
from tests.forked import forked
from tests.studies.core.waiting import body
from troupe.dependencies import code_of
from troupe.errors import ProcessFailed


def runs(work: Path) -> list[str]:
    return [file.read_text() for file in sorted(work.glob("made/*/ran"))]


@pytest.mark.slow
def test_jobs_run_side_by_side_after_those_they_need_and_once(tmp_path: Path) -> None:
    """Jobs that fail are told at the end; one that needs one of them never runs, the others are done."""
    start, bad = Job("start", 1, {"seconds": 0.2}), Job("bad", 1, {"fail": "no luck"})
    wild = Job("wild", 1, {"diverge": "at step 3"})
    good = [Job("later", 2, {}, needs=start), start, Job("other", 3, {"seconds": 0.2})]
    with pytest.raises(ProcessFailed, match=r"made, bad, seed 1: (?s:.*)ValueError: no luck\n") as failed:
        run_jobs("made", body, [bad, Job("after it", 1, {}, needs=bad), wild, *good], tmp_path, workers=2)
    assert "made, wild, seed 1: at step 3\n" in str(failed.value)
    assert runs(tmp_path) == ["once\n"] * 5

    by_job = run_jobs("made", body, good, tmp_path, workers=2)
    assert runs(tmp_path) == ["once\n"] * 5
    assert list(by_job) == good
    found = list(by_job.values())
    assert [figures["value"] for figures in found] == [2, 1, 3]
    assert [figures["before"] for figures in found] == ["once\n", "", ""]
    assert {figures["threads"] for figures in found} == {1}
    assert os.getpid() not in {figures["process"] for figures in found}


def test_figures_by_arm_and_as_records() -> None:
    """A job that two arms share has one record."""
    one, two = Job("a", 1, {}), Job("a", 2, {})
    figures = {two: {"loss": 2.0}, one: {"loss": 1.0}}
    assert by_arm({"a": [one, two], "b": [two]}, figures) == {"a": [{"loss": 1.0}, {"loss": 2.0}], "b": [{"loss": 2.0}]}
    assert records(figures) == [{"arm": "a", "seed": 2, "loss": 2.0}, {"arm": "a", "seed": 1, "loss": 1.0}]


def test_a_key_changes_with_all_that_figures_depend_on() -> None:
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


BODIES = {
    "moe": moe.run_arm,
    "gan": gan.run_task,
    "oracle": oracle.run_task,
    "adversarial": adversarial.run_arm,
}


def test_what_shapes_a_study_is_part_of_the_code_of_its_jobs() -> None:
    """The settings of an arm are not only values: Arm.rules() of the oracle study makes the game's rules of them."""
    found = {study: code_of(body.__module__) for study, body in BODIES.items()}
    for study in ("moe", "oracle", "adversarial"):
        assert f"studies.{study}.settings" in found[study]
    assert "studies.gan.game" in found["gan"]


@pytest.mark.parametrize("study", BODIES)
def test_a_job_imports_nothing_of_the_benchmarks_which_its_code_would_lack(study: str) -> None:
    sources = [file.read_text() for file in code_of(BODIES[study].__module__).values()]
    assert not [source for source in sources if "import benchmarks" in source or "from benchmarks" in source]


def test_finished_jobs_of_other_code_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job("arm", 1, {})
    for code, ran in (("one", 1), ("one", 1), ("two", 2)):
        monkeypatch.setattr(jobs_module, "code_digest", lambda module, code=code: f"{module} {code}")
        run_jobs("made", body, [job], tmp_path, workers=1)
        assert len(runs(tmp_path)) == ran
    assert job.key("tests.studies.core.waiting one") in {folder.name for folder in (tmp_path / "made").iterdir()}


def stop_in_the_long_job(work: Path, number: signal.Signals, times: int) -> int | None:
    """Start a study, send it a signal when its long job runs for the `times`th time; no process may be left."""
    jobs = [*(Job("quick", seed, {}) for seed in range(3)), Job("long", 9, {"seconds": 60})]

    def study() -> None:
        with faults_in_one_line():
            run_jobs("made", body, jobs, work, workers=1)

    process = forked(study, work / "says.txt")
    while "".join(runs(work)).count("once") < 3 + times:
        assert process.is_alive()
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid or 0, number)
    process.join(30)
    assert not psutil.wait_procs(children, timeout=30)[1]
    return process.exitcode


@pytest.mark.slow
def test_a_killed_study_goes_on_where_it_was(tmp_path: Path) -> None:
    assert stop_in_the_long_job(tmp_path, signal.SIGKILL, times=1) == -signal.SIGKILL
    assert len(list(tmp_path.glob(f"made/*/{FIGURES}"))) == 3
    assert stop_in_the_long_job(tmp_path, signal.SIGINT, times=2) == 128 + signal.SIGINT
    assert sorted(runs(tmp_path)) == ["once\n", "once\n", "once\n", "once\nonce\n"]
    assert "Traceback" not in (tmp_path / "says.txt").read_text()
