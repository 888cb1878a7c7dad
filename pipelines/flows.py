"""The smaller Prefect flows: each does what a command of `troupe`, or a part of `make pipeline`, does."""

import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State

from pipelines.flow_run import ended, own_id, show_waiting
from pipelines.overlap import WhenBusy, once_free
from pipelines.parameters import as_overrides, literal
from pipelines.publish import mirrored, publish
from pipelines.repro import changed_stages
from pipelines.supervisor import supervise
from pipelines.train import claimed, show, stage_task
from troupe.errors import TroupeError, WorkspaceBusy
from troupe.files import read_json
from troupe.layout import EFFECTIVE_PARAMS, METRICS, PARAMS, RUNS, STATE
from troupe.lock import workspace_lock
from troupe.overlay import join_overrides, leaves, split_overrides
from troupe.params import load_params
from troupe.registry.history import entries
from troupe.tracking.records import read_record

EVALUATE = "evaluate"  # the stage, too
OF_EVALUATION = (EVALUATE, "promote")  # sections that the models do not depend on
ROLLBACK = ["rollback"]
FRESH = ["promote", "--fresh"]
COMMAND = [sys.executable, "-m", "troupe.cli"]
LOGS = STATE / "logs"


class Refused(TroupeError):
    """The command has ended with a status other than 0; the message is what it said."""


@flow(name="promote", persist_result=False, validate_parameters=False)
def promote(fresh: bool = False, when_busy: WhenBusy = "wait") -> State[Any]:
    """Put the candidate through the gate, as `troupe promote` does. Refused, the run fails with the reasons.

    Args:
        fresh: as if there were no champion: for text or a judge that has changed. The candidate is the one of when this
            was asked for; if there is another one when its turn comes, the run fails
        when_busy: what to do while somebody else is at work in the workspace: wait or skip
    """
    return ended(lambda: _command(FRESH if fresh else ["promote"], when_busy))


@flow(name="rollback", persist_result=False, validate_parameters=False)
def rollback(when_busy: WhenBusy = "wait") -> State[Any]:
    """Make the previous champion the champion again, as `troupe rollback` does; a second rollback undoes the first.

    Args:
        when_busy: what to do while somebody else is at work in the workspace: wait or skip
    """
    return ended(lambda: _command(ROLLBACK, when_busy))


@flow(name=EVALUATE, persist_result=False, validate_parameters=False)
def evaluate(
    params: Mapping[str, Mapping[str, Any]] | None = None,
    overrides: str = "",
    when_busy: WhenBusy = "wait",
    catch_up: str = "once",
) -> State[Any]:
    """Judge the models that are there once more, e.g. with other parameters of `evaluate`; nothing is trained.

    The figures, the report and the gate follow, as after training. Fails if a model is not up to date.

    Args:
        params: parameters of the section `evaluate`, for this run only
        overrides: the same as text, e.g. evaluate.top_k=20
        when_busy: what to do while somebody else is at work in the workspace: wait or skip
        catch_up: for pipelines/due.py, which reads it before the run begins
    """
    return ended(lambda: _evaluate(as_overrides(params, overrides), when_busy))


def _evaluate(overrides: str, when_busy: WhenBusy) -> str:
    with claimed(join_overrides([*_of_the_models(), *split_overrides(overrides)]), "", when_busy, EVALUATE) as run:
        stages = changed_stages(run)
        if others := [stage for stage in stages if stage != EVALUATE]:
            raise TroupeError(f"evaluate: {', '.join(others)} not up to date; run `train` first")
        with mirrored(run), run.recorded():
            for stage in stages:
                stage_task(stage)(stage, run)
            publication = publish(run)
        return show(publication)


def _of_the_models() -> list[str]:
    """As overrides: where the parameters that the models were made with differ from params.yaml, as it is now."""
    if not EFFECTIVE_PARAMS.exists() or not PARAMS.exists():
        return []
    now, made = (
        dict(leaves(load_params(path).model_dump(exclude=set(OF_EVALUATION)))) for path in (PARAMS, EFFECTIVE_PARAMS)
    )
    return [f"{name}={literal(value)}" for name, value in made.items() if value != now[name]]


def _asked() -> datetime | None:
    """When somebody asked for this run, which may have waited for its turn since."""
    with get_client(sync_client=True) as client:
        return client.read_flow_run(UUID(own_id())).created


def _same_candidate() -> None:
    """Raise Refused if the candidate is another one than when this run was asked for.

    Without a comparison with the champion nothing but the person who asked stands for it.
    """
    asked = _asked()
    if not asked or not METRICS.exists() or METRICS.stat().st_mtime <= asked.timestamp():
        return
    if _candidate(METRICS) != _candidate_at(asked):
        raise Refused(
            "not promoted: since this was asked for another candidate has been evaluated; look at it, and start "
            "`promote` again if that one is meant"
        )


def _candidate_at(moment: datetime) -> tuple[str, str] | None:
    """The candidate of the last run that had ended then, by the records of runs."""
    for folder in sorted(RUNS.iterdir(), reverse=True) if RUNS.exists() else []:
        finished, report = read_record(folder)["finished"], folder / METRICS
        if finished and datetime.fromisoformat(finished) <= moment and report.exists():
            return _candidate(report)
    return None


def _candidate(report: Path) -> tuple[str, str]:
    """Stage and digest of the weights."""
    plain = read_json(report)
    stage = str(plain.get("candidate", {}).get("stage"))
    return stage, str(plain.get("models", {}).get(stage, {}).get("weights_sha256"))


def _champion_unmoved() -> None:
    """Raise Refused if the champion has changed since this run was asked for: the one to be replaced may be another."""
    asked = _asked()
    for entry in entries():
        if asked and entry.before != entry.after and datetime.fromisoformat(entry.time) >= asked.replace(microsecond=0):
            raise Refused(
                f"not rolled back: since this was asked for the champion has changed ({entry.action}), it is "
                f"{entry.after}; start `rollback` again if that one is to be replaced"
            )


def _command(arguments: list[str], when_busy: WhenBusy) -> str:
    """Run `troupe ARGUMENTS`, as soon as the workspace is free; return what it says. Raises Refused with the same."""

    def attempt() -> str:
        with workspace_lock():
            pass  # the command would say the same, two seconds later
        if arguments == ROLLBACK:
            _champion_unmoved()
        elif arguments == FRESH:
            _same_candidate()
        lines: list[str] = []
        status = supervise([*COMMAND, *arguments], lines.append, LOGS / f"{arguments[0]}-{own_id()}.log")
        output = "\n".join(lines).strip()
        print(output, flush=True)
        if status == WorkspaceBusy.exit_code:
            raise WorkspaceBusy(output)
        if status:
            raise Refused(output)
        return output

    return once_free(attempt, when_busy, show_waiting)
