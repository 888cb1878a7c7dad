"""MLflow as the mirror of run records: one parent run per pipeline run, one child run per stage that worked in it.

How many lines of a metric log were sent stands in a tag of its MLflow run, written in the same call as the last of
them: a store that was deleted is filled again, and what was cut short is repeated. Points sent twice are stored once,
for a point is unique in MLflow by run, metric, time, step and value.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag

from troupe import layout
from troupe.files import read_json
from troupe.tracking import records
from troupe.tracking.connection import connection, experiment, shown, tracking_uri
from troupe.tracking.records import Record, read_record, unix_milliseconds

POINTS_PER_CALL = 999  # mlflow takes 1000 things in one call; one of them is our tag
STATUS = {"completed": "FINISHED", "ran": "FINISHED", "restored": "FINISHED", "cached": "FINISHED", "failed": "FAILED"}


def mirror_pending(current: str | None = None) -> None:
    """Send every run of this workspace that MLflow does not have in full.

    One that its record calls running is left to its own process; pipelines/workspace.py marks those that were killed.
    Raises RegistryError as `mirror_run` does.
    """
    with connection() as client:
        complete = _complete(client)
    for path in sorted(layout.RUNS.glob("*/run.json")):
        if path.parent.name in complete or path.parent.name == current:
            continue
        if read_record(path.parent)["outcome"] != "running":
            mirror_run(path.parent, killed=True)


def mirror_run(run_dir: Path, killed: bool = False) -> None:
    """Send what MLflow does not have yet of one run, while it is at work and afterwards.

    Call it as often as you like. `killed` says that a run without an end has ended all the
    same. Raises RegistryError if MLflow cannot be reached; what is unsent goes with the next call.
    """
    record = read_record(run_dir)
    over = killed or record["finished"] is not None
    with _one_at_a_time(), connection() as client:
        parent, children = _runs(client, record)
        for stage in (name for name, state in record["stages"].items() if state["outcome"] != "cached"):
            child = children.get(stage) or _create(client, record, parent, stage)
            _send_stage(client, run_dir, record, stage, child, over)
        if over and parent.info.status == "RUNNING":
            _send_report(client, run_dir, parent)
            _end(client, parent, record["outcome"], record["finished"])


def run_page(run_id: str) -> str | None:
    """The address of a pipeline run's page at MLflow's server; None without a server, or when it lacks the run."""
    uri = tracking_uri()
    if not uri.startswith(("http://", "https://")):
        return None
    with connection() as client:
        place = experiment(client)
        for run in client.search_runs([place], f"tags.`troupe.run_id` = '{run_id}'"):
            if "troupe.stage" not in run.data.tags:
                return f"{shown(uri).rstrip('/')}/#/experiments/{place}/runs/{run.info.run_id}"
    return None


def stage_run(run_dir: Path, stage: str, weights_sha256: str) -> str:
    """The id of the MLflow run in which a stage made these weights; failing that, of its run in this pipeline run."""
    record = read_record(run_dir)
    with _one_at_a_time(), connection() as client:
        made = f"tags.`troupe.stage` = '{stage}' and tags.`troupe.weights_sha256` = '{weights_sha256}'"
        found = client.search_runs([experiment(client)], made, order_by=["attributes.start_time"], max_results=1)
        if found:
            return str(found[0].info.run_id)
        records.keep(run_dir, stage)
        parent, children = _runs(client, record)
        child = children.get(stage) or _create(client, record, parent, stage)
        _send_stage(client, run_dir, record, stage, child, over=False)
        return str(child.info.run_id)


def _one_at_a_time() -> FileLock:
    """A run that two threads or processes find missing would be made twice."""
    layout.STATE.mkdir(exist_ok=True)
    return FileLock(layout.STATE / "mirror.lock")


def _complete(client: MlflowClient) -> set[str]:
    """The pipeline runs whose end was sent; others' runs in the experiment, which have no such tag, are passed over."""
    done, token = set[str](), None
    while True:
        page = client.search_runs([experiment(client)], "attributes.status != 'RUNNING'", page_token=token)
        tags = [run.data.tags for run in page]
        done |= {ours["troupe.run_id"] for ours in tags if "troupe.run_id" in ours and "troupe.stage" not in ours}
        token = page.token
        if not token:
            return done


def _runs(client: MlflowClient, record: Record) -> tuple[Run, dict[str, Run]]:
    """The MLflow runs of a pipeline run: the parent, made if it is missing, and the children by stage."""
    found = client.search_runs([experiment(client)], f"tags.`troupe.run_id` = '{record['run_id']}'")
    runs = {run.data.tags.get("troupe.stage", ""): run for run in found}
    parent = runs.pop("", None) or _create(client, record)
    if not parent.data.params and "params" in record:
        client.log_batch(parent.info.run_id, params=_params(record["params"]))
    return parent, runs


def _create(client: MlflowClient, record: Record, parent: Run | None = None, stage: str = "") -> Run:
    tags = {"troupe.run_id": record["run_id"], "troupe.overrides": record["overrides"]}
    tags["troupe.profile"] = record.get("profile", "")  # which records from before there were profiles lack
    tags["mlflow.source.git.commit"] = records.commit(record)
    if parent:
        tags |= {"troupe.stage": stage, "mlflow.parentRunId": parent.info.run_id}
    started = record["stages"].get(stage, {}).get("started", record["started"])  # what is cached did not start
    run = client.create_run(experiment(client), unix_milliseconds(started), tags, stage or record["run_id"])
    if stage in record.get("params", {}):
        client.log_batch(run.info.run_id, params=_params({stage: record["params"][stage]}))
    return run


def _send_stage(client: MlflowClient, run_dir: Path, record: Record, stage: str, run: Run, over: bool) -> None:
    if run.info.status != "RUNNING":
        return
    _send_points(client, run, "metrics", records.curves(run_dir, record, stage))
    _send_points(client, run, "system", run_dir / f"{stage}.system.jsonl")
    state = record["stages"][stage]
    if over or state["outcome"] not in ("running", "failed"):  # what failed may be tried again
        _send_summary(client, run_dir, stage, run)
        _end(client, run, state["outcome"], state.get("finished"))


def _send_points(client: MlflowClient, run: Run, name: str, path: Path) -> None:
    """Send the lines of a metric log that were not sent yet, in as few calls as MLflow allows."""
    cursor = f"troupe.sent.{name}"
    lines = records.read_lines(path)
    sent = run.data.tags.get(cursor, "0")
    unsent = lines[int(sent) if sent.isdecimal() else 0 :]  # a tag that someone has edited says nothing
    points = [point for line in unsent for point in _points(line)]
    for start in range(0, len(points), POINTS_PER_CALL):
        last = start + POINTS_PER_CALL >= len(points)
        tags = [RunTag(cursor, str(len(lines)))] if last else []
        client.log_batch(run.info.run_id, metrics=points[start : start + POINTS_PER_CALL], tags=tags)


def _points(line: Record) -> Iterator[Metric]:
    for name, value in line.items():
        if name not in ("step", "time"):  # float() also reads the "nan" and "inf" of a metric log
            yield Metric(name, float(value), round(line["time"] * 1000), int(line["step"]))


def _send_summary(client: MlflowClient, run_dir: Path, stage: str, run: Run) -> None:
    """Send a finished stage's figures, the data it saw, and its small files as they are."""
    files = records.kept_files(run_dir, stage)
    facts = {key: value for path in files if path.suffix == ".json" for key, value in _flat(read_json(path), "/")}
    _send_figures(client, run, {f"summary/{name}": value for name, value in facts.items()})
    if "weights_sha256" in facts:
        client.set_tag(run.info.run_id, "troupe.weights_sha256", facts["weights_sha256"])
    if dataset := _dataset(run_dir):
        client.log_inputs(run.info.run_id, [dataset])
    for path in files:
        client.log_artifact(run.info.run_id, str(path))


def _send_report(client: MlflowClient, run_dir: Path, parent: Run) -> None:
    """Send the report, and the test figures by which one tells runs apart."""
    folder = run_dir / layout.REPORTS
    if (folder / layout.METRICS.name).exists():
        models = read_json(folder / layout.METRICS.name)["models"]
        _send_figures(client, parent, dict(_flat({stage: model["test"] for stage, model in models.items()}, "/")))
        client.log_artifacts(parent.info.run_id, str(folder), layout.REPORTS.name)


def _send_figures(client: MlflowClient, run: Run, facts: Record) -> None:
    numbers = {key: value for key, value in facts.items() if isinstance(value, int | float)}
    points = [Metric(key, float(value), run.info.start_time, 0) for key, value in numbers.items()]
    client.log_batch(run.info.run_id, metrics=points)


def _dataset(run_dir: Path) -> DatasetInput | None:
    """The text that was learned from; MLflow's digest holds 36 characters, the whole one is in the profile."""
    manifest = run_dir / "corpus.manifest.json"
    if not manifest.exists():
        return None
    about = read_json(manifest)
    source = json.dumps({"uri": about["source"]})
    dataset = Dataset("corpus", about["sha256"][:36], "local", source, profile=json.dumps(about))
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _end(client: MlflowClient, run: Run, outcome: str, finished: str | None) -> None:
    moment = unix_milliseconds(finished) if finished else None  # None is now
    client.set_terminated(run.info.run_id, STATUS.get(outcome, "KILLED"), moment)


def _params(sections: Mapping[str, Mapping[str, Any]]) -> list[Param]:
    return [Param(key, str(value)) for key, value in _flat(sections, ".")]


def _flat(tree: Record, separator: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings by path; lists are left out."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, separator, f"{prefix}{key}{separator}")
        elif not isinstance(value, list):
            yield f"{prefix}{key}", value
