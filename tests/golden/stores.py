"""Make the databases that a used workspace of an older release has, as SQL in tests/golden/stores/.

    PYTHONPATH=. OLD/bin/python tests/golden/stores.py mlflow   # OLD has pytest, that MLflow and what troupe requires
    PYTHONPATH=. OLD/bin/python tests/golden/stores.py prefect  # OLD has pytest and that Prefect

MLflow's is made by this repository's own code: two results registered, both promoted in turn. Prefect's is made by its
server and client: the deployment `train` with a schedule, and runs of it that have completed, failed and are planned.
What names the machine, its user or a folder of it is replaced. tests/registry/test_upgrade.py opens them.
"""

import os
import socket
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.servers import started

STORES = Path(__file__).with_name("stores")
WORKSPACE = "/home/somebody/workspace"
LEAP_DAYS = "0 3 29 2 *"
RUN_PARAMETERS = {"overrides": "pretrain.steps=500", "profile": "tiny"}


def used_mlflow() -> Path:
    """Register and promote in the current folder; the store."""
    from tests.registry.conftest import _evaluated  # with mlflow and torch
    from troupe.layout import MODEL_STAGES
    from troupe.params import PromoteParams
    from troupe.registry.registration import register
    from troupe.registry.release import promote

    for seed, accuracy in ((1, 0.8), (2, 0.6)):
        run_dir = _evaluated(seed, accuracy=accuracy)
        for stage in MODEL_STAGES:
            register(stage, run_dir)
        assert promote(PromoteParams(bpb_margin=0.01, confidence=0.95)).verdict.outcome == "promoted"
    return Path("mlflow.db")


def used_prefect() -> Path:
    """Deploy, schedule and run on a server of the current folder; its database."""
    home = {
        "PREFECT_HOME": str(Path("home").absolute()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",  # two thirds of the text, and none of ours
    }
    with started(["-m", "prefect", "server", "start"], "/api/health", **home) as url:
        os.environ |= home | {"PREFECT_API_URL": f"{url}/api"}
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import DeploymentScheduleCreate
        from prefect.client.schemas.schedules import CronSchedule
        from prefect.states import Completed, Failed, Running, Scheduled

        planned = Scheduled(scheduled_time=datetime(2028, 2, 29, 2, tzinfo=UTC))
        with get_client(sync_client=True) as client:
            schedule = DeploymentScheduleCreate(
                schedule=CronSchedule(cron=LEAP_DAYS, timezone="Europe/Berlin"), parameters=RUN_PARAMETERS
            )
            id_ = client.create_deployment(
                client.create_flow_from_name("train"),
                "train",
                schedules=[schedule],
                tags=["troupe"],
                entrypoint="pipelines.train.train",
            )
            for end in (Completed(message="unchanged"), Failed(message="second: data/a.txt: not UTF-8 at byte 3")):
                run = client.create_flow_run_from_deployment(id_, parameters=RUN_PARAMETERS, name=end.name)
                for state in (Running(), end):
                    client.set_flow_run_state(run.id, state, force=True)
            client.create_flow_run_from_deployment(id_, parameters=RUN_PARAMETERS, name="planned", state=planned)
    return Path("home/prefect.db")


def main(name: str) -> None:
    """Make one in a folder that is gone afterwards, and write it as SQL."""
    os.environ["LOGNAME"] = "somebody"  # the user, for Python and MLflow
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        with closing(sqlite3.connect({"mlflow": used_mlflow, "prefect": used_prefect}[name]())) as database:
            text = "\n".join(database.iterdump())
        os.chdir("/")
    text = text.replace(folder, WORKSPACE).replace(socket.gethostname(), "host")
    path = STORES / f"{name}-{version(name)}.sql"
    path.write_text(text + "\n", encoding="utf-8")
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
