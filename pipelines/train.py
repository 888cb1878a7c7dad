"""The Prefect flow `train`: what `make pipeline`, a click in the UI and a schedule run alike."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from logging import Logger, LoggerAdapter
from typing import Any
from uuid import UUID

from prefect import Task, flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from pipelines.flow_run import ended, own_id, show_waiting, update_prefect
from pipelines.overlap import WhenBusy, entered_once_free
from pipelines.parameters import as_overrides
from pipelines.publish import Publication, mirrored, publish
from pipelines.publish import catch_up as publish_again
from pipelines.repro import StageFailed, changed_stages, run_stage
from pipelines.summary import headline, markdown, summary
from pipelines.sweep import end_dead_flow_runs
from pipelines.workspace import Run, claim
from troupe.layout import PARAMS
from troupe.overlay import split_overrides
from troupe.params import load_params

SECONDS_BETWEEN_LINES = 1.0  # what Prefect logs it also stores: 20,000 lines took 38 s


@flow(name="train", persist_result=False, validate_parameters=False)
def train(
    overrides: str = "",
    profile: str = "",
    params: Mapping[str, Mapping[str, Any]] | None = None,
    when_busy: WhenBusy = "wait",
    catch_up: str = "once",
) -> State[Any]:
    """Text in; pretrained, expert and adversarial models out: judged, registered, the best promoted.

    Only the stages that something has changed for are run; everything else is reused.

    Args:
        overrides: parameters for this run only, e.g. pretrain.steps=500 data.source=tiny-shakespeare
        profile: a named set of parameters, one of the files in profiles/, e.g. cpu-hours; overrides win over it
        params: parameters for this run only, by section; overrides win over them
        when_busy: what to do while somebody else is at work in the workspace: wait, skip or fail
        catch_up: for pipelines/due.py, which reads it before the run begins
    """
    return ended(lambda: _train(as_overrides(params, overrides), profile, when_busy))


def _train(overrides: str, profile: str, when_busy: WhenBusy) -> str:
    with claimed(overrides, profile, when_busy, "train") as run:
        stages = changed_stages(run)
        return show(_work(run, stages) if stages else publish_again(run))


@contextmanager
def claimed(overrides: str, profile: str, when_busy: WhenBusy, name: str) -> Iterator[Run]:
    """Have the workspace, as soon as it is free, for a flow run, named after our run; parameters are checked before."""
    if PARAMS.exists():
        load_params(PARAMS, split_overrides(overrides), profile)
    with entered_once_free(lambda: claim(overrides, profile), when_busy, show_waiting) as run:
        _name_flow_run(run, name)
        end_dead_flow_runs()
        yield run


def show(publication: Publication) -> str:
    """Show how a run has ended, on the console and on a page of Prefect's; return its headline.

    Raises the problem of the publication, if it has one, afterwards.
    """
    run = publication.run
    print(summary(publication), flush=True)
    page = {"markdown": markdown(publication), "description": f"Run {run.id}"}
    update_prefect(lambda _: create_markdown_artifact(key="figures", **page))
    publication.require()
    return headline(publication)


def _work(run: Run, stages: Sequence[str]) -> Publication:
    with mirrored(run), run.recorded():
        for stage in stages:
            stage_task(stage)(stage, run)
        return publish(run)


def stage_task(stage: str) -> Task[[str, Run], None]:
    """The task that brings a stage up to date, under the stage's own name."""
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

    def pass_on(line: str) -> None:
        print(line, flush=True)
        log(line)

    logger.info(f"{stage}: {run_stage(stage, run, pass_on)}")


def _at_most_one_a_second(logger: Logger | LoggerAdapter[Logger]) -> Callable[[str], None]:
    logged = 0.0

    def log(line: str) -> None:
        nonlocal logged
        if time.monotonic() - logged >= SECONDS_BETWEEN_LINES:
            logged = time.monotonic()
            logger.info(line)

    return log


def _name_flow_run(run: Run, name: str) -> None:
    """Show our run's id in Prefect, and Prefect's in our record."""
    run.record["prefect_flow_run"] = own_id()
    run.save()
    tags = ["troupe", *([run.profile] if run.profile else [])]
    update_prefect(lambda client: client.update_flow_run(UUID(own_id()), name=f"{name} {run.id}", tags=tags))
