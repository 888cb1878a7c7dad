"""What becomes of runs that are due and have not begun: missed while the machine was off, or behind the run at work.

Runs are taken one at a time, so a run that is due while another is at work stays scheduled. Prefect would only call it
late; here its state says what it waits for, or that it is skipped and why.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled, Scheduled

from pipelines.flow_run import SKIPPED, WAITING, runs_in

MISSED = timedelta(seconds=150)  # who is looked after does not become that late without being seen: a sweep takes 120
ACTIVE = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


@dataclass(frozen=True)
class Due:
    """A run whose time has come."""

    id: UUID
    kind: str  # runs of one kind do the same: deployment and parameters
    at: datetime
    by_schedule: bool  # and not by a click or a call
    seen: bool  # it has been waiting while somebody looked
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Decision:
    id: UUID
    state: State[Any]


def decide(due: Sequence[Due], now: datetime, at_work: str | None) -> list[Decision]:
    """The new states of runs that are due, earliest first; of the others nothing changes.

    `at_work` is the name of the run that is at work. Parameters that are not given mean `once` and `wait`.
    """
    return [decision for run in due if (decision := _decide(run, due, now, at_work))]


def settle(client: SyncPrefectClient, deployments: Sequence[UUID], now: datetime | None = None) -> list[Decision]:
    """Decide on all runs of these deployments that are due, and set their states; return what was decided."""
    moment = now or datetime.now(UTC)
    due = list(_due(client, deployments, moment))
    decisions = decide(due, moment, _at_work(client, deployments)) if due else []
    for decision in decisions:
        client.set_flow_run_state(decision.id, decision.state)
    return decisions


def _decide(run: Due, due: Sequence[Due], now: datetime, at_work: str | None) -> Decision | None:
    if run.by_schedule and (reason := _not_made_up_for(run, due, now)):
        return Decision(run.id, Cancelled(name=SKIPPED, message=f"skipped: {reason}"))
    if not at_work:
        return None
    if run.parameters.get("when_busy") == "skip":
        return Decision(run.id, Cancelled(name=SKIPPED, message=f"skipped: {at_work} is at work in this workspace"))
    if run.seen:
        return None
    message = f"waits for {at_work}, which is at work here"
    return Decision(run.id, Scheduled(scheduled_time=run.at, name=WAITING, message=message))


def _not_made_up_for(run: Due, due: Sequence[Due], now: datetime) -> str:
    catch_up = run.parameters.get("catch_up", "once")
    if catch_up == "never" and not run.seen and now - run.at > MISSED:
        return f"nothing was running here at {_shown(run.at)} to start it"
    later = [other.at for other in due if other.by_schedule and other.kind == run.kind and other.at > run.at]
    if catch_up == "once" and later:
        return f"the run of {_shown(max(later))} makes up for it"
    return ""


def _shown(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def _due(client: SyncPrefectClient, deployments: Sequence[UUID], now: datetime) -> Iterator[Due]:
    wanted = runs_in([StateType.SCHEDULED], deployments, before=now)
    for run in client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC, limit=200):
        if run.next_scheduled_start_time and run.state:
            yield Due(
                run.id,
                f"{run.deployment_id} {json.dumps(run.parameters, sort_keys=True)}",
                run.next_scheduled_start_time,
                bool(run.auto_scheduled),
                run.state.name == WAITING,
                run.parameters,
            )


def _at_work(client: SyncPrefectClient, deployments: Sequence[UUID]) -> str | None:
    found: list[FlowRun] = client.read_flow_runs(flow_run_filter=runs_in(ACTIVE, deployments), limit=1)
    return found[0].name if found else None
