"""A second machine, here another clone, works for the first: a worker of Prefect's takes the run from its work pool."""

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pipelines.small import environment, eventually, make, processes_in
from tests.smoke.ui import patiently, plain, ui
from tests.workspace import NUMERICS, PROFILE, digests
from troupe.credentials import TOKEN, USER

PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@pytest.mark.slow
@pytest.mark.servers
def test_another_clone_takes_a_scheduled_run_and_registers_its_models(first_run: Path, tmp_path: Path) -> None:
    """The first machine has the servers and no model; the second one has its own folder, and computes there."""
    first, second, log = tmp_path / "first", tmp_path / "second", tmp_path / "worker.log"
    first.mkdir()
    shutil.copytree(first_run / "copy", second)
    with ui(make(first)) as servers:
        api, mlflow = servers["PREFECT_API_URL"], servers["MLFLOW_TRACKING_URI"]
        secret = (first / TOKEN).read_text().strip()
        there = environment(
            PREFECT_HOME=str(tmp_path / "home"),
            PREFECT_API_URL=plain(api),
            PREFECT_API_AUTH_STRING=f"{USER}:{secret}",
            MLFLOW_TRACKING_URI=plain(mlflow),
            MLFLOW_TRACKING_USERNAME=USER,
            MLFLOW_TRACKING_PASSWORD=secret,
            TROUPE_WORKSPACE=str(second),
            PYTHONPATH=str(second),
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        )
        for words in (["work-pool", "create", "troupe", "--type", "process"], ["deploy", "--all"]):
            done = subprocess.run([*PREFECT, *words], cwd=ROOT, env=there, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        start = [*PREFECT, "worker", "start", "--pool", "troupe", "--type", "process", "--limit", "1"]
        with log.open("w") as said, subprocess.Popen(start, cwd=second, env=there, stdout=said, stderr=said) as worker:
            try:
                deployment = patiently("GET", f"{api}/deployments/name/train/elsewhere").json()
                soon = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
                asked = {
                    "parameters": {"profile": PROFILE, "overrides": f"{NUMERICS} evaluate.top_k=7"},
                    "state": {"type": "SCHEDULED", "state_details": {"scheduled_time": soon}},
                }
                run = patiently("POST", f"{api}/deployments/{deployment['id']}/create_flow_run", json=asked).json()

                def state() -> dict[str, str]:
                    return dict(patiently("GET", f"{api}/flow_runs/{run['id']}").json()["state"])

                eventually(lambda: state()["type"] in FINAL, 300)
                assert state()["type"] == "COMPLETED", f"{state()}\n{log.read_text()}"
            finally:
                worker.kill()  # asked to end by a signal in the moment in which its run ends, it may wait for ever
        ask = {"name": "troupe-moe"}
        found = patiently("GET", f"{mlflow}/api/2.0/mlflow/registered-models/get", params=ask).json()
        (version,) = found["registered_model"]["latest_versions"]
        tags = {tag["key"]: tag["value"] for tag in version["tags"]}
        assert tags["weights_sha256"] == digests(second)["moe"]
        champion = {"name": "troupe", "alias": "champion"}
        patiently("GET", f"{mlflow}/api/2.0/mlflow/registered-models/alias", params=champion)
    assert "top_k: 7" in (second / "artifacts/params.yaml").read_text(), "computed there, as it was asked for"
    assert not (second / "mlflow.db").exists(), "its own store was not used"
    eventually(lambda: not processes_in(second))  # what the worker had started is at its end
