"""Where a version comes from and what was decided about it: text, tokens, stages, versions, promotions."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from troupe.errors import ArtifactError
from troupe.files import read_json
from troupe.gate import Figures
from troupe.registry import history
from troupe.registry.history import Entry, figures_of
from troupe.registry.versions import RELEASE, Version, resolve, versions_of
from troupe.tracking.connection import connection, experiment

TOKENS = "tokens"
SECTIONS = {"pretrain": ("run", "model", "pretrain")}  # of params.yaml, of a stage that has more than its own
MOST_RUNS = 100  # that are looked through for the one that made the tokens


@dataclass(frozen=True)
class Work:
    """What a stage did; None where MLflow no longer has its run."""

    stage: str
    version: str | None  # models:/NAME/VERSION; None of the tokens, and of a version that was deleted
    sha256: str | None  # of the model, or of the tokenizer
    params_sha256: str | None  # of the parameters that shape the model
    run: str | None  # of the pipeline, .troupe/runs/<run>
    mlflow_run: str | None
    commit: str | None  # with a plus behind it when tracked files differed
    parameters: Mapping[str, str]
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Lineage:
    version: str
    aliases: tuple[str, ...]
    text: Mapping[str, Any]  # sha256, and of the corpus' manifest source, licence, bytes, splits
    tokens: Work | None
    stages: tuple[Work, ...]  # in the order in which they built on each other
    released: tuple[str, ...]  # as which versions of the release line
    history: tuple[Entry, ...]

    def plain(self) -> dict[str, Any]:
        """The lineage as JSON has it."""
        return asdict(self) | {"history": [entry.plain() for entry in self.history]}


def trace(uri: str) -> Lineage:
    """The lineage of the version that models:/NAME@ALIAS or models:/NAME/VERSION names.

    Raises RegistryError if there is none.
    """
    with connection() as client:
        asked = resolve(client, uri)
        chain = [*_chain(client, asked)]
        root = _run(client, chain[-1].run_id)
        of_stage = asked.tags.get("released_from", asked.uri)
        released = [
            version
            for version in reversed(versions_of(client, RELEASE))
            if version.tags.get("released_from") == of_stage or version.uri == asked.uri
        ]
        entries = {entry.id: entry for version in (*chain, *released) for entry in _entries(version)}
        about = {version.uri for version in (*chain, *released)} | {of_stage}
        entries |= {e.id: e for e in history.entries() if about & {e.version, e.after, e.before}}
        return Lineage(
            version=asked.uri,
            aliases=asked.aliases,
            text=_text(chain[-1], root),
            tokens=_tokens(client, chain[-1], root),
            stages=tuple(_work(client, version) for version in reversed(chain)),
            released=tuple(version.uri for version in released),
            history=tuple(sorted(entries.values(), key=lambda entry: (entry.time, entry.id))),
        )


def _chain(client: MlflowClient, asked: Version) -> Iterator[Version]:
    """The stage's version and those that it grew from, as far back as they are there.

    A version of the release line carries the tags of the one that it was made of, and stands for it if that is gone.
    """
    source = asked.tags.get("released_from")
    version = (_found(client, source) if source else None) or asked
    while True:
        yield version
        before = _found(client, version.tags.get("parent", ""))
        if not before:
            return
        version = before


def _found(client: MlflowClient, uri: str) -> Version | None:
    name, _, number = uri.removeprefix("models:/").partition("/")
    return next((v for v in versions_of(client, name) if v.number == number), None) if number else None


def _work(client: MlflowClient, version: Version) -> Work:
    run, tags = _run(client, version.run_id), version.tags
    stage = tags.get("released_from", version.uri).removeprefix(f"models:/{RELEASE}-").partition("/")[0]
    return Work(
        stage=stage,
        version=version.uri,
        sha256=tags.get("weights_sha256"),
        params_sha256=tags.get("params_sha256"),
        run=tags.get("run_id"),
        mlflow_run=version.run_id if run else None,
        commit=tags.get("git_commit"),
        parameters=_parameters(client, run, SECTIONS.get(stage, (stage,))) if run else {},
        figures=figures_of(Figures.from_tags(tags), None),
    )


def _parameters(client: MlflowClient, run: Run, sections: tuple[str, ...]) -> dict[str, str]:
    """Those of the pipeline run in which a stage worked, or those of the stage if that one is gone."""
    whole = _run(client, run.data.tags.get("mlflow.parentRunId"))
    params = (whole.data.params if whole else {}) or run.data.params
    return {key: value for key, value in sorted(params.items()) if key.partition(".")[0] in sections}


def _text(first: Version, root: Run | None) -> dict[str, Any]:
    known: dict[str, Any] = {"sha256": first.tags.get("data_sha256")}
    for given in root.inputs.dataset_inputs if root and root.inputs else ():
        try:
            about = json.loads(given.dataset.profile or "")
            if about["sha256"] == known["sha256"]:
                known |= {name: about[name] for name in ("source", "licence", "bytes", "splits") if name in about}
        except (ValueError, TypeError, KeyError):  # another's data set
            continue
    return known


def _tokens(client: MlflowClient, first: Version, root: Run | None) -> Work | None:
    """The work of the stage tokens: the last run before the model's that made these tokens of this text."""
    if not (tokenizer := first.tags.get("tokenizer_sha256")):
        return None
    started = f" and attributes.start_time <= {root.info.start_time}" if root else ""
    made = client.search_runs(
        [experiment(client)], f"tags.`troupe.stage` = '{TOKENS}'{started}",
        order_by=["attributes.start_time DESC"], max_results=MOST_RUNS,
    )  # fmt: skip
    text = first.tags.get("data_sha256")
    for run in made:
        about = _meta(client, run)
        if (about.get("tokenizer_sha256"), about.get("corpus_sha256")) == (tokenizer, text):
            tags, sizes = run.data.tags, {f"{split}_tokens": float(n) for split, n in about["tokens"].items()}
            ours = tags.get("troupe.run_id"), run.info.run_id, tags.get("mlflow.source.git.commit")
            return Work(TOKENS, None, tokenizer, None, *ours, _parameters(client, run, (TOKENS,)), sizes)
    return Work(TOKENS, None, tokenizer, None, None, None, None, {}, {})


def _meta(client: MlflowClient, run: Run) -> dict[str, Any]:
    """artifacts/tokens/meta.json as that run wrote it."""
    with TemporaryDirectory() as folder:
        try:
            found = read_json(Path(client.download_artifacts(run.info.run_id, f"{TOKENS}.meta.json", folder)))
        except (MlflowException, OSError, ArtifactError):
            return {}
        return found if isinstance(found, dict) and "tokens" in found else {}


def _run(client: MlflowClient, run_id: str | None) -> Run | None:
    try:
        return client.get_run(run_id) if run_id else None
    except MlflowException:
        return None


def _entries(version: Version) -> Iterator[Entry]:
    for key, text in version.tags.items():
        if key.startswith(history.TAG) and (entry := history.parsed(text)):
            yield entry
