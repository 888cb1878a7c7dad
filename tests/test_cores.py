"""How many cores a process may use: what withholds some is heeded, wherever the machine is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from troupe import cores
from troupe.cores import usable_cores

ASK = [sys.executable, "-c", "from troupe.cores import usable_cores; print(usable_cores())"]


@pytest.fixture(autouse=True)
def _nothing_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity to set")
def test_affinity_is_heeded() -> None:
    one = {min(os.sched_getaffinity(0))}
    answer = subprocess.check_output(ASK, text=True, preexec_fn=lambda: os.sched_setaffinity(0, one))
    assert answer.strip() == "1"


def test_where_there_is_no_affinity_the_cores_of_the_machine_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS and Windows
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(("asked", "cores_"), [("1", 1), ("1,2", 1), ("many", None), ("", None), ("0", 1)])
def test_omp_num_threads_is_an_upper_bound(asked: str, cores_: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    free = usable_cores()
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert usable_cores() == (cores_ or free)


@pytest.mark.parametrize(
    ("quotas", "found"),
    [
        ({"system.slice/job.service": "200000 100000"}, [2]),
        ({"system.slice": "300000 100000", "system.slice/job.service": "150000 100000"}, [2, 3]),
        ({"system.slice/job.service": "10000 100000"}, [1]),
        ({"system.slice/job.service": "max 100000"}, []),
        ({"system.slice/job.service": "what is this"}, []),
        ({}, []),
    ],
)
def test_quotas_of_every_cgroup_around_the_process_count(
    quotas: dict[str, str], found: list[int], tmp_path: Path
) -> None:
    membership = tmp_path / "membership"
    membership.write_text("4:cpu:/old\n0::/system.slice/job.service\n")
    for folder, quota in quotas.items():
        (tmp_path / "cgroup" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / folder / "cpu.max").write_text(f"{quota}\n")
    assert cores.quotas(tmp_path / "cgroup", membership) == found


def test_a_process_outside_any_cgroup_has_no_quota(tmp_path: Path) -> None:
    assert cores.quotas(tmp_path, tmp_path / "nothing") == []
    (tmp_path / "root").write_text("0::/\n")
    assert cores.quotas(tmp_path, tmp_path / "root") == []
