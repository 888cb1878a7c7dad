"""The mirror holds what the records hold: whatever was lost, cut short, sent twice or late."""

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from mlflow import MlflowClient

from troupe.errors import RegistryError
from troupe.files import write_json
from troupe.tracking import connection, mirror, records
from troupe.tracking.connection import reachable, tracking_uri

RUN_ID = "20260131-120000-abcd"
WriteRun = Callable[..., Path]


def write_curve(steps: range, folder: str = "artifacts/pretrain", **more: Any) -> Path:
    path = Path(folder) / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"step": s, "time": 1_769_860_800 + s, "train/loss": 3.0 / s, **more}) for s in steps]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def runs() -> dict[str, Any]:
    """Every MLflow run, by "<run id>/<stage>"."""
    with connection.connection() as client:
        found = client.search_runs([connection.experiment(client)])
    return {f"{r.data.tags['troupe.run_id']}/{r.data.tags.get('troupe.stage', '')}": r for r in found}


def curve(run: Any, name: str = "train/loss") -> list[tuple[int, int, float]]:
    with connection.connection() as client:
        history = client.get_metric_history(run.info.run_id, name)
    return sorted((point.step, point.timestamp, point.value) for point in history)


@pytest.mark.slow
def test_parent_child_params_curves_lineage_summary_and_report(workspace: Path, write_run: WriteRun) -> None:
    run_dir = write_run(stages={"inputs": "cached", "pretrain": "ran"})
    write_curve(range(1, 31), **{"val/bpb": "nan"})
    write_json(Path("artifacts/pretrain/summary.json"), {"parameters": 1234, "weights_sha256": "f00"})
    manifest = {"bytes": 9, "sha256": "ab" * 32, "source": "python-docs", "licence": "PSF", "blocks": [{"start": 0}]}
    write_json(Path("artifacts/corpus/manifest.json"), manifest)
    test = {"bpb": 1.5, "judge": {"accuracy": 0.8}}
    write_json(Path("reports/metrics.json"), {"models": {"pretrain": {"test": test}}})
    Path("reports/report.html").write_text("<p>report</p>")
    Path("reports/embedded.json").write_text('{"data": "in the page already"}')
    (run_dir / "pretrain.system.jsonl").write_text('{"step": 2, "time": 1769860802, "system/cpu_percent": 99.5}\n')
    records.keep(run_dir, "pretrain")
    records.keep_report(run_dir)
    mirror.mirror_run(run_dir)

    found = runs()
    parent, child = found[f"{RUN_ID}/"], found[f"{RUN_ID}/pretrain"]
    assert found.keys() == {f"{RUN_ID}/", f"{RUN_ID}/pretrain"}  # a cached stage did nothing
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert parent.info.end_time - parent.info.start_time == 600_000
    assert parent.data.params == {"run.seed": "7", "pretrain.steps": "30", "pretrain.learning_rate": "0.02"}
    assert child.data.params.keys() == {"pretrain.steps", "pretrain.learning_rate"}
    assert parent.data.tags["troupe.overrides"] == "pretrain.steps=30"
    assert parent.data.tags["troupe.profile"] == "cpu-minutes"
    assert parent.data.tags["mlflow.source.git.commit"] == "c0ffee"
    assert curve(child)[9] == (10, 1_769_860_810_000, 0.3)
    assert len(curve(child)) == len(curve(child, "val/bpb")) == 30
    assert curve(child, "system/cpu_percent") == [(2, 1_769_860_802_000, 99.5)]
    assert child.data.metrics["summary/parameters"] == 1234
    assert parent.data.metrics["pretrain/judge/accuracy"] == 0.8
    dataset = child.inputs.dataset_inputs[0].dataset
    assert dataset.digest == ("ab" * 32)[:36]
    assert json.loads(dataset.profile)["sha256"] == "ab" * 32
    artifacts = Path(unquote(parent.info.artifact_uri.removeprefix("file://")))
    assert artifacts.is_relative_to(workspace / "mlartifacts")
    assert (artifacts / "reports/report.html").read_text() == "<p>report</p>"
    assert not (artifacts / "reports/embedded.json").exists()


@pytest.mark.slow
def test_a_deleted_store_is_filled_again_and_a_full_one_left_alone(
    workspace: Path, empty_store: Path, write_run: WriteRun
) -> None:
    run_dir = write_run()
    write_curve(range(1, 2500))
    records.keep(run_dir, "pretrain")
    mirror.mirror_pending()
    before = runs()
    mirror.mirror_pending()
    mirror.mirror_run(run_dir)
    assert {key: run.info.run_id for key, run in runs().items()} == {
        key: run.info.run_id for key, run in before.items()
    }

    sent = curve(before[f"{RUN_ID}/pretrain"])
    other = workspace / "other"
    other.mkdir()
    (other / "mlflow.db").write_bytes(empty_store.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}/mlflow.db")
        mirror.mirror_pending()
        assert curve(runs()[f"{RUN_ID}/pretrain"]) == sent
    assert len(sent) == 2499


@pytest.mark.fault("a stage killed while MLflow follows it: one curve without doubles")
@pytest.mark.slow
def test_follows_a_stage_at_work_through_a_kill_and_a_resumed_attempt(workspace: Path, write_run: WriteRun) -> None:
    run_dir = write_run("running", stages={"pretrain": "running"})
    path = write_curve(range(1, 21))
    with path.open("a") as file:
        file.write('{"step": 21, "ti')  # a record half written
    mirror.mirror_run(run_dir)
    assert len(curve(runs()[f"{RUN_ID}/pretrain"])) == 20

    write_curve(range(1, 11))  # resumed from step 10: later lines are gone for now
    mirror.mirror_run(run_dir)
    write_curve(range(1, 31))
    write_run("completed")
    records.keep(run_dir, "pretrain")
    mirror.mirror_run(run_dir)
    child = runs()[f"{RUN_ID}/pretrain"]
    assert [step for step, *_ in curve(child)] == [*range(1, 31)]
    assert child.info.status == "FINISHED"


@pytest.mark.slow
def test_a_call_that_was_cut_short_is_repeated_without_doubles(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, write_run: WriteRun
) -> None:
    run_dir = write_run()
    write_curve(range(1, 1500))
    records.keep(run_dir, "pretrain")
    whole, calls = MlflowClient.log_batch, []

    def breaks(self: MlflowClient, *args: Any, **kwargs: Any) -> None:
        calls.append(len(kwargs.get("metrics", ())))
        if len(calls) == 4:  # params of the parent, params of the child, first half of the curve
            raise ConnectionError("cable pulled")
        whole(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", breaks)
    with pytest.raises(RegistryError, match="cable pulled"):
        mirror.mirror_run(run_dir)
    assert calls == [0, 0, 999, 500]
    monkeypatch.undo()
    monkeypatch.chdir(workspace)
    mirror.mirror_run(run_dir)
    assert len(curve(runs()[f"{RUN_ID}/pretrain"])) == 1499


@pytest.mark.slow
def test_killed_runs_are_closed_by_the_next_but_the_current_is_not(workspace: Path, write_run: WriteRun) -> None:
    stages = {"corpus": "ran", "pretrain": "running"}
    mirror.mirror_run(write_run("running", stages=stages, run_id="dead"))
    write_run("running", stages={}, run_id="alive")
    mirror.mirror_pending()
    assert {run.info.status for run in runs().values()} == {"RUNNING", "FINISHED"}, (
        "until a record says what was killed"
    )
    write_run("killed", stages=stages, run_id="dead")
    mirror.mirror_pending()
    assert {key: run.info.status for key, run in runs().items()} == {
        "dead/": "KILLED",
        "dead/corpus": "FINISHED",
        "dead/pretrain": "KILLED",
    }


@pytest.mark.slow
def test_runs_of_others_in_the_experiment_are_left_alone(workspace: Path, write_run: WriteRun) -> None:
    with connection.connection() as client:
        theirs = client.create_run(connection.experiment(client), tags={"troupe.stage": "mine"})
        client.set_terminated(theirs.info.run_id)
        client.set_terminated(client.create_run(connection.experiment(client)).info.run_id)
    mirror.mirror_run(write_run())
    mirror.mirror_pending()
    with connection.connection() as client:
        untouched = client.get_run(theirs.info.run_id).data
        assert len(client.search_runs([connection.experiment(client)])) == 4
    assert untouched.tags["troupe.stage"] == "mine"
    assert "troupe.run_id" not in untouched.tags


@pytest.mark.slow
def test_a_cursor_that_someone_has_edited_sends_everything_again(workspace: Path, write_run: WriteRun) -> None:
    run_dir = write_run("running", stages={"pretrain": "running"})
    write_curve(range(1, 11))
    mirror.mirror_run(run_dir)
    with connection.connection() as client:
        client.set_tag(runs()[f"{RUN_ID}/pretrain"].info.run_id, "troupe.sent.metrics", "all of them")
    write_curve(range(1, 21))
    mirror.mirror_run(run_dir)
    assert [step for step, *_ in curve(runs()[f"{RUN_ID}/pretrain"])] == [*range(1, 21)]


@pytest.mark.slow
def test_deleting_the_experiment_in_the_ui_does_not_stop_the_mirror(workspace: Path, write_run: WriteRun) -> None:
    mirror.mirror_run(write_run(run_id="one"))
    with connection.connection() as client:
        client.delete_experiment(connection.experiment(client))
    mirror.mirror_run(write_run(run_id="two"))
    assert runs().keys() >= {"two/", "two/pretrain"}


@pytest.mark.slow
def test_stage_run_is_the_one_that_made_the_weights(workspace: Path, write_run: WriteRun) -> None:
    Path("artifacts/pretrain").mkdir(parents=True)
    write_json(Path("artifacts/pretrain/summary.json"), {"weights_sha256": "f00"})
    first, second = write_run(run_id="first"), write_run(stages={"pretrain": "cached"}, run_id="second")
    records.keep(first, "pretrain")
    mirror.mirror_pending()
    made = runs()["first/pretrain"].info.run_id
    assert mirror.stage_run(second, "pretrain", "f00") == made
    write_json(Path("artifacts/pretrain/summary.json"), {"weights_sha256": "ba5"})
    assert mirror.stage_run(second, "pretrain", "ba5") == runs()["second/pretrain"].info.run_id


def test_a_leftover_of_an_earlier_run_is_not_taken_for_the_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_curve(range(1, 5))
    record = {"started": "2026-01-31T12:00:00+0000"}
    assert records.curves(Path("run"), record, "pretrain") == path
    os.utime(path, (0, 0))
    assert records.curves(Path("run"), record, "pretrain") == Path("run/pretrain.metrics.jsonl")


def test_where_mlflow_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri() == f"sqlite+pysqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri() == "http://127.0.0.1:5000"


@pytest.mark.fault("MLflow dead in the middle of a run: no time lost, every metric later")
def test_a_dead_server_costs_no_time_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_run: WriteRun
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    run_dir = write_run()
    began = time.monotonic()
    with pytest.raises(RegistryError, match=r"unreachable at http://127\.0\.0\.1:9; metrics are kept in \.troupe/runs"):
        mirror.mirror_run(run_dir)
    assert time.monotonic() - began < 5


@pytest.mark.fault("MLflow frozen: counts as out of reach")
def test_a_server_that_hangs_counts_as_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, answers nobody
        began = time.monotonic()
        assert not reachable(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.3)
        assert time.monotonic() - began < 3
    assert not reachable("http://no such host")
    assert reachable("sqlite:///anywhere")
