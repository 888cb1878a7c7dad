"""`make ui`, from the lock: both servers answer, and what cron schedules is run.

One wrong transitive version can stop scheduling silently (SQLAlchemy 2.1 did so under Prefect 3.8): everything answers,
and nothing is ever run.
"""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.servers import ANNOUNCEMENT, free_port
from tests.pipelines.small import PYTHON, environment, eventually, make, pipeline, processes_in
from troupe.layout import RUNS

pytestmark = [pytest.mark.slow, pytest.mark.servers]

# The first attempt is killed when it has noted how far it came; the second goes on from there.
KILLED_ONCE = "test -e halfway || { touch halfway; kill -9 $$; }; cp halfway second.txt\n"
REFUSING = "echo 'second: data/a.txt: not UTF-8 at byte 3' >&2; exit 2\n"
OFTEN = "* * * * * */15"  # every fifteen seconds: cron's sixth field, which few know


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


def test_servers_schedules_and_runs_beside_them(tmp_path: Path) -> None:
    folder = make(tmp_path, KILLED_ONCE)
    with ui(folder) as servers:
        api = servers["PREFECT_API_URL"]
        assert httpx.get(f"{api}/health").json() is True
        assert httpx.get(f"{servers['MLFLOW_TRACKING_URI']}/health").text == "OK"

        eventually(lambda: deployed(api), 60)
        schedule(api, OFTEN)
        eventually(lambda: runs(api), 60)
        unschedule(api)
        eventually(lambda: all(run["state"]["type"] not in ("PENDING", "RUNNING") for run in runs(api)), 120)
        scheduled = runs(api)[-1]
        assert scheduled["auto_scheduled"]
        assert scheduled["state"]["type"] == "COMPLETED"
        record = json.loads(next((folder / RUNS).glob("*/run.json")).read_text())
        assert record["prefect_flow_run"] == scheduled["id"]
        assert record["stages"]["second"]["attempts"] == 2, "killed, tried again, resumed"

        (folder / "work.sh").write_text(REFUSING)
        refused = pipeline(folder)
        assert refused.returncode == 2
        assert refused.stderr.strip() == "second: data/a.txt: not UTF-8 at byte 3"
        assert runs(api)[0]["state"]["type"] == "FAILED", "`make pipeline` reports to the servers beside it"
        failed = json.loads(max((folder / RUNS).glob("*/run.json")).read_text())
        assert failed["stages"]["second"]["attempts"] == 1, "what the user has to mend is not tried again"
        experiments = {"experiment_ids": ["1"], "filter": f"tags.`troupe.run_id` = '{failed['run_id']}'"}
        mirrored = httpx.post(f"{servers['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/runs/search", json=experiments).json()
        assert "FAILED" in [run["info"]["status"] for run in mirrored["runs"]]
