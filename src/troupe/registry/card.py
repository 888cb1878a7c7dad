"""A model card for each stage's version: what it is, was trained on, is worth, cannot do, and how to load it.

It stands in reports/ and as the description of the version in the registry.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from mlflow import MlflowClient

from troupe import layout
from troupe.bundles.bundle import CONFIG
from troupe.data.corpus import read_manifest
from troupe.evaluation.report import caveats, rows
from troupe.evaluation.result import Evaluation
from troupe.files import read_json, write_atomic
from troupe.params import load_params
from troupe.registry.versions import Version
from troupe.tracking.connection import connection

TEMPLATE = "card.md.j2"
SHOWN = ("temperature", "top-p")  # of the settings in samples.json
LONGEST = 5000  # characters that a description may have in every database of MLflow's
WHAT = {
    "pretrain": "A GPT, trained from its first weights on",
    "moe": "A GPT whose attention draws values and outputs from experts (SwitchHead)",
    "adversarial": "The expert model, refined adversarially",
}
SECTIONS = {"pretrain": ("tokens", "model", "pretrain"), "moe": ("moe",), "adversarial": ("adversarial",)}


def write_cards(versions: Mapping[str, Version], released: Version | None) -> None:
    """Write reports/model-card-<stage>.md for these versions, by stage, and their descriptions in the registry.

    `released` is the version of the release line that was made of one of them, if any. A description that a person has
    written stays. A model that the report has not measured gets no card. Raises ArtifactError if a file of the report
    is missing.
    """
    found, samples = Evaluation.read(), read_json(layout.REPORTS / "samples.json")
    params = load_params(layout.EFFECTIVE_PARAMS).model_dump()
    with connection() as client:
        for stage, version in versions.items():
            if found.models[stage].weights_sha256 != version.tags["weights_sha256"]:
                continue
            text = render(stage, version, found, samples, params)
            path = layout.REPORTS / f"model-card-{stage}.md"
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                write_atomic(path, text.encode())
            _describe(client, version, text)
            if released and released.tags["weights_sha256"] == version.tags["weights_sha256"]:
                _describe(client, released, render(stage, released, found, samples, params))


def render(
    stage: str, version: Version, found: Evaluation, samples: Mapping[str, Any], params: Mapping[str, Any]
) -> str:
    """The card of a stage's version, in Markdown."""
    texts = samples["texts"][stage]
    return _environment().get_template(TEMPLATE).render(
        name=f"{version.name}, version {version.number}",
        uri=version.uri,
        stage=stage,
        what=WHAT[stage],
        parameters=_thousands(found.models[stage].parameters),
        context=read_json(layout.model_dir(stage) / CONFIG)["model"]["block_size"],
        sha256=version.tags["weights_sha256"],
        corpus=read_manifest(layout.CORPUS),
        initial=found.initial,
        commit=version.tags.get("git_commit", "unknown"),
        run=version.tags.get("run_id", "unknown"),
        parent=version.tags.get("parent"),
        recipe={section: _settings(section, params[section]) for section in SECTIONS[stage]},
        rows=rows(found),
        quality=found.models[stage].quality,
        real=found.controls.real_text.quality,
        prompt=samples["prompt"],
        samples={samples["settings"][name]: texts[name][:400] for name in SHOWN if name in texts},
        caveats=caveats(found),
    )  # fmt: skip


def _settings(section: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Those that were used: of `adversarial` the sections of the methods that ran."""
    if section != "adversarial":
        return values
    return {name: values[name] for name in ("methods", *values["methods"])}


def _describe(client: MlflowClient, version: Version, text: str) -> None:
    heading = text.partition("\n")[0]
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 100]}\n...\n\nThe whole card is in reports/."
    ours = not version.description or version.description.startswith(heading)
    if ours and version.description != text:
        client.update_model_version(version.name, version.number, text)


def _thousands(number: int) -> str:
    return f"{number:,}"


def _environment() -> Environment:
    environment = Environment(  # Markdown: nothing is escaped, and nothing of it is run
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["thousands"] = _thousands
    return environment
