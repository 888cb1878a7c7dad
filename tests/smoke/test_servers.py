"""`make ui`, from the lock: both servers answer, and what cron schedules is run.

One wrong transitive version can stop scheduling silently (SQLAlchemy 2.1 did so under Prefect 3.8): everything answers,
and nothing is ever run.
"""

import json
import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.pipelines.small import eventually, make, pipeline
from tests.smoke.ui import command, cron_expressions, deployed, plain, runs, schedule, ui, unschedule
from troupe.layout import RUNS

pytestmark = [pytest.mark.slow, pytest.mark.servers]

# The first attempt is killed when it has noted how far it came; the second goes on from there.
KILLED_ONCE = "test -e halfway || { touch halfway; kill -9 $$; }; cp halfway second.txt\n"
REFUSING = "echo 'second: data/a.txt: not UTF-8 at byte 3' >&2; exit 2\n"
YEARLY = "0 3 1 1 *"
OFTEN = "* * * * * */15"  # every fifteen seconds: cron's sixth field, which few know


def test_servers_schedules_and_runs_beside_them(tmp_path: Path) -> None:
    folder = make(tmp_path, KILLED_ONCE)
    with ui(folder, "--cron", YEARLY, "--timezone", "UTC") as servers:
        api = servers["PREFECT_API_URL"]
        os.kill(command(folder, "serve").pid, signal.SIGKILL)  # before it could give the schedule to the server
        assert not deployed(api)
        assert httpx.get(f"{api}/health").json() is True
        assert httpx.get(f"{servers['MLFLOW_TRACKING_URI']}/health").text == "OK"

        eventually(lambda: deployed(api), 60)
        assert cron_expressions(api) == [YEARLY], "the runner that was started again has made the schedule"
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

        assert scheduled["state"]["message"] == "nothing to promote: the graph has no evaluation"
        pages = httpx.post(f"{api}/artifacts/filter", json={}).json()
        [page] = [page for page in pages if page["flow_run_id"] == scheduled["id"]]
        assert "**nothing to promote: the graph has no evaluation**" in page["data"]
        assert f"({plain(servers['MLFLOW_TRACKING_URI'])}/#/experiments/1/runs/" in page["data"]

        (folder / "work.sh").write_text(REFUSING)
        refused = pipeline(folder)
        assert refused.returncode == 2
        assert refused.stderr.strip() == "second: data/a.txt: not UTF-8 at byte 3"
        state = runs(api)[0]["state"]
        assert state["type"] == "FAILED", "`make pipeline` reports to the servers beside it"
        assert state["message"] == "second: data/a.txt: not UTF-8 at byte 3"
        failed = json.loads(max((folder / RUNS).glob("*/run.json")).read_text())
        assert failed["stages"]["second"]["attempts"] == 1, "what the user has to mend is not tried again"
        experiments = {"experiment_ids": ["1"], "filter": f"tags.`troupe.run_id` = '{failed['run_id']}'"}
        mirrored = httpx.post(f"{servers['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/runs/search", json=experiments).json()
        assert "FAILED" in [run["info"]["status"] for run in mirrored["runs"]]
