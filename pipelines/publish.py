"""What follows the cached graph: the mirror in MLflow, the registry, the gate, and the report with its verdict."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pipelines.graph import stage_names
from pipelines.workspace import Run
from troupe.errors import RegistryError
from troupe.files import read_json
from troupe.layout import EFFECTIVE_PARAMS, METRICS, MODEL_STAGES
from troupe.params import load_params
from troupe.registry.registration import register
from troupe.registry.release import Decision, promote
from troupe.tracking import records
from troupe.tracking.mirror import mirror_pending, mirror_run

SECONDS_BETWEEN_SENDINGS = 15.0


@dataclass(frozen=True)
class Publication:
    run: Run
    metrics: dict[str, Any] | None  # reports/metrics.json
    decision: Decision | None
    problem: str | None = None  # why MLflow does not have everything


@contextmanager
def mirrored(run: Run) -> Iterator[None]:
    """Send curves to MLflow while stages are at work, and the rest at the end.

    Nothing here waits for MLflow: what does not get through is sent later, if need be by the next run.
    """
    over = threading.Event()

    def send() -> None:
        while not over.wait(SECONDS_BETWEEN_SENDINGS):
            with suppress(RegistryError):
                mirror_run(run.folder)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        yield
    finally:
        over.set()
        sender.join()
        with suppress(RegistryError):
            mirror_run(run.folder)


def publish(run: Run) -> Publication:
    """Send earlier runs that MLflow lacks, register every stage's model, put the candidate through the gate, report.

    Does nothing a second time. MLflow out of reach is no error: the publication says so, and the next run makes up.
    """
    metrics = read_json(METRICS) if METRICS.exists() else None
    try:
        mirror_pending(current=run.id)
        for stage in stage_names():
            if stage in MODEL_STAGES:
                register(stage, run.folder)
        decision = promote(load_params(EFFECTIVE_PARAMS).promote) if metrics else None
    except RegistryError as error:
        print(error, file=sys.stderr)
        return Publication(run, metrics, None, str(error))
    records.keep_report(run.folder)
    return Publication(run, metrics, decision)


def catch_up(run: Run) -> Publication:
    """Publish when no stage had to run: nothing is done unless the store or the registry lacks something."""
    publication = publish(run)
    if any(run.folder.glob("*.summary.json")):  # models that no earlier run accounts for are registered with this one
        with mirrored(run), run.recorded():
            pass
    return publication
