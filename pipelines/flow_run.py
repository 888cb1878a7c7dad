"""What all flows here share: how a flow run ends, and how it shows that it waits."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed, Running

from pipelines.alive import alive
from pipelines.overlap import Skipped
from troupe.errors import TroupeError

WAITING = "WaitingForWorkspace"  # the name of the state of a run that waits for its turn
SKIPPED = "Skipped"


def ended(work: Callable[[], str]) -> State[Any]:
    """Do the work of a flow run and return the state in which it ends, with one line that says why.

    `work` returns what there is to say of its success. Where the flow is called as a function, that call raises the
    TroupeError of a failed state.
    """
    with alive(own_id()):
        try:
            return Completed(message=work())
        except Skipped as reason:
            return Cancelled(name=SKIPPED, message=str(reason))
        except TroupeError as error:
            return Failed(message=str(error), data=error)


def own_id() -> str:
    """The id of the flow run that this process is at work on."""
    return str(flow_run.get_id())


def show_waiting(reason: str) -> None:
    """Give this flow run, which has a process already, a state that says what it waits for; "": it waits no more."""
    state = State[Any](type=StateType.RUNNING, name=WAITING, message=reason) if reason else Running()
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(own_id()), state, force=True)
