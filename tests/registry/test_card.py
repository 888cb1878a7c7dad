"""The model card and the lineage of a version: complete, of this version, and none of a person's words lost."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.test_report import metrics as whole_metrics
from tests.registry.conftest import _evaluated, _write_run
from troupe.data.corpus import read_manifest
from troupe.files import read_json, write_json
from troupe.layout import MODEL_STAGES
from troupe.params import PromoteParams
from troupe.registry import history, lineage
from troupe.registry.card import LONGEST, write_cards
from troupe.registry.registration import register
from troupe.registry.release import promote
from troupe.registry.versions import Version
from troupe.tracking import mirror, records
from troupe.tracking.connection import connection

RULE = PromoteParams(bpb_margin=0.01, confidence=0.95)
SIZES = {split: {"bytes": 1000, "sha256": "00"} for split in ("train", "validation", "test", "critic")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Path, dict[str, Version]]:
    """A workspace with all three stages registered, a whole report, and the record of the run that made text, tokens
    and models."""
    folder = tmp_path_factory.mktemp("card")
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return folder, _made()


@pytest.fixture
def registered(
    made: tuple[Path, dict[str, Version]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Version]:
    """A copy of it as the current folder; its versions by stage."""
    shutil.copytree(made[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return made[1]


def _made() -> dict[str, Version]:
    _evaluated()
    digests = {
        stage: model["weights_sha256"] for stage, model in read_json(Path("reports/metrics.json"))["models"].items()
    }
    figures = whole_metrics()
    figures["models"] = {
        stage: {**figures["models"][stage], "weights_sha256": digests[stage]} for stage in MODEL_STAGES
    }
    judge = {"correct": 70, "standard_error": 0.02}
    for model in figures["models"].values():
        model["test"] = {"bpb": 1.4, "judge": {**model["test"]["judge"], **judge}, "judges": model["test"]["judges"]}
    figures["candidate"]["stage"] = "adversarial"
    figures["controls"]["real_against_real"]["standard_error"] = 0.02
    write_json(Path("reports/metrics.json"), figures)
    texts = {stage: {"temperature": "of a text " * 90, "greedy": "the the"} for stage in MODEL_STAGES}
    settings = {"temperature": "temperature 0.8", "greedy": "the likeliest token"}
    write_json(Path("reports/samples.json"), {"prompt": "The ", "tokens": 8, "settings": settings, "texts": texts})
    manifest = {
        "sha256": "da7a" * 16,
        "source": "data/mine",
        "licence": "the user's own",
        "bytes": 4000,
        "splits": SIZES,
    }
    write_json(Path("artifacts/corpus/manifest.json"), {**manifest, "blocks": []})
    tokenizer = read_json(Path("artifacts/pretrain/config.json"))["tokenizer_sha256"]
    meta = {"tokenizer_sha256": tokenizer, "corpus_sha256": "da7a" * 16, "vocab_size": 256, "tokens": {"train": 1000}}
    write_json(Path("artifacts/tokens/meta.json"), meta)
    run_dir = _write_run(
        stages={"corpus": "ran", "tokens": "ran", **dict.fromkeys(MODEL_STAGES, "ran")}, run_id="run-1"
    )
    for stage in ("corpus", "tokens", *MODEL_STAGES):
        records.keep(run_dir, stage)
    mirror.mirror_run(run_dir)
    return {stage: register(stage, run_dir) for stage in MODEL_STAGES}


def description(version: Version) -> str:
    with connection() as client:
        return str(client.get_model_version(version.name, version.number).description)


def test_a_card_stands_in_reports_and_in_the_registry(registered: dict[str, Version]) -> None:
    released = promote(RULE).released
    write_cards(registered, released)
    card = Path("reports/model-card-adversarial.md").read_text()
    for words in (
        "# troupe-adversarial, version 1: model card",
        registered["adversarial"].tags["weights_sha256"],
        "data/mine, 4,000 bytes",
        "Licence: the user's own",
        "grown from models:/troupe-moe/1",
        "| **adversarial** | 1.400 | 0.700 (0.680 to 0.720), 100 texts |",
        "| Kneser-Ney, order 5 | 0.600 |  |",
        "After `The `, temperature 0.8:",
        "nothing it says is to be relied on",
        "troupe generate --model models:/troupe-adversarial/1",
    ):
        assert words in card
    assert description(registered["adversarial"]) == card
    assert len(card) < LONGEST
    assert released
    assert "models:/troupe/1" in description(released)
    assert Path("reports/model-card-pretrain.md").exists()


def test_a_description_that_a_person_has_written_stays(registered: dict[str, Version]) -> None:
    with connection() as client:
        client.update_model_version("troupe-moe", "1", "Anna: do not use for names")
    moe = register("moe", Path(".troupe/runs/run-1"))
    write_cards(registered | {"moe": moe}, None)
    assert description(moe) == "Anna: do not use for names"


def test_a_long_card_is_cut_for_the_registry_only_and_a_model_not_measured_has_none(
    registered: dict[str, Version],
) -> None:
    samples = read_json(Path("reports/samples.json"))
    samples["prompt"] = "x" * LONGEST
    write_json(Path("reports/samples.json"), samples)
    figures = read_json(Path("reports/metrics.json"))
    figures["models"]["moe"]["weights_sha256"] = "another"
    write_json(Path("reports/metrics.json"), figures)
    write_cards(registered, None)
    assert len(description(registered["pretrain"])) <= LONGEST < len(Path("reports/model-card-pretrain.md").read_text())
    assert not Path("reports/model-card-moe.md").exists()


def test_the_lineage_leads_from_the_champion_to_the_text(registered: dict[str, Version]) -> None:
    promote(RULE, by="Anna, troupe promote")
    found = lineage.trace("models:/troupe@champion")
    manifest = read_manifest(Path("artifacts/corpus"))
    assert found.text == {name: manifest[name] for name in ("sha256", "source", "licence", "bytes", "splits")}
    assert found.tokens
    assert (found.tokens.run, found.tokens.figures) == ("run-1", {"train_tokens": 1000.0})
    assert [work.version for work in found.stages] == [registered[stage].uri for stage in MODEL_STAGES]
    assert [work.stage for work in found.stages] == [*MODEL_STAGES]
    first = found.stages[0]
    assert first.parameters == {"run.seed": "7", "pretrain.steps": "30", "pretrain.learning_rate": "0.02"}
    assert (first.commit, first.run) == ("c0ffee", "run-1")
    assert first.mlflow_run
    assert found.released == ("models:/troupe/1",)
    assert [(entry.action, entry.by) for entry in found.history] == [("promoted", "Anna, troupe promote")]
    plain: dict[str, Any] = json.loads(json.dumps(found.plain()))
    assert plain["stages"][2]["sha256"] == registered["adversarial"].tags["weights_sha256"]
    history.HISTORY.unlink()
    assert lineage.trace("models:/troupe-adversarial/1").history == found.history, "the registry's tags suffice"


def test_a_lineage_ends_where_versions_and_runs_were_deleted(registered: dict[str, Version]) -> None:
    promote(RULE)
    with connection() as client:
        client.delete_model_version("troupe-adversarial", "1")
        client.delete_model_version("troupe-pretrain", "1")
        for run in client.search_runs([e.experiment_id for e in client.search_experiments()]):
            client.delete_run(run.info.run_id)
    shutil.rmtree("mlartifacts")
    found = lineage.trace("models:/troupe/1")
    assert [work.stage for work in found.stages] == ["moe", "adversarial"]
    assert found.text["sha256"] == "da7a" * 16
