"""A second machine, here another clone, works for the first: a worker of Prefect's takes the run from its work pool."""

import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.pipelines.small import environment, eventually, make, processes_in
from tests.smoke.ui import patiently, ui
from tests.workspace import TINY, digests

ROOT = Path(__file__).parents[2]
PREFECT = [sys.executable, "-m", "prefect"]
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@pytest.mark.slow
@pytest.mark.servers
def test_another_clone_takes_a_scheduled_run_and_registers_its_models(first_run: Path, tmp_path: Path) -> None:
    """The first machine has the servers and no model; the second one has its own folder, and computes there."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    shutil.copytree(first_run / "copy", second)
    with ui(make(first)) as servers:
        api, mlflow = servers["PREFECT_API_URL"], servers["MLFLOW_TRACKING_URI"]
        for words in (["work-pool", "create", "troupe", "--type", "process"], ["deploy", "--all"]):
            command = [*PREFECT, "--no-prompt", *words]
            done = subprocess.run(command, cwd=ROOT, env=environment(**servers), capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        here = environment(**servers, TROUPE_WORKSPACE=str(second), PYTHONPATH=str(second))
        start = [*PREFECT, "worker", "start", "--pool", "troupe"]
        with (
            (tmp_path / "worker.log").open("w") as log,
            subprocess.Popen(start, cwd=second, env=here, stdout=log, stderr=log) as worker,
        ):
            try:
                deployment = patiently("GET", f"{api}/deployments/name/train/elsewhere").json()
                soon = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
                asked = {
                    "parameters": {"overrides": TINY},
                    "state": {"type": "SCHEDULED", "state_details": {"scheduled_time": soon}},
                }
                run = patiently("POST", f"{api}/deployments/{deployment['id']}/create_flow_run", json=asked).json()

                def ended() -> bool:
                    return patiently("GET", f"{api}/flow_runs/{run['id']}").json()["state"]["type"] in FINAL

                eventually(ended, 300)
                state = patiently("GET", f"{api}/flow_runs/{run['id']}").json()["state"]
                assert state["type"] == "COMPLETED", f"{state}\n{(tmp_path / 'worker.log').read_text()}"
                ask = {"name": "troupe-moe"}
                found = patiently("GET", f"{mlflow}/api/2.0/mlflow/registered-models/get", params=ask).json()
                (version,) = found["registered_model"]["latest_versions"]
                tags = {tag["key"]: tag["value"] for tag in version["tags"]}
                assert tags["weights_sha256"] == digests(second)["moe"]
                assert "Downloading artifacts" not in (tmp_path / "worker.log").read_text(), "not our environment"
            finally:
                worker.send_signal(signal.SIGINT)
                worker.wait(30)
    assert not (second / "mlflow.db").exists(), "its own store was not used"
    assert not processes_in(second)
