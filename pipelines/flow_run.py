"""What all flows here share: how a flow run ends, and how it shows that it waits."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, NoReturn
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterNextScheduledStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed, Running

from pipelines import servers
from pipelines.alive import alive
from pipelines.overlap import Skipped
from troupe.errors import TroupeError

WAITING = "WaitingForWorkspace"  # the name of the state of a run that waits for its turn
SKIPPED = "Skipped"
NO_ANSWER = (httpx.HTTPError, PrefectHTTPStatusError)  # what Prefect's client raises, when it has tried for minutes
PATIENCE_SECONDS = 8.0  # for a server that does not answer, before a command at a terminal does without it
LOST = "Prefect's server does not answer; it will show how this run has ended when it does"
_ENDED: list[TroupeError | None] = []  # the runs of this process, each with what it failed of
_CALLED: list[bool] = []  # not empty: flows are called as functions here, and somebody waits for the end


def ended(work: Callable[[], str]) -> State[Any]:
    """Do the work of a flow run and return the state in which it ends, with one line that says why.

    `work` returns what there is to say of its success. Where the flow is called as a function, that call raises the
    TroupeError of a failed state; if Prefect does not answer then, the process ends in here.
    """
    with alive(own_id()) as say:
        state = _outcome(work)
        say({"type": state.type.value, "name": state.name, "message": state.message})
        _ENDED.append(state.data if isinstance(state.data, TroupeError) else None)
        if _CALLED and not _answers_soon():
            _leave()
        return state


def _answers_soon() -> bool:
    """Whether Prefect's server answers, given that it may be starting again."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := servers.prefect_answers()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def _leave() -> NoReturn:
    """End this process as its run has ended: Prefect's client, whose turn it is, would try for minutes first."""
    error = _ENDED[-1]
    print(*filter(None, [LOST, error]), sep="\n", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(error.exit_code if error else 0)


def _outcome(work: Callable[[], str]) -> State[Any]:
    try:
        return Completed(message=work())
    except Skipped as reason:
        return Cancelled(name=SKIPPED, message=str(reason))
    except TroupeError as error:
        return Failed(message=str(error), data=error)


@contextmanager
def with_or_without_prefect() -> Iterator[None]:
    """Let a flow that is called as a function in here end as its work does, also where Prefect no longer answers then.

    Raises the TroupeError of a failed run, and one where Prefect is lost before the work is done.
    """
    logging.raiseExceptions = False  # Prefect's handler would print each log line that did not get through
    _CALLED.append(True)
    try:
        yield
    except NO_ANSWER as lost:
        if not _ENDED:
            raise TroupeError(f"Prefect's server does not answer ({lost}); the same command begins again") from None
        print(LOST, file=sys.stderr)
        if error := _ENDED[-1]:
            raise error from None


def own_id() -> str:
    """The id of the flow run that this process is at work on."""
    return str(flow_run.get_id())


def show_waiting(reason: str) -> None:
    """Give this flow run, which has a process already, a state that says what it waits for; "": it waits no more."""
    state = State[Any](type=StateType.RUNNING, name=WAITING, message=reason) if reason else Running()
    update_prefect(lambda client: client.set_flow_run_state(UUID(own_id()), state, force=True))


def update_prefect(update: Callable[[SyncPrefectClient], object]) -> None:
    """Send Prefect what a run can do without; nothing to a server that does not answer."""
    if servers.prefect_answers():
        with suppress(*NO_ANSWER), get_client(sync_client=True) as client:
            update(client)


def runs_in(states: Sequence[StateType], deployments: Sequence[UUID], before: datetime | None = None) -> FlowRunFilter:
    """The filter for runs of deployments in one of these states; with `before`, due before that moment."""
    due = FlowRunFilterNextScheduledStartTime.model_validate({"before_": before}) if before else None
    return FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=list(deployments)),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))),
        next_scheduled_start_time=due,
    )
