"""The Prefect deployments: what a person starts, schedules and gives parameters to in the UI. All of them, here."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.runner import Runner
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.schema_tools.validation import ValidationError, validate

from pipelines.due import settle
from pipelines.flows import evaluate, promote, rollback
from pipelines.parameters import WHEN_BUSY, Form, form, params_form
from pipelines.sweep import end_dead_flow_runs
from pipelines.train import train
from pipelines.upkeep import look_after
from troupe.errors import TroupeError

SECONDS_BETWEEN_POLLS = 5.0
TRAIN = "train"
FRESH = {
    "title": "Fresh",
    "description": "As if there were no champion: for text or a judge that has changed.",
    "type": "boolean",
    "default": False,
}


@dataclass(frozen=True)
class Deployment:
    """A flow under its own name, and what can be asked of it."""

    flow: Flow[..., Any]
    form: Callable[[], Form]  # made when it is served: params.yaml and profiles may have changed


DEPLOYMENTS = {
    TRAIN: Deployment(train, params_form),
    "evaluate": Deployment(evaluate, lambda: params_form("evaluate")),
    "promote": Deployment(promote, lambda: form({"fresh": FRESH, "when_busy": WHEN_BUSY})),
    "rollback": Deployment(rollback, lambda: form({"when_busy": WHEN_BUSY})),
}


def serve(cron: CronSchedule | None) -> None:
    """Wait for runs of all deployments and run one after the other, each in a process of its own, until stopped.

    `cron` adds a schedule to `train`. What was killed before is ended, and what was missed is dealt with, first.
    """
    end_dead_flow_runs()
    runner = Runner(name="troupe", limit=1, query_seconds=SECONDS_BETWEEN_POLLS, pause_on_shutdown=False)
    with get_client(sync_client=True) as client:
        ids = []
        for name, deployment in DEPLOYMENTS.items():
            before = _deployed(client, name)
            id_ = runner.add_flow(
                deployment.flow,
                name=name,
                schedules=_schedules(before, cron if name == TRAIN else None),
                paused=before.paused if before else None,
                entrypoint_type=EntrypointType.MODULE_PATH,  # the workspace need not be the folder of this code
                tags=["troupe"],
            )
            assert isinstance(id_, UUID)  # and no coroutine: no loop is running here
            schema = deployment.form().model_dump(exclude_unset=True)
            # No limit of Prefect's, which older versions had set: the lock of the workspace decides (overlap.py).
            client.update_deployment(id_, DeploymentUpdate(parameter_openapi_schema=schema, concurrency_limit=None))
            ids.append(id_)
        settle(client, ids)
    look_after(ids)
    with suppress(KeyboardInterrupt):
        asyncio.run(runner.start())


def add_schedule(cron: CronSchedule, parameters: dict[str, Any]) -> None:
    """Give `train` a schedule, with parameters for its runs, on the server where it is served.

    An expression stands there once: given again, it is put into the time zone of `cron`. Raises TroupeError when
    nothing serves `train`, or when the parameters are none of its own.
    """
    with get_client(sync_client=True) as client:
        if (deployed := _deployed(client, TRAIN)) is None:
            raise TroupeError("no deployment `train` on this server; `make ui` serves it")
        try:
            validate(parameters, deployed.parameter_openapi_schema or {}, raise_on_error=True)
        except ValidationError as error:
            raise TroupeError(str(error)) from None
        alike = [one for one in deployed.schedules if _same_expression(one.schedule, cron)]
        if alike:
            client.update_deployment_schedule(deployed.id, alike[0].id, schedule=cron, parameters=parameters or None)
        else:
            new = DeploymentScheduleCreate(schedule=cron, parameters=parameters)
            client.create_deployment_schedules(deployed.id, [new])


def _deployed(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    """A deployment as the server knows it from an earlier time."""
    try:
        return client.read_deployment_by_name(f"{name}/{name}")
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
    alike = [one for one in kept if _same_expression(one.schedule, cron)]
    others = [one for one in kept if one not in alike]
    again = alike[0].model_copy(update={"schedule": cron}) if alike else DeploymentScheduleCreate(schedule=cron)
    return [*others, again]


def _same_expression(schedule: object, cron: CronSchedule) -> bool:
    return isinstance(schedule, CronSchedule) and schedule.cron == cron.cron
