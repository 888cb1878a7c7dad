"""One writer at a time in a workspace (the current folder): a pipeline, or a person who promotes or rolls back."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from troupe.errors import WorkspaceBusy
from troupe.files import write_json
from troupe.layout import STATE

HOLDER = STATE / "holder.json"  # beside the lock, for the message of whoever finds it taken
PATIENCE = 0.5  # seconds: whoever only looks whether somebody is at work holds the lock for a moment


@contextmanager
def workspace_lock() -> Iterator[None]:
    """Have the workspace to oneself. Raises WorkspaceBusy, naming the holder, when another process has it."""
    STATE.mkdir(exist_ok=True)
    try:
        # The system lets go of it when the process dies.
        with FileLock(STATE / "lock", timeout=PATIENCE, poll_interval=0.05):
            write_json(HOLDER, {"pid": os.getpid(), "started": now()})
            try:
                yield
            finally:
                HOLDER.unlink(missing_ok=True)
    except Timeout:
        raise WorkspaceBusy(f"{Path.cwd()}: {_holder()} is at work here; wait for it or stop it") from None


def now() -> str:
    """The local time with its offset from UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _holder() -> str:
    try:
        who = json.loads(HOLDER.read_text(encoding="utf-8"))
        return f"another process ({who['pid']}, since {who['started']})"
    except (OSError, ValueError, KeyError):
        return "another process"
