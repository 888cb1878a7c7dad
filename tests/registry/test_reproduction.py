"""What a run's parameters are made into where it is run again; tests/smoke/test_reproduction.py runs one."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from troupe.params import load_params
from troupe.registry.reproduction import _to_run_here


def test_what_another_engine_trained_is_made_again_by_processes_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["run.launcher=docker", "run.device=cpu", "run.nodes=2", "run.processes=4", "data.source=data/*.txt"]
    made: dict[str, Any] = load_params(ROOT / "params.yaml", asked).model_dump()
    here = _to_run_here(made)
    assert here["run"] == made["run"] | {"launcher": "local", "nodes": 1}
    assert here["data"]["source"] == str(tmp_path / "data/*.txt")
    for name in ("launcher", "nodes"):
        del made["run"][name]  # a record of before they were parameters
    assert _to_run_here(made)["run"] == made["run"]
