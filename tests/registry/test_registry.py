"""The registry, with a real store: a version per result, the gate, the way back, no foreign weights."""

import shutil
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from troupe.errors import ArtifactError, RegistryError
from troupe.files import read_json, write_json
from troupe.layout import MODEL_STAGES
from troupe.params import PromoteParams
from troupe.registry import fetch
from troupe.registry.registration import register
from troupe.registry.release import promote, rollback
from troupe.registry.versions import Version, resolve, table
from troupe.tracking import mirror
from troupe.tracking.connection import connection, experiment

pytestmark = pytest.mark.slow
RULE = PromoteParams(bpb_margin=0.01, confidence=0.95)
Evaluated = Callable[..., Path]


def register_all(run_dir: Path) -> dict[str, Version]:
    return {stage: register(stage, run_dir) for stage in MODEL_STAGES}


def champion() -> Version:
    with connection() as client:
        return resolve(client, "models:/troupe@champion")


def test_a_result_is_registered_once_with_its_lineage(evaluated: Evaluated) -> None:
    run_dir = evaluated()
    first = register_all(run_dir)
    assert register_all(run_dir) == first
    assert [v.uri for v in first.values()] == [
        "models:/troupe-pretrain/1",
        "models:/troupe-moe/1",
        "models:/troupe-adversarial/1",
    ]
    tags = first["moe"].tags
    assert tags["parent"] == "models:/troupe-pretrain/1"
    assert "parent" not in first["pretrain"].tags
    assert (tags["git_commit"], tags["run_id"], tags["data_sha256"]) == ("c0ffee", "run-1", "da7a" * 16)
    assert (tags["test_bpb"], tags["judge_n"], tags["judge_digest"]) == ("1.5", "2000.0", "judge")
    with connection() as client:
        run = client.get_run(str(first["moe"].run_id))
    assert run.data.tags["troupe.stage"] == "moe"
    assert len(run.outputs.model_outputs) == 1


def test_another_result_is_another_version(evaluated: Evaluated) -> None:
    register("pretrain", evaluated(seed=1))
    assert register("pretrain", evaluated(seed=2)).number == "2"
    assert register("pretrain", evaluated(seed=1)).number == "1"
    Path("artifacts/params.yaml").write_text(Path("artifacts/params.yaml").read_text().replace("seed: 1337", "seed: 1"))
    assert register("pretrain", evaluated(seed=1)).number == "1", "evaluated() restores the parameters"
    text = Path("artifacts/params.yaml").read_text()
    run_dir = Path(".troupe/runs/run-1")
    Path("artifacts/params.yaml").write_text(text.replace("n_expert: 4", "n_expert: 8"))
    assert register("pretrain", run_dir).number == "1", "a later section does not shape it"
    Path("artifacts/params.yaml").write_text(text.replace("seed: 1337", "seed: 1"))
    assert register("pretrain", run_dir).number == "3", "an earlier section does"


def test_figures_measured_later_reach_the_version(evaluated: Evaluated) -> None:
    run_dir = evaluated()
    Path("reports/metrics.json").rename("later.json")
    assert "test_bpb" not in register("pretrain", run_dir).tags
    Path("later.json").rename("reports/metrics.json")
    version = register("pretrain", run_dir)
    assert (version.number, version.tags["test_bpb"]) == ("1", "1.5")


def test_a_lost_store_is_registered_again(evaluated: Evaluated, workspace: Path, empty_store: Path) -> None:
    run_dir = evaluated()
    register("pretrain", run_dir)
    shutil.rmtree("mlartifacts")
    assert register("pretrain", run_dir).number == "1", "its files are put back from artifacts/"
    fetch.verify("models:/troupe-pretrain/1")

    (workspace / "mlflow.db").rename("lost.db")
    shutil.copy(empty_store, workspace / "fresh.db")
    with pytest.MonkeyPatch.context() as patch:  # mlflow holds the lost file open, as a new process would not
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workspace}/fresh.db")
        mirror.mirror_pending()
        version = register("pretrain", run_dir)
        assert version.number == "1"
        fetch.verify(version.uri)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_version_that_lacks_a_file_is_refused_by_name_and_mended(name: str, evaluated: Evaluated) -> None:
    run_dir = evaluated()
    version = register("adversarial", run_dir)
    assert register("adversarial", run_dir) == version
    (stored,) = Path("mlartifacts").rglob(f"bundle/{name}")
    stored.unlink()
    with pytest.raises(RegistryError, match=f"{name} is gone from the store, or broken; `make pipeline` where it was"):
        fetch.load(version.uri)
    shutil.rmtree(stored.parent)
    with pytest.raises(RegistryError, match="its files are gone, or their store does not answer; `make pipeline` wh"):
        fetch.verify(version.uri)
    again = register("adversarial", run_dir)
    assert again.number == "1"
    fetch.verify(again.uri)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_version_with_a_broken_description_is_refused_and_mended(content: str, evaluated: Evaluated) -> None:
    run_dir = evaluated()
    version = register("pretrain", run_dir)
    (stored,) = Path("mlartifacts").rglob("bundle/config.json")
    stored.write_text(content)
    with pytest.raises(RegistryError, match=r"config.json is gone from the store, or broken"):
        fetch.verify(version.uri)
    assert register("pretrain", run_dir).number == "1"
    fetch.verify(version.uri)


def test_a_champion_that_draws_among_candidates_is_refused_in_one_line_and_can_be_beaten(evaluated: Evaluated) -> None:
    """As releases of before could register one, with tags of its own."""
    register("adversarial", evaluated(seed=1))
    promote(RULE)
    for stored in Path("mlartifacts").rglob("bundle/config.json"):
        write_json(stored, read_json(stored) | {"resampling": {"candidates": 8}})
    with pytest.raises(RegistryError, match=r"^models:/troupe/1: .*config\.json: .*by a discriminator, .* again$"):
        fetch.load("models:/troupe@champion")
    register("adversarial", evaluated(seed=2, bpb=1.4, accuracy=0.7))
    assert promote(RULE).verdict.outcome == "promoted"
    fetch.verify("models:/troupe@champion")


def test_promotion_follows_the_gate_and_rollback_undoes_it(evaluated: Evaluated) -> None:
    register("adversarial", evaluated(seed=1))
    first = promote(RULE)
    assert first.verdict.outcome == "promoted"
    assert first.champion is None
    assert champion().tags["weights_sha256"] == first.candidate.tags["weights_sha256"]
    assert champion().tags["released_from"] == "models:/troupe-adversarial/1"
    with pytest.raises(RegistryError, match="nothing to go back to"):
        rollback()
    assert promote(RULE).verdict.outcome == "unchanged"
    assert champion().tags["verdict"] == "promoted"

    register("adversarial", evaluated(seed=2, bpb=1.6))
    worse = promote(RULE)
    assert worse.verdict.outcome == "refused"
    assert champion().number == "1"
    with connection() as client:
        tags = resolve(client, worse.candidate.uri).tags
    assert tags["verdict"] == "refused"
    assert "worse by more than 0.01" in tags["verdict_reasons"]
    told = worse.plain()  # to the report
    assert (told["outcome"], told["champion_before"]) == ("refused", "models:/troupe/1")

    register("adversarial", evaluated(seed=3, accuracy=0.6))
    assert promote(RULE).verdict.outcome == "promoted"
    aliases = {v.number: v.aliases for v in table() if v.name == "troupe"}
    assert aliases == {"2": ("champion",), "1": ("previous",)}

    now, before = rollback()
    assert (now.number, before.number, champion().number) == ("1", "2", "1")
    again = promote(RULE)  # as the next scheduled run would
    assert again.verdict.outcome == "refused"
    assert "make rollback" in again.verdict.reasons[0]
    assert champion().number == "1"
    rollback()
    assert champion().number == "2"


@pytest.mark.fault("a candidate measured on other text: refused")
def test_another_test_text_is_refused(evaluated: Evaluated) -> None:
    register("adversarial", evaluated(seed=1))
    promote(RULE)
    register("adversarial", evaluated(seed=2, bpb=1.0, accuracy=0.5, test_sha256="other"))
    decision = promote(RULE)
    assert decision.verdict.outcome == "refused"
    assert "another test text" in decision.verdict.reasons[0]
    assert promote(RULE, fresh=True).verdict.outcome == "promoted"
    assert champion().number == "2"
    rollback()
    assert champion().number == "1"


@pytest.mark.fault("a report of other weights: refused")
def test_a_report_of_other_weights_is_refused(evaluated: Evaluated) -> None:
    run_dir = evaluated(seed=1)
    report = Path("reports/metrics.json").read_text()
    evaluated(seed=2)
    Path("reports/metrics.json").write_text(report)
    register("adversarial", run_dir)
    assert promote(RULE).verdict.outcome == "refused"


@pytest.mark.fault("other weights in the registry's files: refused wherever they are opened")
def test_foreign_weights_are_refused_everywhere(evaluated: Evaluated) -> None:
    register("adversarial", evaluated())
    promote(RULE)
    assert fetch.verify("models:/troupe@champion").number == "1"
    mlflow.set_tracking_uri(f"sqlite:///{Path.cwd()}/mlflow.db")
    loaded = mlflow.pyfunc.load_model("models:/troupe@champion")
    assert loaded.predict(["ab"], params={"max_new_tokens": 3, "seed": 5})[0].startswith("ab")

    evaluated(seed=2)
    for stored in Path("mlartifacts").rglob("bundle"):  # a whole, consistent, other model
        for name in ("model.safetensors", "config.json"):
            shutil.copy(Path("artifacts/adversarial") / name, stored)
    with pytest.raises(RegistryError, match="refused: its files have sha256"):
        fetch.load("models:/troupe@champion")
    with pytest.raises(ArtifactError, match="as registered"):
        mlflow.pyfunc.load_model("models:/troupe@champion")


def test_versions_that_others_made_are_left_alone(evaluated: Evaluated) -> None:
    """Under our names too: without tags, with tags that say nothing, with an alias; deleted ones are gone."""
    run_dir = evaluated()
    with connection() as client:
        for name in ("troupe", "troupe-pretrain", "troupe-moe", "theirs"):
            client.create_registered_model(name)
            client.create_model_version(name, "/somewhere/else", tags={"weights_sha256": "theirs", "test_bpb": "good"})
            client.create_model_version(name, "/somewhere/else")
        client.delete_model_version("troupe-moe", "2")
        client.set_registered_model_alias("troupe", "champion", "2")
    versions = register_all(run_dir)
    assert [versions[stage].number for stage in MODEL_STAGES] == ["3", "3", "1"]
    assert versions["moe"].tags["parent"] == "models:/troupe-pretrain/3"
    with pytest.raises(RegistryError, match=r"troupe/2: not registered by troupe|its files are gone"):
        fetch.verify("models:/troupe@champion")
    assert promote(RULE, fresh=True).verdict.outcome == "promoted"
    assert champion().number == "3"
    with pytest.raises(RegistryError, match="models:/troupe/1: its files are gone"):
        rollback()  # what cannot be loaded does not become `previous`
    assert champion().number == "3"
    with connection() as client:
        assert client.get_model_version("troupe", "1").tags == {"weights_sha256": "theirs", "test_bpb": "good"}
    assert len(table()) == 3 + 3 + 2 + 1  # all that are there, of the release line and of each stage


def test_a_run_whose_tags_someone_deleted_is_registered_all_the_same(evaluated: Evaluated) -> None:
    run_dir = evaluated()
    mirror.mirror_run(run_dir)
    with connection() as client:
        for run in client.search_runs([experiment(client)], "tags.`troupe.stage` = 'pretrain'"):
            client.delete_tag(run.info.run_id, "troupe.run_id")
            client.delete_tag(run.info.run_id, "mlflow.source.git.commit")
    assert register("pretrain", run_dir).tags["weights_sha256"]


def test_what_cannot_be_found_is_named(evaluated: Evaluated) -> None:
    run_dir = evaluated()
    for uri in ("models:/troupe@champion", "models:/troupe/7", "models:/nobody/1"):
        with pytest.raises(RegistryError, match="not in the registry"):
            fetch.verify(uri)
    with pytest.raises(RegistryError, match="write models:/NAME@ALIAS"):
        fetch.verify("models:/troupe")
    with pytest.raises(RegistryError, match="not registered; run `make pipeline`"):
        promote(RULE)
    Path("artifacts/pretrain/model.safetensors").write_bytes(b"broken")
    with pytest.raises(ArtifactError, match="not the files"):
        register("pretrain", run_dir)
    Path("reports/metrics.json").unlink()
    with pytest.raises(ArtifactError, match=r"metrics\.json: no such file"):
        promote(RULE)
    assert table() == []
