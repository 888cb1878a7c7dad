"""How many processor cores this process may use: the one place that asks, on Linux, macOS and Windows alike."""

import os
from pathlib import Path

import psutil
from joblib import cpu_count

CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cores() -> int:
    """The machine's physical cores, or fewer where affinity, a quota of CPU time (cgroups) or OMP_NUM_THREADS says so.

    Two hyperthreads of a core share its units for matrices, so they count as one; those of an affinity are taken for
    cores. At least 1.
    """
    limits = [cpu_count(), psutil.cpu_count(logical=False) or cpu_count(), *quotas(), *_asked_for()]
    return int(max(1, min(limits)))


def quotas(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> list[int]:
    """Whole cores' worth of CPU time that each cgroup (version 2) around this process is allowed.

    joblib reads the outermost one only, which is the container's; a systemd unit with CPUQuota lies deeper.
    """
    try:
        lines = membership.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    folders = [root / path, *(root / path).parents] if path else []
    return [quota for folder in folders if folder != root and folder.is_relative_to(root) and (quota := _quota(folder))]


def _quota(folder: Path) -> int:
    """0: none."""
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return 0 if quota == "max" else max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):
        return 0


def _asked_for() -> list[int]:
    value = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # a list has a number for each nested level
    return [int(value)] if value.isdecimal() else []
