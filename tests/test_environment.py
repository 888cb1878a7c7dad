"""The switches are defaults: they apply where the user has said nothing, and imports do not touch them."""

import os
import subprocess
import sys

import pytest

from troupe import environment


def test_sets_what_is_unset_and_keeps_what_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment.DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    environment.prepare()
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert os.environ["DO_NOT_TRACK"] == "true"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"


@pytest.mark.parametrize(("policy", "turns"), [(None, "1000"), ("ACTIVE", None)])
def test_how_threads_wait_is_left_to_a_user_who_has_said_it(
    monkeypatch: pytest.MonkeyPatch, policy: str | None, turns: str | None
) -> None:
    for name in environment.DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    if policy:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    environment.prepare()
    assert os.environ["OMP_WAIT_POLICY"] == (policy or "PASSIVE")
    assert os.environ.get("GOMP_SPINCOUNT") == turns


@pytest.mark.slow
def test_mlflow_believes_its_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment.DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    code = (
        "from troupe import environment; environment.prepare(); import mlflow.environment_variables as e;"
        "from mlflow.telemetry.client import get_telemetry_client;"
        "assert get_telemetry_client() is None;"
        "assert e.MLFLOW_ALLOW_PICKLE_DESERIALIZATION.get() is False;"
        "assert e.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_changes_nothing() -> None:
    code = "import os; before = dict(os.environ); import troupe.environment; assert dict(os.environ) == before"
    subprocess.run([sys.executable, "-c", code], check=True)
