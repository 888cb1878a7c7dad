"""The Prefect deployment `train`: what a person starts, schedules and gives parameters to in the UI."""

from contextlib import suppress

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.types.entrypoint import EntrypointType

from pipelines.train import bury_killed_runs, train
from pipelines.workspace import claim
from troupe.errors import WorkspaceBusy

NAME = "train"
ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)


def serve_train(cron: CronSchedule | None) -> None:
    """Wait for runs of `train` and run each in a process of its own, until stopped; `cron` adds a schedule."""
    with get_client(sync_client=True) as client:
        with suppress(WorkspaceBusy), claim() as run:
            bury_killed_runs(client, run)  # one that is thought to be running would keep all others waiting
        deployed = _deployed(client)
    train.serve(
        name=NAME,
        schedules=_schedules(deployed, cron),
        paused=deployed.paused if deployed else None,
        pause_on_shutdown=False,
        global_limit=ONE_AT_A_TIME,
        print_starting_message=False,
        entrypoint_type=EntrypointType.MODULE_PATH,  # the workspace need not be the folder of this code
        tags=["troupe"],
    )


def _deployed(client: SyncPrefectClient) -> DeploymentResponse | None:
    """The deployment as the server knows it from an earlier time."""
    try:
        return client.read_deployment_by_name(f"{train.name}/{NAME}")
    except ObjectNotFound:
        return None


def _schedules(deployed: DeploymentResponse | None, cron: CronSchedule | None) -> list[DeploymentScheduleCreate]:
    """The schedules made in the UI, which Prefect would drop when a deployment is served again, and `cron`.

    An expression stands there once: one that is there already, paused or not, is put into the time zone of `cron`.
    """
    kept = [
        DeploymentScheduleCreate(**schedule.model_dump(include={"schedule", "active", "parameters", "slug"}))
        for schedule in (deployed.schedules if deployed else ())
    ]
    if cron is None:
        return kept
    alike = [one for one in kept if isinstance(one.schedule, CronSchedule) and one.schedule.cron == cron.cron]
    others = [one for one in kept if one not in alike]
    again = alike[0].model_copy(update={"schedule": cron}) if alike else DeploymentScheduleCreate(schedule=cron)
    return [*others, again]
