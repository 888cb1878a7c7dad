"""`make ui` for tests, and what they ask its servers."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from pipelines.servers import ANNOUNCEMENT
from tests.pipelines.small import PYTHON, environment, eventually, listening_to_ctrl_c, processes_in
from tests.servers import free_port
from troupe.credentials import TOKEN, USER


@contextmanager
def ui(folder: Path, *arguments: str) -> Iterator[dict[str, str]]:
    """`make ui` on free ports: {"PREFECT_API_URL": url, "MLFLOW_TRACKING_URI": url}, with the token in the URLs."""
    ports = ["--prefect-port", str(free_port()), "--mlflow-port", str(free_port())]
    command = [PYTHON, "-m", "pipelines", "ui", *ports, *arguments]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=listening_to_ctrl_c,
    ) as child:
        assert child.stdout
        try:
            printed = [child.stdout.readline()]
            while printed[-1] and "Ctrl-C" not in printed[-1]:  # that line comes when all is up
                printed.append(child.stdout.readline())
            servers = json.loads((folder / ANNOUNCEMENT).read_text())["servers"]
            for variable in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
                address = servers[variable]["api"].removesuffix("/api")
                assert any(address in line for line in printed)
            secret = (folder / TOKEN).read_text().strip()
            assert secret not in "".join(printed), "no terminal, so it may be a log"
            user = f"http://{USER}:{secret}@"
            assert "Schedule" not in "".join(printed), "said when the server has it"
            yield {variable: server["api"].replace("http://", user) for variable, server in servers.items()}
        finally:
            child.send_signal(signal.SIGINT)
            assert child.wait(60) == 130
    assert not (folder / ANNOUNCEMENT).exists()
    assert not processes_in(folder)


def command(folder: Path, *words: str) -> psutil.Process:
    """The process in a folder whose command line has these words, and not the guard before it, once it is there."""
    found = list[psutil.Process]()
    eventually(lambda: found.extend(_commands(folder, set(words))) or found, 10)
    return found[0]


def _commands(folder: Path, words: set[str]) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            guard = any("guard.py" in word for word in line)
            if words <= set(line) and not guard and process.cwd() == str(folder):
                yield process
        except psutil.Error:
            continue


def plain(url: str) -> str:
    """An address without the token."""
    return re.sub("//.*@", "//", url)


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


def cron_expressions(api: str) -> list[str]:
    deployment = patiently("GET", f"{api}/deployments/name/train/train").json()
    return [one["schedule"]["cron"] for one in deployment["schedules"]]


def unschedule(api: str) -> None:
    """Delete the schedules, and with them the runs that wait for their time."""
    deployment = patiently("GET", f"{api}/deployments/name/train/train").json()
    for one in deployment["schedules"]:
        patiently("DELETE", f"{api}/deployments/{deployment['id']}/schedules/{one['id']}")
