"""`make ui` for tests, and what they ask its servers."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from pipelines.servers import ANNOUNCEMENT, free_port
from tests.pipelines.small import PYTHON, environment, processes_in


@contextmanager
def ui(folder: Path, *arguments: str) -> Iterator[dict[str, str]]:
    """`make ui` on free ports: {"PREFECT_API_URL": url, "MLFLOW_TRACKING_URI": url}."""
    ports = ["--prefect-port", str(free_port()), "--mlflow-port", str(free_port())]
    command = [PYTHON, "-m", "pipelines", "ui", *ports, *arguments]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job is started without Ctrl-C
    ) as child:
        assert child.stdout
        try:
            printed = [child.stdout.readline() for _ in range(4)]  # the last line comes when all is up
            servers = json.loads((folder / ANNOUNCEMENT).read_text())["servers"]
            for variable in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
                address = servers[variable]["api"].removesuffix("/api")
                assert any(address in line for line in printed)
            yield {variable: server["api"] for variable, server in servers.items()}
        finally:
            child.send_signal(signal.SIGINT)
            assert child.wait(60) == 130
    assert not (folder / ANNOUNCEMENT).exists()
    assert not processes_in(folder)


def patiently(method: str, url: str, **body: Any) -> httpx.Response:
    """Ask again while the server answers 503, as Prefect's own client does: its SQLite file was locked just then."""
    for _ in range(20):
        response = httpx.request(method, url, **body)
        if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            break
        time.sleep(0.5)
    return response.raise_for_status()


def runs(api: str) -> list[dict[str, Any]]:
    """The flow runs that have started, the last one first."""
    wanted = {"sort": "START_TIME_DESC", "flow_runs": {"start_time": {"is_null_": False}}}
    return list(patiently("POST", f"{api}/flow_runs/filter", json=wanted).json())


def schedule(api: str, cron: str) -> None:
    """What a click in the UI does."""
    deployment = patiently("GET", f"{api}/deployments/name/train/train").json()
    body = [{"active": True, "schedule": {"cron": cron}}]
    patiently("POST", f"{api}/deployments/{deployment['id']}/schedules", json=body)


def deployed(api: str) -> bool:
    return httpx.get(f"{api}/deployments/name/train/train").is_success


def unschedule(api: str) -> None:
    """Delete the schedules, and with them the runs that wait for their time."""
    deployment = patiently("GET", f"{api}/deployments/name/train/train").json()
    for one in deployment["schedules"]:
        patiently("DELETE", f"{api}/deployments/{deployment['id']}/schedules/{one['id']}")
