"""One pipeline at a time in a workspace (the current folder), and a record of each under .troupe/runs/<id>/."""

import json
import os
import platform
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import psutil
from ruamel.yaml import YAML

from troupe.errors import WorkspaceBusy
from troupe.files import read_json, sha256_file, write_json
from troupe.layout import EFFECTIVE_PARAMS, RUNS, model_dir
from troupe.lock import now, workspace_lock
from troupe.overlay import split_overrides
from troupe.stages.common import PROFILE_VARIABLE, SET_VARIABLE

Outcome = Literal["ran", "cached", "restored", "failed"]  # restored: from DVC's cache, without running
DVC_RWLOCK = Path(".dvc/tmp/rwlock")
DVC_LOCK = Path("dvc.lock")
COMPUTED = ("device", "threads", "precision", "compiled", "probe/float32", "probe/bfloat16")  # of summary.json


class Run:
    """A pipeline run and its record, run.json, which is rewritten whole at every change."""

    def __init__(self, overrides: str, profile: str) -> None:
        self.id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        self.folder = RUNS / self.id
        self.overrides = overrides
        self.profile = profile
        self.record: dict[str, Any] = {
            "run_id": self.id,
            "started": now(),
            "finished": None,
            "outcome": "running",
            "profile": profile,
            "overrides": overrides,
            "git": _git(),
            "host": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "versions": {"python": platform.python_version(), "torch": _version("torch")},
            "stages": {},
        }
        self.save()

    def environment(self) -> dict[str, str]:
        """What every child of this run finds in its environment."""
        return {"TROUPE_RUN_ID": self.id, PROFILE_VARIABLE: self.profile, SET_VARIABLE: self.overrides}

    def note_params(self) -> None:
        """Record the parameters that this run works with, profile and overrides laid over them."""
        if EFFECTIVE_PARAMS.exists():
            self.record["params"] = YAML(typ="safe").load(EFFECTIVE_PARAMS.read_text(encoding="utf-8"))
            self.record["params_sha256"] = sha256_file(EFFECTIVE_PARAMS)
            self.save()

    @contextmanager
    def attempt(self, stage: str) -> Iterator[Callable[[Outcome], None]]:
        """Record an attempt at a stage, which failed unless the function that this gives is told otherwise."""
        before = self.record["stages"].get(stage, {"started": now(), "seconds": 0.0, "attempts": 0})
        began, state = time.monotonic(), {**before, "outcome": "running", "attempts": before["attempts"] + 1}
        self.record["stages"][stage] = state
        self.save()
        outcome: Outcome = "failed"

        def ended(how: Outcome) -> None:
            nonlocal outcome
            outcome = how

        try:
            yield ended
        finally:
            seconds = round(before["seconds"] + time.monotonic() - began, 1)
            computed = _computed(stage) if outcome in ("ran", "restored") else {}
            ended_so = {"outcome": outcome, "finished": now(), "seconds": seconds, **computed}
            self.record["stages"][stage] = {**state, **ended_so}
            self.save()

    def note_cached(self, stage: str) -> None:
        """Record that nothing has changed for a stage."""
        self.record["stages"][stage] = {"outcome": "cached", "seconds": 0.0, "attempts": 0}
        self.save()

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record how the run ends."""
        outcome = "interrupted"
        try:
            yield
            outcome = "completed"
        except Exception:
            outcome = "failed"
            raise
        finally:
            self.record |= {"outcome": outcome, "finished": now()}
            if DVC_LOCK.exists():
                self.record["dvc_lock_sha256"] = sha256_file(DVC_LOCK)
            self.save()

    def save(self) -> None:
        write_json(self.folder / "run.json", self.record)


def end_killed_records() -> None:
    """Record runs without an end as killed. To be called by who has the workspace: while he has it none is alive."""
    for path in RUNS.glob("*/run.json"):
        if (record := read_json(path))["outcome"] == "running":
            write_json(path, record | {"outcome": "killed"})


def running_record() -> str | None:
    """The id of the run that has no end yet: the one at work, once `end_killed_records` has been called."""
    records = (read_json(path) for path in RUNS.glob("*/run.json"))
    return max((record["run_id"] for record in records if record["outcome"] == "running"), default=None)


@contextmanager
def claim(overrides: str = "", profile: str = "") -> Iterator[Run]:
    """Have the workspace to oneself for one run. A run whose end is not recorded (`Run.recorded`) leaves no record.

    Raises WorkspaceBusy when another pipeline has it, or when a `dvc` started by hand is at work in it, and ParamsError
    for overrides that cannot be split.
    """
    split_overrides(overrides)
    with workspace_lock():
        _clear_dvc_lock()
        end_killed_records()
        run = Run(overrides, profile)
        try:
            yield run
        finally:
            if run.record["finished"] is None:
                shutil.rmtree(run.folder)


def _clear_dvc_lock() -> None:
    """Remove DVC's own lock if it names only processes that are gone.

    DVC does so itself, unless the number lives on in another process (in a container it is always 1) or the file was
    cut short by a kill; then it would wait for ever or fail.
    """
    try:
        text = DVC_RWLOCK.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    if pid := next(filter(_is_dvc, _pids(text)), None):
        raise WorkspaceBusy(f"{Path.cwd()}: `dvc` (process {pid}) is running here; wait for it or stop it")
    DVC_RWLOCK.unlink(missing_ok=True)


def _pids(rwlock: str) -> set[int]:
    """The processes that {"write": {path: holder}, "read": {path: [holder, ...]}} names."""
    try:
        tree = json.loads(rwlock)
        writers, readers = tree.get("write", {}).values(), tree.get("read", {}).values()
        return {int(holder["pid"]) for holder in [*writers, *(one for many in readers for one in many)]}
    except (ValueError, TypeError, KeyError, AttributeError):
        return set()


def _is_dvc(pid: int) -> bool:
    try:
        return pid != os.getpid() and any("dvc" in word for word in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def _git() -> dict[str, Any]:
    """The commit that this workspace stands at, and whether tracked files differ from it."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
        changes = subprocess.run(["git", "status", "--porcelain", "-uno"], capture_output=True, text=True)
    except FileNotFoundError:
        return {"commit": None, "dirty": None}
    if commit.returncode:
        return {"commit": None, "dirty": None}
    return {"commit": commit.stdout.strip(), "dirty": bool(changes.stdout.strip())}


def _computed(stage: str) -> dict[str, Any]:
    """How a stage that trains has computed: what `auto` in section `run` came to, and the probe behind it."""
    summary = model_dir(stage) / "summary.json"
    facts = read_json(summary) if summary.exists() else {}
    return {"computed": found} if (found := {name: facts[name] for name in COMPUTED if name in facts}) else {}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
