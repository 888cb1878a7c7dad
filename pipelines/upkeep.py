"""What is looked after, every few seconds, beside starting runs: runs that are due, and runs that were killed."""

import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from prefect.client.orchestration import get_client

from pipelines.alive import LAST_LOOK, killed
from pipelines.due import settle
from pipelines.flow_run import NO_ANSWER
from pipelines.supervisor import started
from pipelines.sweep import end_stuck_flow_runs, say_how_runs_ended
from pipelines.workspace import end_killed_records, running_record
from troupe.errors import WorkspaceBusy
from troupe.layout import STATE
from troupe.lock import workspace_lock
from troupe.tracking.unfinished import unfinished_runs

SECONDS_BETWEEN_LOOKS = 3.0
SECONDS_BETWEEN_QUESTIONS = 15.0  # to MLflow
SECONDS_AFTER_FAILURE = 60.0  # of a sweep, which takes seconds of a processor, before the next
SWEEP = [sys.executable, "-m", "pipelines", "sweep"]
SWEEP_SECONDS = 120.0
LOG = STATE / "logs/sweep.log"


def look_after(deployments: Sequence[UUID]) -> None:
    """Do so in a thread until this process ends."""
    threading.Thread(target=_look, args=(deployments,), daemon=True).start()


def _look(deployments: Sequence[UUID]) -> None:
    asked = 0.0  # when MLflow is to be asked next
    while True:
        try:
            with get_client(sync_client=True) as client:
                settle(client, deployments)
                end_stuck_flow_runs(client, deployments)
                say_how_runs_ended(client)
            LAST_LOOK.touch()
            if killed():
                _sweep()
            elif time.monotonic() >= asked:
                asked = time.monotonic() + SECONDS_BETWEEN_QUESTIONS
                if _unfinished():
                    _sweep()
                    if _unfinished():
                        asked = time.monotonic() + SECONDS_AFTER_FAILURE
        except NO_ANSWER:
            pass  # a server that is starting again
        except Exception:
            traceback.print_exc()  # into the log; the next look may go better
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _unfinished() -> bool:
    """Whether MLflow shows a run of this workspace as running that is not."""
    with suppress(WorkspaceBusy), workspace_lock():  # who is at work there has done so already
        end_killed_records()
    return bool(unfinished_runs() - {running_record()})


def _sweep() -> None:
    """In a process of its own: MLflow's client takes 0.3 GB."""
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with (
        LOG.open("w", encoding="utf-8") as log,
        started(SWEEP, log) as child,
        suppress(subprocess.TimeoutExpired),
    ):
        child.wait(SWEEP_SECONDS)
