"""The Prefect flow `train`: what `make pipeline`, a click in the UI and a schedule run alike."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from logging import Logger, LoggerAdapter
from typing import Any
from uuid import UUID

from prefect import Task, flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Crashed

from pipelines.publish import Publication, catch_up, mirrored, publish
from pipelines.repro import StageFailed, changed_stages, run_stage
from pipelines.summary import markdown, summary
from pipelines.workspace import Run, claim
from troupe.overlay import split_overrides

SECONDS_BETWEEN_LINES = 1.0  # what Prefect logs it also stores: 20,000 lines took 38 s


@flow(name="train", persist_result=False, validate_parameters=False)
def train(overrides: str = "", profile: str = "") -> None:
    """Text in; pretrained, expert and adversarial models out: judged, registered, the best promoted.

    Only the stages that something has changed for are run; everything else is reused.

    Args:
        overrides: parameters for this run only, e.g. pretrain.steps=500 data.source=tiny-shakespeare
        profile: a named set of parameters, one of the files in profiles/, e.g. cpu-hours; overrides win over it
    """
    with claim(overrides, profile) as run:
        with get_client(sync_client=True) as client:
            _name_flow_run(client, run, UUID(flow_run.get_id()))
            bury_killed_runs(client, run)
        stages = changed_stages(run)
        publication = _work(run, stages) if stages else catch_up(run)
        create_markdown_artifact(key="figures", markdown=markdown(publication), description=f"Run {run.id}")
        print(summary(publication), flush=True)
        publication.require()


def bury_killed_runs(client: SyncPrefectClient, run: Run) -> None:
    """Tell Prefect which runs of this workspace were killed: it would show them as running for ever."""
    for flow_run_id in run.bury():
        with suppress(ObjectNotFound):  # another server's
            client.set_flow_run_state(UUID(flow_run_id), Crashed(message="killed"), force=True)


def _work(run: Run, stages: Sequence[str]) -> Publication:
    with mirrored(run), run.recorded():
        for stage in stages:
            _task(stage)(stage, run)
        return publish(run)


def _task(stage: str) -> Task[[str, Run], None]:
    return _run_stage.with_options(name=stage, task_run_name=stage)


def _can_help(task: Task[..., Any], run: Any, state: State[Any]) -> bool:
    """Another attempt, which resumes from the checkpoint of a killed one, cannot mend what the user has to mend."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, StageFailed) or error.again


@task(
    retries=1,
    retry_delay_seconds=2,
    retry_condition_fn=_can_help,
    cache_policy=NO_CACHE,  # DVC decides what is up to date
    persist_result=False,
)
def _run_stage(stage: str, run: Run) -> None:
    logger = get_run_logger()
    log = _at_most_one_a_second(logger)

    def heard(line: str) -> None:
        print(line, flush=True)
        log(line)

    logger.info(f"{stage}: {run_stage(stage, run, heard)}")


def _at_most_one_a_second(logger: Logger | LoggerAdapter[Logger]) -> Callable[[str], None]:
    logged = 0.0

    def log(line: str) -> None:
        nonlocal logged
        if time.monotonic() - logged >= SECONDS_BETWEEN_LINES:
            logged = time.monotonic()
            logger.info(line)

    return log


def _name_flow_run(client: SyncPrefectClient, run: Run, flow_run_id: UUID) -> None:
    """Show our run's id in Prefect, and Prefect's in our record."""
    run.record["prefect_flow_run"] = str(flow_run_id)
    run.save()
    client.update_flow_run(flow_run_id, name=f"train {run.id}", tags=_tags(run))


def _tags(run: Run) -> list[str]:
    return ["troupe", *([run.profile] if run.profile else []), *split_overrides(run.overrides)]
