"""The containers' MLflow without one: docker/mlflow_start.py, its passwords and permissions, on two SQLite files."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import started
from troupe.credentials import basic
from troupe.layout import MODEL_STAGES
from troupe.params import PromoteParams
from troupe.registry.registration import register
from troupe.registry.release import promote, rollback
from troupe.registry.versions import RELEASE, model_name, table
from troupe.tracking.connection import EXPERIMENT, PASSWORD, USERNAME, VARIABLE

DOCKER = Path(__file__).parents[2] / "docker"
GATE, READER = ("troupe", "of-the-gate-alone"), ("reader", "of-everybody-else")
NAMES = [RELEASE, *map(model_name, MODEL_STAGES)]


@pytest.fixture
def server(tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Its address, which the environment names for the gate's user."""
    config = (DOCKER / "mlflow-auth.ini").read_text()
    ours = config.replace("postgresql+psycopg2://troupe@postgres/mlflow_auth", f"sqlite:///{tmp_path}/auth.db")
    assert ours != config
    (tmp_path / "auth.ini").write_text(ours)
    store = ["--backend-store-uri", f"sqlite:///{tmp_path}/store.db", "--artifacts-destination", f"{tmp_path}/files"]
    words = [str(DOCKER / "mlflow_start.py"), "mlflow", "server", "--app-name", "basic-auth", "--workers", "1", *store]
    secrets = {
        "MLFLOW_AUTH_CONFIG_PATH": f"{tmp_path}/auth.ini",
        "MLFLOW_AUTH_ADMIN_USERNAME": GATE[0],
        "MLFLOW_AUTH_ADMIN_PASSWORD": GATE[1],
        "MLFLOW_READER_PASSWORD": READER[1],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-forms",
    }
    with started(words, "/health", tmp_path, **secrets) as url:
        for name, value in {VARIABLE: url, USERNAME: GATE[0], PASSWORD: GATE[1]}.items():
            monkeypatch.setenv(name, value)
        yield url


def asked(url: str, user: tuple[str, str], method: str, path: str, **body: Any) -> tuple[int, Any]:
    """The status and the JSON of the answer."""
    headers = {"Authorization": basic(*user), "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/api/2.0/mlflow/{path}", json.dumps(body).encode(), headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.security(
    "containers: before a first run, too, people cannot make troupe's models or its experiment theirs"
)
def test_a_reader_owns_none_of_the_names_and_the_gate_works_with_them(
    server: str, evaluated: Callable[..., Path]
) -> None:
    for name in NAMES:
        status, said = asked(server, READER, "POST", "registered-models/create", name=name)
        assert (status, "RESOURCE_ALREADY_EXISTS" in said) == (400, True)
        assert asked(server, READER, "DELETE", "registered-models/delete", name=name)[0] == 403
        assert asked(server, READER, "POST", "registered-models/rename", name=name, new_name="mine")[0] == 403
    status, said = asked(server, READER, "POST", "experiments/create", name=EXPERIMENT)
    assert (status, "RESOURCE_ALREADY_EXISTS" in said) == (400, True)
    assert table() == [], "the gate's user sees models without versions"
    for seed, accuracy in ((1, 0.8), (2, 0.6)):
        run_dir = evaluated(seed, accuracy=accuracy)
        for stage in MODEL_STAGES:
            register(stage, run_dir)
        verdict = promote(PromoteParams(bpb_margin=0.01, confidence=0.95)).verdict
        assert verdict.outcome == "promoted", verdict.reasons
    assert "first champion" not in verdict.reasons[0]
    move = {"name": RELEASE, "alias": "champion", "version": "1"}
    assert asked(server, READER, "POST", "registered-models/alias", **move)[0] == 403
    status, found = asked(server, READER, "GET", f"registered-models/get?name={RELEASE}")
    assert (status, found["registered_model"]["aliases"][0]["version"]) == (200, "2")
    assert rollback()[0].number == "1"
