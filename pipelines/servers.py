"""The Prefect and MLflow servers of a workspace: started on loopback, asked for their health, announced to runs.

Clients send the workspace's token to whoever answers at their addresses. So the process that starts a server holds the
socket, not the server: until it ends, nobody else can listen there, whatever becomes of the server.
"""

import atexit
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from pipelines.supervisor import started
from troupe.credentials import USER, basic, token
from troupe.errors import TroupeError
from troupe.files import write_json
from troupe.layout import STATE
from troupe.loopback import HOST
from troupe.tracking import connection
from troupe.tracking.app import APP
from troupe.tracking.store import quoted

PREFECT, MLFLOW = "PREFECT_API_URL", connection.VARIABLE  # the variables that name the servers
PREFECT_CREDENTIALS = "PREFECT_API_AUTH_STRING"  # "user:password", which Prefect's clients send
ANNOUNCEMENT = STATE / "servers.json"
PREFECT_HOME = STATE / "prefect"
LOGS = STATE / "logs"
PACKAGES = ("prefect", "mlflow")
START_SECONDS = 180.0
ANSWER_SECONDS = 2.0


@dataclass(frozen=True)
class Server:
    name: str
    url: str  # for a person
    api: str  # for a program, in `variable`
    variable: str
    health: str

    def environment(self) -> dict[str, str]:
        """What a program that is to use it, and whatever that starts, has to find in its environment."""
        return {self.variable: self.api, **credentials(self.variable)}


def prefect_server(port: int) -> Server:
    url = f"http://{HOST}:{port}"
    return Server("Prefect", url, f"{url}/api", PREFECT, f"{url}/api/health")


def mlflow_server(port: int) -> Server:
    url = f"http://{HOST}:{port}"
    return Server("MLflow", url, url, MLFLOW, f"{url}/health")


def credentials(variable: str) -> dict[str, str]:
    """What has the token in the environment of clients of the server of this workspace that `variable` names."""
    if variable == PREFECT:
        return {PREFECT_CREDENTIALS: f"{USER}:{token()}"}
    return {connection.USERNAME: USER, connection.PASSWORD: token()}


def prefect_command(ui: bool) -> list[str]:
    """The server listens on its standard input (supervisor.started)."""
    return [sys.executable, "-m", "pipelines.prefect_server", "--fd", "0", *([] if ui else ["--no-ui"])]


def mlflow_command(server: Server) -> list[str]:
    """The server reads the same files as a run without it: runs made before and after stand in one list.

    The address is relative, so that no character of the workspace's path means anything in it. It listens on its
    standard input (supervisor.started), over which host and port count no more.
    """
    port = server.url.rpartition(":")[2]
    place = ["--host", HOST, "--port", port, "--workers", "1"]
    hosts = ["--allowed-hosts", f"{HOST}:{port},localhost:{port}"]
    # Its access log would have the token of an address.
    ours = ["--app-name", APP, "--uvicorn-opts", "--fd 0 --no-access-log"]
    store = ["--backend-store-uri", "sqlite:///mlflow.db"]
    artifacts = ["--no-serve-artifacts", "--default-artifact-root", Path("mlartifacts").resolve().as_uri()]
    return [sys.executable, "-m", "troupe.tracking.store", *place, *hosts, *ours, *store, *artifacts]


@contextmanager
def starting(server: Server, command: list[str], listener: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    """Have a server, which need not answer yet; it stops at the end of the block, or when this process dies."""
    log_of(server).parent.mkdir(parents=True, exist_ok=True)
    with log_of(server).open("w", encoding="utf-8") as file, started(command, file, listener=listener) as child:
        yield child


def wait_for(server: Server, child: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers. Raises TroupeError, naming its log, if it does not."""
    deadline = time.monotonic() + START_SECONDS
    while not answers(server.health):
        if child.poll() is not None:
            last_line = log_of(server).read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
            raise TroupeError(
                f"{server.name} stopped while starting: {last_line or 'without a word'}; see {log_of(server)}"
            )
        if time.monotonic() > deadline:
            raise TroupeError(f"{server.name} did not answer within {START_SECONDS:.0f} s; see {log_of(server)}")
        time.sleep(0.2)


@contextmanager
def announced(*servers: Server) -> Iterator[None]:
    """Let pipelines that are started in this workspace report to these servers."""
    ours = {server.variable: {"api": server.api, "health": server.health} for server in servers}
    us = {"pid": os.getpid(), "created": psutil.Process().create_time(), "workspace": str(Path.cwd())}
    us["releases"] = {package: version(package) for package in PACKAGES}
    write_json(ANNOUNCEMENT, {**us, "servers": ours})
    try:
        yield
    finally:
        ANNOUNCEMENT.unlink(missing_ok=True)


def use_announced() -> None:
    """Point the environment at the servers that `make ui` started here, unless the user has pointed it elsewhere.

    Their token is put there too: while that `make ui` lives, nobody else can listen at their addresses. What a killed
    one left behind is ignored. Raises TroupeError if they are of another release than what is installed by now.
    """
    for variable, server in announcement().items():
        if os.environ.get(variable, server["api"]) == server["api"]:
            _require_this_release()
            if answers(server["health"]):
                os.environ |= {variable: server["api"], **credentials(variable)}


def _require_this_release() -> None:
    """Of the packages of the servers that are announced; the note of an older `make ui` names none."""
    releases = _note().get("releases", {})
    for package in PACKAGES:
        if releases.get(package) != version(package):
            raise TroupeError(
                f"`make ui` runs {package} {releases.get(package, 'of an older release')}, and {version(package)} has "
                "been installed since; stop it with Ctrl-C and start it again"
            )


def ensure_prefect_api() -> None:
    """Have a Prefect API: the one that PREFECT_API_URL names, or else a server of our own until this process ends.

    Prefect's own ephemeral server would survive a kill -9 of the flow; ours does not. To be called before prefect is
    imported: what is registered first is stopped last, after Prefect has sent its last log lines.
    """
    if url := os.environ.get(PREFECT):
        _require_prefect(url.rstrip("/"))
        return
    stack = ExitStack()
    atexit.register(stack.close)
    listener = stack.enter_context(listening())
    server = prefect_server(port_of(listener))
    wait_for(server, stack.enter_context(starting(server, prefect_command(ui=False), listener)))
    os.environ |= server.environment()


def _require_prefect(url: str) -> None:
    """Raise TroupeError unless a Prefect server answers there, and answers us."""
    if not prefect_answers():
        raise TroupeError(f"{PREFECT}: no Prefect server answers at {url}; start it, or unset the variable")
    user, _, password = os.environ.get(PREFECT_CREDENTIALS, "").partition(":")
    headers = {"Authorization": basic(user, password)} if user else {}
    if "PREFECT_API_KEY" not in os.environ and status_of(f"{url}/admin/version", headers) == HTTPStatus.UNAUTHORIZED:
        raise TroupeError(
            f"{PREFECT}: the server at {url} wants a password; set {PREFECT_CREDENTIALS} to user:password"
        )


def schedules(prefect: Server) -> list[tuple[str, str]]:
    """When `train` runs, as cron expressions and time zones; none where the server does not answer or serves it yet."""
    request = urllib.request.Request(
        f"{prefect.api}/deployments/name/train/train", headers={"Authorization": basic(USER, token())}
    )
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:
            found = [one["schedule"] for one in json.load(response)["schedules"]]
            return [(one["cron"], one["timezone"]) for one in found if "cron" in one]
    except (OSError, ValueError, KeyError):
        return []


def quiet_prefect(console_level: str = "CRITICAL") -> None:
    """Keep Prefect's state in the workspace and its log off the console, where stages speak for themselves."""
    PREFECT_HOME.mkdir(parents=True, exist_ok=True)
    if "PREFECT_HOME" not in os.environ:
        os.environ["PREFECT_HOME"] = str(PREFECT_HOME.resolve())
        os.environ.setdefault("PREFECT_API_DATABASE_CONNECTION_URL", prefect_database())
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", console_level)
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", console_level)  # of threads that send what they have later


def prefect_database() -> str:
    """The URL of Prefect's database in its home; its own default takes a "?" or "%" of the path for the URL's."""
    return f"sqlite+aiosqlite:///{quoted(PREFECT_HOME.resolve() / 'prefect.db')}"


def prefect_answers() -> bool:
    """Whether the server that PREFECT_API_URL names answers, soon; without one Prefect brings along its own."""
    url = os.environ.get(PREFECT)
    return not url or answers(f"{url.rstrip('/')}/health")


def answers(address: str) -> bool:
    """Whether a GET of this address is answered with success, soon."""
    return status_of(address) == HTTPStatus.OK


def status_of(address: str, headers: Mapping[str, str] | None = None) -> int:
    """The status with which a GET of this address is answered, soon; 0 if it is not."""
    try:
        request = urllib.request.Request(address, headers=dict(headers or {}))
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):
        return 0


def listening(wanted: int = 0) -> socket.socket:
    """A socket that listens on loopback, at the port `wanted`, or at any if that is 0 or taken."""
    try:
        listener = socket.create_server((HOST, wanted))
    except OSError:
        listener = socket.create_server((HOST, 0))
    # What it accepts inherits this. asyncio would set it, but uvicorn takes any socket that it is given for a Unix one.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def port_of(listener: socket.socket) -> int:
    """Where it listens."""
    return int(listener.getsockname()[1])


def announcement() -> Mapping[str, Mapping[str, str]]:
    """{variable: {"api", "health"}} of the `make ui` that is running in this workspace; empty if there is none."""
    found: Mapping[str, Mapping[str, str]] = _note().get("servers", {})
    return found


def _note() -> Mapping[str, Any]:
    """What `announced` has written; empty if whoever did so is gone."""
    try:
        note: dict[str, Any] = json.loads(ANNOUNCEMENT.read_text(encoding="utf-8"))
        alive = psutil.Process(note["pid"]).create_time() == note["created"]  # not another process of that number
        ours = note["workspace"] == str(Path.cwd())  # not copied with the workspace of other servers
        return note if alive and ours else {}
    except (OSError, ValueError, KeyError, psutil.Error):
        return {}


def log_of(server: Server) -> Path:
    """Where a server's output goes."""
    return LOGS / f"{server.name.lower()}.log"
