"""Which flow runs of this workspace have a process: each holds a lock of the system, in .troupe/alive, while it works.

A process that is killed, with its runner, its server or its machine, leaves its file there with nobody's lock on it. A
run whose work is done says what it has come to in a second file, before it says so to Prefect, which may not answer. A
workspace may have runs of several Prefect servers, in a container and outside; each server has a folder there.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import BaseFileLock, FileLock, Timeout

from troupe.credentials import USER, token
from troupe.files import read_json, write_json
from troupe.layout import STATE

FOLDER = STATE / "alive"
LAST_LOOK = STATE / "upkeep"  # written whenever the runner has looked at its server: how old it is says how that is
OUTCOME_SUFFIX = ".json"
_HELD: list[BaseFileLock] = []
SECONDS_TO_LOCK = 5.0  # a younger file may be one whose process is about to lock it


@contextmanager
def alive(flow_run_id: str) -> Iterator[Callable[[Any], None]]:
    """Count as alive in here, and after it until this process ends if it has said what the run has come to.

    It says so with the function that this gives. Who leaves with an exception, without having said so, is not dead but
    done: whoever raised it reports the end.
    """
    folder().mkdir(parents=True, exist_ok=True)
    path, lock = folder() / flow_run_id, FileLock(folder() / flow_run_id)
    lock.acquire()
    _outcome_file(path).unlink(missing_ok=True)  # of an earlier attempt

    def say(outcome: Any) -> None:
        write_json(_outcome_file(path), outcome)
        _HELD.append(lock)  # the system lets go of it

    try:
        yield say
    finally:
        if lock not in _HELD:
            path.unlink(missing_ok=True)
            lock.release()


def outcome_of(flow_run_id: str) -> Any:
    """What a flow run said that it has come to, before its process ended; None if it did not come to say so."""
    path = _outcome_file(folder() / flow_run_id)
    return read_json(path) if path.exists() else None


def known(flow_run_id: str) -> bool:
    """Whether a flow run has, or had until it was killed, a process in this workspace."""
    return (folder() / flow_run_id).exists()


def dead() -> list[str]:
    """The flow runs whose processes have ended, or were killed, and that nobody has dealt with yet (`settled`)."""
    return [path.name for path in sorted(folder().glob("*")) if path.suffix != OUTCOME_SUFFIX and _abandoned(path)]


def killed() -> list[str]:
    """Those of them that did not come to say how they have ended."""
    return [flow_run_id for flow_run_id in dead() if not outcome_of(flow_run_id)]


def settled(flow_run_id: str) -> None:
    """Say that a dead flow run has been dealt with."""
    (folder() / flow_run_id).unlink(missing_ok=True)
    _outcome_file(folder() / flow_run_id).unlink(missing_ok=True)


def folder() -> Path:
    """Where the flow runs of the server are that PREFECT_API_URL names.

    The workspace's own servers, all with one database, share a folder. They alone are sent the workspace's token: on
    loopback there may be others, such as a container's.
    """
    url = os.environ.get("PREFECT_API_URL")
    if not url or os.environ.get("PREFECT_API_AUTH_STRING") == f"{USER}:{token()}":
        return FOLDER / "local"
    return FOLDER / re.sub("[^A-Za-z0-9.]+", "-", urlsplit(url).netloc.rpartition("@")[2])


def _outcome_file(path: Path) -> Path:
    return path.with_name(path.name + OUTCOME_SUFFIX)


def _abandoned(path: Path) -> bool:
    try:
        if time.time() - path.stat().st_mtime < SECONDS_TO_LOCK:
            return False
        with FileLock(path, timeout=0):
            return True
    except (Timeout, FileNotFoundError):
        return False
