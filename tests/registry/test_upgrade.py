"""Workspaces that older releases have used: after an upgrade, and after the next one, nothing is lost.

What they have left was made by tests/golden/stores.py with those releases; the names of the files have their versions.
"""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.golden.stores import LEAP_DAYS, RUN_PARAMETERS, STORES
from tests.pipelines.small import eventually, make
from tests.smoke.ui import deployed, ui
from troupe.errors import RegistryError
from troupe.layout import MODEL_STAGES
from troupe.params import PromoteParams
from troupe.registry import history, line
from troupe.registry.registration import register, result_of
from troupe.registry.release import promote, rollback
from troupe.registry.versions import resolve, table
from troupe.tracking import store
from troupe.tracking.connection import connection, experiment

MLFLOW = sorted(path.stem for path in STORES.glob("mlflow-*.sql"))
PREFECT = sorted(path.stem for path in STORES.glob("prefect-*.sql"))
RULE = PromoteParams(bpb_margin=0.01, confidence=0.95)


def restored(name: str, file: Path) -> Path:
    """A database as the release left it."""
    file.unlink(missing_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as database:
        database.executescript((STORES / f"{name}.sql").read_text(encoding="utf-8"))
    return file


def rows(file: Path) -> dict[str, list[tuple[object, ...]]]:
    """What stands in each table that is not empty, but for where its migrations have come to."""
    with closing(sqlite3.connect(file)) as database:
        names = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        found = {name: sorted(database.execute(f"select * from {name}"), key=repr) for name in names}
    return {name: lines for name, lines in found.items() if lines and name != "alembic_version"}


def with_parameters_of_today(file: Path) -> None:
    """params.yaml has other parameters now than when the store was made; what is upgraded here is MLflow alone."""
    with closing(sqlite3.connect(file)) as database, database:
        for stage in MODEL_STAGES:
            tag = (result_of(stage).params_sha256, f"troupe-{stage}")
            database.execute("update model_version_tags set value = ? where key = 'params_sha256' and name = ?", tag)


def kept() -> list[Path]:
    """The stores of before that lie beside mlflow.db."""
    return [path for path in Path().glob("mlflow.db.*") if path.suffix not in (".lock", ".line")]


@pytest.mark.slow
@pytest.mark.fault("an upgrade of MLflow on a used workspace, twice: nothing is lost, and the store of before is kept")
@pytest.mark.parametrize("name", MLFLOW)
def test_a_store_of_an_older_mlflow_has_everything_afterwards(
    name: str, evaluated: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file = restored(name, Path("mlflow.db"))
    before, bytes_before, revision = rows(file), file.read_bytes(), store._revision(file)
    older = revision != store._migrations().get_current_head()
    versions = table()
    names = ["troupe", *(f"troupe-{stage}" for stage in MODEL_STAGES)]
    assert [version.uri for version in versions] == [f"models:/{one}/{n}" for one in names for n in (2, 1)]
    assert [version.aliases for version in versions[:2]] == [("champion",), ("previous",)]
    assert ("brought to the tables of this MLflow" in capsys.readouterr().err) is older
    assert kept() == ([Path(f"mlflow.db.{revision}")] if older else [])
    assert [path.read_bytes() for path in kept()] == [bytes_before] * older

    after = rows(file)
    moved = {"experiments", "runs", "logged_models", "model_versions"}  # their files are now those of this workspace
    assert {n: [len(row) for row in before[n]] for n in moved} == {n: [len(row) for row in after[n]] for n in moved}
    assert {n: before[n] for n in before.keys() - moved} == {n: after.get(n) for n in before.keys() - moved}
    with connection() as client:
        runs = client.search_runs([experiment(client)])
        assert {run.data.params["run.seed"] for run in runs if "run.seed" in run.data.params} == {"7"}
        assert sum(len(run.data.metrics) for run in runs) == len(before["latest_metrics"]) > 0
        known = line.read(client)
        assert known.change
        assert known.change.entry
        assert (known.change.entry.action, known.change.settled) == (history.PROMOTED, True)
    table()
    assert (rows(file), len(kept())) == (after, older), (
        "the second upgrade in a row, to the same release, changes nothing"
    )

    run_dir = evaluated(2, accuracy=0.6)  # as the workspace of then has it: no result is registered twice
    with_parameters_of_today(file)
    assert [register(stage, run_dir).number for stage in MODEL_STAGES] == ["2", "2", "2"]
    assert promote(RULE).verdict.outcome == "unchanged"
    evaluated(1)
    assert register("adversarial", run_dir).number == "1"
    assert rollback()[0].uri == "models:/troupe/1"
    with connection() as client:
        assert resolve(client, "models:/troupe@previous").number == "2"


OPEN = "import sqlite3, sys; held = sqlite3.connect('mlflow.db'); held.execute('select 1 from runs'); print(flush=True)"


@pytest.mark.fault("an upgrade while a server of before runs: one line, and its store is left alone")
def test_a_store_that_an_older_process_has_open_is_left_alone(workspace: Path) -> None:
    file = restored(MLFLOW[0], Path("mlflow.db"))
    before = file.read_bytes()
    command = [sys.executable, "-c", f"{OPEN}; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as older:
        assert older.stdout
        older.stdout.readline()
        with pytest.raises(RegistryError, match=rf"process {older.pid} \(.*\) has it open; stop that first") as caught:
            table()
        assert "\n" not in str(caught.value)
        assert file.read_bytes() == before
        assert not Path("mlflow.db.new").exists()
        older.communicate()
    assert table()


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.fault("an upgrade of Prefect and MLflow under `make ui`: the deployment, its schedule and its runs stay")
@pytest.mark.parametrize("name", PREFECT)
def test_make_ui_on_what_older_servers_have_left(name: str, tmp_path: Path) -> None:
    """Twice: the second start finds what the first has made of it."""
    folder = make(tmp_path)
    database = restored(name, folder / ".troupe/prefect/prefect.db")
    restored(MLFLOW[0], folder / "mlflow.db")
    runs_before, (deployment,) = rows(database)["flow_run"], rows(database)["deployment"]
    for start in range(2):
        with ui(folder) as servers:
            api = servers["PREFECT_API_URL"]
            eventually(lambda: deployed(servers["PREFECT_API_URL"]), 60)
            found = httpx.get(f"{api}/deployments/name/train/train").json()
            assert found["id"] == deployment[0], "the same one"
            eventually(lambda: served(servers["PREFECT_API_URL"]), 60)
            found = httpx.get(f"{api}/deployments/name/train/train").json()
            [schedule] = found["schedules"]
            assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == (LEAP_DAYS, "Europe/Berlin")
            assert (schedule["active"], schedule["parameters"]) == (True, RUN_PARAMETERS)
            flow_runs = httpx.post(f"{api}/flow_runs/filter", json={}).json()
            by_name = {run["name"]: run for run in flow_runs if run["name"] in ("Completed", "Failed", "planned")}
            assert len(by_name) == len(runs_before), f"start {start}"
            ended = [(by_name[one]["state"]["type"], by_name[one]["parameters"]) for one in ("Completed", "Failed")]
            assert ended == [("COMPLETED", RUN_PARAMETERS), ("FAILED", RUN_PARAMETERS)]
            assert by_name["Failed"]["state"]["message"] == "second: data/a.txt: not UTF-8 at byte 3"
            assert by_name["planned"]["state"]["type"] == "SCHEDULED"
            mlflow = f"{servers['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/registered-models/get?name=troupe"
            aliases = httpx.get(mlflow).json()["registered_model"]["aliases"]
            assert {one["alias"]: one["version"] for one in aliases} == {"champion": "2", "previous": "1"}


def served(api: str) -> bool:
    """Whether the runner of today has put its form in place of that of then."""
    schema = httpx.get(f"{api}/deployments/name/train/train").json()["parameter_openapi_schema"]
    return "when_busy" in (schema or {}).get("properties", {})
