"""`python -m pipelines run | serve | ui`: behind `make pipeline` and `make ui`."""

import os
import signal
import sys
import threading
import time
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import servers
from pipelines.repro import changed_stages
from pipelines.supervisor import started, terminable
from pipelines.workspace import claim
from troupe import environment, stopping
from troupe.errors import TroupeError, WorkspaceBusy
from troupe.overlay import join_overrides, split_overrides
from troupe.stages.common import overrides_from_environment, profile_from_environment

if TYPE_CHECKING:
    from prefect.client.schemas.schedules import CronSchedule

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Set = Annotated[str, typer.Option("--set", help='Parameters for this run, e.g. "pretrain.steps=500 run.seed=7".')]
Profile = Annotated[str, typer.Option(help="A named set of parameters, e.g. cpu-hours; `make help` lists them.")]
Cron = Annotated[
    str, typer.Option(help='Add a schedule, e.g. "0 3 * * *" for three every night, local time; it lasts.')
]
Timezone = Annotated[
    str, typer.Option(help="The time zone of --cron, e.g. Europe/Berlin.", show_default="that of this machine")
]
RUNNER = [sys.executable, "-m", "pipelines", "serve"]


@app.command()
def run(overrides: Set = "", profile: Profile = "") -> None:
    """Bring everything up to date: data, models, judgement, registry, report.

    TROUPE_SET and TROUPE_PROFILE of the environment count too, as in `troupe params`; what is given here wins.
    """
    with _entry():
        overrides = join_overrides([*overrides_from_environment(), *split_overrides(overrides)])
        profile = profile or profile_from_environment()
        servers.use_announced()
        if "PREFECT_API_URL" not in os.environ and _up_to_date(overrides, profile):
            return
        servers.ensure_prefect_api()
        from pipelines.train import train  # Prefect reads its settings when it is imported

        train(overrides, profile)


@app.command()
def serve(cron: Cron = "", timezone: Timezone = "") -> None:
    """Offer the deployment `train` on the Prefect server that PREFECT_API_URL or `make ui` names."""
    with _entry():
        servers.use_announced()
        if "PREFECT_API_URL" not in os.environ:
            raise TroupeError("no Prefect server; start one with `make ui`, or name one in PREFECT_API_URL")
        servers.ensure_prefect_api()
        schedule = _schedule(cron, timezone)
        from pipelines.deployment import serve_train

        serve_train(schedule)


@app.command()
def ui(
    prefect_port: Annotated[int, typer.Option(help="Another is taken when this one is in use.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Another is taken when this one is in use.")] = 5000,
    cron: Cron = "",
    timezone: Timezone = "",
) -> None:
    """Start Prefect and MLflow on loopback, with `train` to start and schedule; Ctrl-C stops them."""
    with _entry(), ExitStack() as stack:
        if servers.announcement():
            raise WorkspaceBusy("`make ui` is running in this workspace already; stop that one first")
        schedule = _schedule(cron, timezone)
        prefect = servers.prefect_server(servers.free_port(prefect_port))
        mlflow = servers.mlflow_server(servers.free_port(mlflow_port))
        print("Starting Prefect and MLflow, about ten seconds ...", flush=True)
        os.environ |= {prefect.variable: prefect.api, mlflow.variable: mlflow.api}
        children = [
            stack.enter_context(servers.starting(prefect, servers.prefect_command(prefect, ui=True))),
            stack.enter_context(servers.starting(mlflow, servers.mlflow_command(mlflow))),
        ]
        for server, child in zip((prefect, mlflow), children, strict=True):
            servers.wait_for(server, child)
        scheduled = ["--cron", schedule.cron, "--timezone", str(schedule.timezone)] if schedule else []
        children.append(stack.enter_context(started([*RUNNER, *scheduled])))
        stack.enter_context(servers.announced(prefect, mlflow))
        print(f"Prefect  {prefect.url}   runs, schedules, the deployment `train`")
        print(f"MLflow   {mlflow.url}   curves, registered models, the report")
        if schedule:
            print(f"Schedule {schedule.cron}   in the time zone {schedule.timezone}")
        print("`make pipeline` in this workspace now reports to both. Ctrl-C stops them.", flush=True)
        while all(child.poll() is None for child in children):
            time.sleep(0.5)
        raise TroupeError("a server has stopped; see .troupe/logs")


def _schedule(cron: str, timezone: str) -> "CronSchedule | None":
    """What --cron and --timezone ask for. Raises TroupeError, before anything is started, for what they cannot mean."""
    if not cron:
        if timezone:
            raise TroupeError("--timezone: without --cron there is nothing that it could mean")
        return None
    from pipelines.schedule import cron_schedule  # with Prefect, which takes two seconds to import

    return cron_schedule(cron, timezone)


def _up_to_date(overrides: str, profile: str) -> bool:
    """Whether nothing has changed; then nobody needs a Prefect server, which takes ten seconds to start."""
    # Importing mlflow takes as long as all that DVC has to say; both at once saves half.
    threading.Thread(target=lambda: import_module("pipelines.publish").warm_up(), daemon=True).start()
    with claim(overrides, profile) as current:
        if changed_stages(current):
            return False
        from pipelines.publish import catch_up
        from pipelines.summary import summary

        publication = catch_up(current)
        print(summary(publication), flush=True)
        publication.require()
        return True


def _require_path(workspace: Path) -> None:
    """Raise TroupeError for a path with braces, which DVC takes for a format, or with what is no line of UTF-8."""
    for character in str(workspace):
        if character in "{}" or unicodedata.category(character) in ("Cc", "Cs"):
            raise TroupeError(f"{str(workspace)!r}: no stage can run in a path with {character!r}; rename the folder")


@contextmanager
def _entry() -> Iterator[None]:
    """One line and an exit status for what goes wrong; quiet switches for everything that is started."""
    stopping.as_usual("pipeline")
    environment.prepare()
    try:
        _require_path(Path.cwd())
        servers.quiet_prefect()
        with terminable():
            yield
    except TroupeError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print(stopping.line("pipeline", signal.SIGINT), file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        stopping.end_at_once()  # what is left is the interpreter's


if __name__ == "__main__":
    app()
