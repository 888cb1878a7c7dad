"""What follows the cached graph: the mirror in MLflow, the registry, the gate, and the report with its verdict."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.workspace import Run
from troupe.errors import RegistryError, RegistryUnreachable
from troupe.evaluation.pages import write_index
from troupe.evaluation.provenance import gather_provenance
from troupe.evaluation.report import render_report
from troupe.evaluation.result import Evaluation
from troupe.files import read_json, sha256_file, write_json
from troupe.layout import EFFECTIVE_PARAMS, EMBEDDED, METRICS, MODEL_STAGES, REPORT, REPORTS, ROUTING, STATE
from troupe.overlay import split_overrides
from troupe.params import load_params
from troupe.tracking import records
from troupe.tracking.mirror import mirror_pending, mirror_run, run_page

if TYPE_CHECKING:
    from troupe.registry.release import Decision

SECONDS_BETWEEN_SENDINGS = 15.0
SHOWN = STATE / "report.json"  # what the report shows


@dataclass(frozen=True)
class Publication:
    run: Run
    metrics: Evaluation | None
    decision: "Decision | None"
    problem: RegistryError | None = None  # why MLflow does not have everything
    page: str | None = None  # of this run at MLflow's server

    def require(self) -> None:
        """Raise the problem, unless it is a server out of reach: the next run sends what that lacks."""
        if self.problem and not isinstance(self.problem, RegistryUnreachable):
            raise self.problem


@contextmanager
def mirrored(run: Run) -> Iterator[None]:
    """Send curves to MLflow while stages are at work, and the rest at the end.

    Nothing here waits for MLflow: what does not get through is sent later, if need be by the next run. So is the end of
    a run that is asked to stop: its time is its stage's, to save what it has.
    """
    over, asked_to_stop = threading.Event(), True

    def send() -> None:
        with suppress(RegistryError):
            mirror_pending(current=run.id)  # first what was killed before its end was sent
        while True:
            with suppress(RegistryError):
                mirror_run(run.folder)
            if over.wait(SECONDS_BETWEEN_SENDINGS):
                break

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        yield
        asked_to_stop = False
    except Exception:
        asked_to_stop = False
        raise
    finally:
        over.set()
        if not asked_to_stop:
            sender.join()
            with suppress(RegistryError):
                mirror_run(run.folder)


def warm_up() -> None:
    """Import what `publish` needs in a finished workspace: seconds that pass unnoticed beside other work."""
    if METRICS.exists():
        import troupe.registry.release  # noqa: F401


def publish(run: Run) -> Publication:
    """Send earlier runs that MLflow lacks, register every stage's model, put the candidate through the gate, report.

    A second time it changes nothing. Whatever is wrong with MLflow, the report is written; the publication says what,
    and its `require` raises it. MLflow out of reach is no error, for the next run makes up.
    """
    metrics = Evaluation.read() if METRICS.exists() else None
    decision: Decision | None = None
    problem: RegistryError | None = None
    page: str | None = None
    try:
        mirror_pending(current=run.id)
        decision = _register_and_promote(run) if metrics else None
        if decision and decision.fault:
            problem = RegistryError(decision.fault)
        page = run_page(run.id)
    except RegistryError as error:
        problem = error
    if metrics:
        _report(run, decision)
    records.keep_report(run.folder)
    return Publication(run, metrics, decision, problem, page)


def _register_and_promote(run: Run) -> "Decision":
    from troupe.registry.card import write_cards
    from troupe.registry.history import who
    from troupe.registry.registration import register  # torch comes with it, three seconds
    from troupe.registry.release import promote

    versions = {stage: register(stage, run.folder) for stage in MODEL_STAGES}
    decision = promote(load_params(EFFECTIVE_PARAMS).promote, by=f"{who()}, run {run.id}")
    write_cards(versions, decision.released)
    return decision


def _report(run: Run, decision: "Decision | None") -> None:
    """Render the report, unless the page that is there is the one rendered for these figures and this verdict.

    "unchanged" is no news: the page goes on to say how the champion became one.
    """
    figures = [sha256_file(path) for path in (METRICS, EMBEDDED, ROUTING) if path.exists()]
    shown = read_json(SHOWN) if SHOWN.exists() and REPORT.exists() else {}
    outcome = decision.verdict.outcome if decision else None
    shown_already = shown.get("outcome") == outcome or (outcome == "unchanged" and shown.get("outcome"))
    if shown_already and shown.get("figures") == figures and shown.get("page") == sha256_file(REPORT):
        return
    provenance = gather_provenance(split_overrides(run.overrides), run.profile)
    render_report(REPORTS, decision.plain() if decision else None, provenance)
    write_index()
    write_json(SHOWN, {"figures": figures, "outcome": outcome, "page": sha256_file(REPORT)})


def catch_up(run: Run) -> Publication:
    """Publish when no stage had to run: nothing is done unless the store or the registry lacks something."""
    publication = publish(run)
    if any(run.folder.glob("*.summary.json")):  # models that no earlier run accounts for are registered with this one
        with mirrored(run), run.recorded():
            pass
    return publication
