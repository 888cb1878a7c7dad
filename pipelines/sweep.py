"""Runs whose processes were killed, wherever they are shown as running: MLflow, Prefect, the records of this workspace.

`python -m pipelines sweep` does it all. Whoever serves deployments calls it within seconds after a kill
(pipelines/upkeep.py); every pipeline run does its share when it begins.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import AwaitingRetry, Cancelled, Crashed

from pipelines.alive import dead, known, outcome_of, settled
from pipelines.flow_run import runs_in
from pipelines.workspace import end_killed_records, running_record
from troupe.errors import WorkspaceBusy
from troupe.lock import workspace_lock

MOST_TO_BEGIN = timedelta(minutes=5)  # from being handed to a process until that lives: seconds, of imports
AGAIN = "AwaitingRetry"  # the name of the state of a run that is tried again
MOST_ATTEMPTS = 3  # of a run whose process is killed: one that kills its machine must not do so for ever


def sweep() -> None:
    """End what was killed. Raises RegistryError as `mirror_pending` does; Prefect is done before MLflow."""
    with suppress(WorkspaceBusy), workspace_lock():  # who is at work there has done so already
        end_killed_records()
    end_dead_flow_runs()
    from troupe.tracking.mirror import mirror_pending  # with mlflow, which takes seconds

    mirror_pending(current=running_record())


def end_dead_flow_runs() -> None:
    """Have Prefect show flow runs whose processes were killed as crashed, and run those of a deployment again."""
    if not (ids := dead()):
        return
    with get_client(sync_client=True) as client:
        for flow_run_id in ids:
            with suppress(ObjectNotFound):  # another server's
                _end(client, client.read_flow_run(UUID(flow_run_id)))
            settled(flow_run_id)


def say_how_runs_ended(client: SyncPrefectClient) -> None:
    """Have Prefect show how the runs ended that came to their end while it did not answer."""
    for flow_run_id in dead():
        if outcome_of(flow_run_id):
            with suppress(ObjectNotFound):
                _end(client, client.read_flow_run(UUID(flow_run_id)))
            settled(flow_run_id)


def end_stuck_flow_runs(client: SyncPrefectClient, deployments: Sequence[UUID]) -> None:
    """The same for runs that were handed to a process which died before it could say that it lives."""
    for run in client.read_flow_runs(flow_run_filter=runs_in([StateType.PENDING], deployments), limit=200):
        began = run.state and run.state.timestamp
        if began and datetime.now(UTC) - began > MOST_TO_BEGIN and not known(str(run.id)):
            _end(client, run)


def _end(client: SyncPrefectClient, run: FlowRun) -> None:
    """A run that has said how it ended has ended so, and one that somebody is cancelling is cancelled.

    Every other one of a deployment is tried again.
    """
    state = run.state
    if state is None or (state.is_final() and not state.is_crashed()):
        return
    if outcome := outcome_of(str(run.id)):
        client.set_flow_run_state(run.id, State.model_validate(outcome), force=True)
        return
    if state.is_cancelling():
        client.set_flow_run_state(run.id, Cancelled(message="its process was killed"), force=True)
        return
    if not state.is_crashed():
        client.set_flow_run_state(run.id, Crashed(message="its process was killed"), force=True)
    # Prefect's own count of attempts grows whenever a run says that it waits for the workspace.
    attempts = 1 + sum(past.name == AGAIN for past in client.read_flow_run_states(run.id))
    if run.deployment_id and attempts < MOST_ATTEMPTS:
        message = f"its process was killed; attempt {attempts + 1} of {MOST_ATTEMPTS} resumes what was saved"
        client.set_flow_run_state(run.id, AwaitingRetry(message=message), force=True)
