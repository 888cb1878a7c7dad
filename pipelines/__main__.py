"""`python -m pipelines COMMAND`: behind `make pipeline`, `make ui`, `make address`, `make schedule`, `make service`."""

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

from pipelines import servers, systemd
from pipelines.repro import changed_stages
from pipelines.supervisor import Kept, terminable
from pipelines.workspace import claim
from troupe import environment, stopping
from troupe.credentials import token, with_token
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
SHOWN = {
    servers.PREFECT: ("Prefect", "runs, schedules, the deployments `train`, `evaluate`, `promote`, `rollback`"),
    servers.MLFLOW: ("MLflow", "curves, registered models, the report"),
}
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
        from pipelines.flow_run import with_or_without_prefect  # Prefect reads its settings when it is imported
        from pipelines.train import train

        with with_or_without_prefect():
            train(overrides, profile, when_busy="fail")


@app.command()
def serve(cron: Cron = "", timezone: Timezone = "") -> None:
    """Offer the deployments on the Prefect server that PREFECT_API_URL or `make ui` names."""
    with _entry():
        _use_server()
        schedule = _schedule(cron, timezone)
        from pipelines.deployments import serve as serve_deployments

        serve_deployments(schedule)


@app.command()
def schedule(
    cron: Cron = "",
    timezone: Timezone = "",
    overrides: Set = "",
    profile: Profile = "",
    when_busy: Annotated[str, typer.Option(help="wait or skip, while another run is at work.")] = "",
    catch_up: Annotated[str, typer.Option(help="never, once or all, for times at which the machine was off.")] = "",
) -> None:
    """Have `train` run by itself, where `make ui` is running; the schedule lasts until it is deleted in the UI."""
    with _entry():
        if not cron:
            raise TroupeError('--cron: when is it to run? e.g. make schedule CRON="0 3 * * *" TZ=Europe/Berlin')
        wanted = _schedule(cron, timezone)
        _use_server()
        from pipelines.deployments import add_schedule

        given = {"overrides": overrides, "profile": profile, "when_busy": when_busy, "catch_up": catch_up}
        assert wanted
        add_schedule(wanted, {name: value for name, value in given.items() if value})
        print(f"train runs at {cron} in the time zone {wanted.timezone}")


@app.command()
def sweep() -> None:
    """End what Prefect and MLflow show as running though its process was killed."""
    with _entry():
        _use_server()
        from pipelines.sweep import sweep as sweep_all

        sweep_all()


@app.command()
def ui(
    prefect_port: Annotated[int, typer.Option(help="Another is taken when this one is in use.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Another is taken when this one is in use.")] = 5000,
    cron: Cron = "",
    timezone: Timezone = "",
) -> None:
    """Keep Prefect and MLflow running on loopback, with `train` to start and schedule; Ctrl-C stops them."""
    with _entry(), ExitStack() as stack:
        if servers.announcement():
            raise WorkspaceBusy("`make ui` is running in this workspace already; stop that one first")
        schedule = _schedule(cron, timezone)
        listeners = [stack.enter_context(servers.listening(port)) for port in (prefect_port, mlflow_port)]
        prefect = servers.prefect_server(servers.port_of(listeners[0]))
        mlflow = servers.mlflow_server(servers.port_of(listeners[1]))
        print("Starting Prefect and MLflow, about ten seconds ...", flush=True)
        os.environ |= prefect.environment() | mlflow.environment()
        commands = {prefect: servers.prefect_command(ui=True), mlflow: servers.mlflow_command(mlflow)}
        kept: list[Kept] = []
        for listener, (server, command) in zip(listeners, commands.items(), strict=True):
            kept.append(Kept(server.name, command, servers.log_of(server), listener))
            stack.callback(kept[-1].stop)
        for server, child in zip(commands, kept, strict=True):
            servers.wait_for(server, child.child)
        scheduled = ["--cron", schedule.cron, "--timezone", str(schedule.timezone)] if schedule else []
        runner = Kept("The runner", [*RUNNER, *scheduled], servers.LOGS / "runner.log")
        kept.append(runner)
        stack.callback(runner.stop)
        stack.enter_context(servers.announced(prefect, mlflow))
        _print_addresses(secret=sys.stdout.isatty())
        print("`make pipeline` in this workspace now reports to both. Ctrl-C stops them.", flush=True)
        while True:
            for one in kept:
                one.look(say=lambda line: print(line, file=sys.stderr, flush=True))
            if schedule and (schedule.cron, schedule.timezone) in servers.schedules(prefect):
                print(f"Schedule {schedule.cron}   in the time zone {schedule.timezone}", flush=True)
                runner.again = RUNNER  # without the schedule, which may be deleted by then
                schedule = None
            time.sleep(0.5)


@app.command()
def address() -> None:
    """Print the addresses of the servers of `make ui`, with the token that lets a browser in."""
    with _entry():
        _print_addresses(secret=True)


@app.command()
def service(cron: Cron = "", timezone: Timezone = "") -> None:
    """Write a systemd user unit that has `make ui` run from the start of the machine on."""
    with _entry():
        wanted = _schedule(cron, timezone)
        scheduled = ["--cron", wanted.cron, "--timezone", str(wanted.timezone)] if wanted else []
        path = systemd.write_unit([sys.executable, "-m", "pipelines", "ui", *scheduled])
        print(f"written: {path}", *systemd.next_steps(path), sep="\n")


def _print_addresses(secret: bool) -> None:
    """Of the servers of this workspace; without their secret where what is printed may be kept, as in a log."""
    running = servers.announcement()
    if not running:
        raise TroupeError("no `make ui` is running in this workspace")
    for variable, (name, what) in SHOWN.items():
        url = running[variable]["api"].removesuffix("/api")
        print(f"{name:8} {with_token(url, token()) if secret else url}   {what}", flush=True)
    if not secret:
        print("`make address` prints the addresses with the token that the servers ask for.", flush=True)


def _use_server() -> None:
    """Have a Prefect server of others', or raise TroupeError."""
    servers.use_announced()
    if "PREFECT_API_URL" not in os.environ and servers.announcement():
        raise TroupeError(f"Prefect's server of `make ui` does not answer; see {servers.LOGS / 'prefect.log'}")
    if "PREFECT_API_URL" not in os.environ:
        raise TroupeError("no Prefect server; start one with `make ui`, or name one in PREFECT_API_URL")
    servers.ensure_prefect_api()


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


def _have_standard_streams() -> None:
    """Open those that the caller has closed: else a socket would get the number of one, and be replaced in a child."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    # Python has none where it found none; the file descriptors are there now.
    sys.stdout, sys.stderr = sys.stdout or os.fdopen(1, "w"), sys.stderr or os.fdopen(2, "w")


@contextmanager
def _entry() -> Iterator[None]:
    """One line and an exit status for what goes wrong; quiet switches for everything that is started."""
    _have_standard_streams()
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
