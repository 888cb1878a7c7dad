"""Which flow runs of this workspace have a process: each holds a lock of the system, in .troupe/alive, while it works.

A process that is killed, with its runner, its server or its machine, leaves its file there with nobody's lock on it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from troupe.layout import STATE

FOLDER = STATE / "alive"
SECONDS_TO_LOCK = 5.0  # a younger file may be one whose process is about to lock it


@contextmanager
def alive(flow_run_id: str) -> Iterator[None]:
    """Count as alive in here; whoever leaves, with or without an exception, is not dead but done."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / flow_run_id
    with FileLock(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def known(flow_run_id: str) -> bool:
    """Whether a flow run has, or had until it was killed, a process in this workspace."""
    return (FOLDER / flow_run_id).exists()


def dead() -> list[str]:
    """The flow runs whose processes were killed and that nobody has dealt with yet (`settled`)."""
    return [path.name for path in sorted(FOLDER.glob("*")) if _abandoned(path)]


def settled(flow_run_id: str) -> None:
    """Say that a dead flow run has been dealt with."""
    (FOLDER / flow_run_id).unlink(missing_ok=True)


def _abandoned(path: Path) -> bool:
    try:
        if time.time() - path.stat().st_mtime < SECONDS_TO_LOCK:
            return False
        with FileLock(path, timeout=0):
            return True
    except (Timeout, FileNotFoundError):
        return False
