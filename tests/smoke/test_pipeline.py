"""The promise, at tiny scale, every part real: one command turns text into a judged, registered, promoted model."""

import json
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.conftest import PRECISION, THREADS
from tests.forked import forked
from tests.workspace import MODELS, PROFILE, digests, pipeline, run, stamps, succeed
from troupe import cli
from troupe.files import sha256_file

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(first_run: Path) -> Path:
    return first_run / "clone"


def test_a_first_run_leaves_models_figures_and_a_page(workspace: Path) -> None:
    for stage in MODELS:
        weights = workspace / "artifacts" / stage / "model.safetensors"
        config = json.loads((weights.parent / "config.json").read_text())
        assert config["weights_sha256"] == sha256_file(weights)
        assert (weights.parent / "metrics.jsonl").read_text().count("\n") > 1
        assert (weights.parent / "summary.json").exists()
    metrics = json.loads((workspace / "reports/metrics.json").read_text())
    assert {name: model["weights_sha256"] for name, model in metrics["models"].items()} == digests(workspace)
    page = (workspace / "reports/report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")  # self-contained: nothing is loaded from elsewhere
    assert "https://" not in page.replace("https://www.w3.org", "")


def test_dvc_shows_the_curves(workspace: Path) -> None:
    """Those of dvc.yaml, from the figures that the stages logged."""
    shown = json.loads(succeed(run(workspace, "-m", "dvc", "plots", "show", "--json")).stdout)
    assert not shown.get("errors")
    for name in ("loss", "bits"):
        (plot,) = shown["data"][name]
        files = {point["filename"] for point in plot["content"]["data"]["values"]}
        assert files == {f"pretrain-{name}.json", f"moe-{name}.json"}


def test_every_model_is_registered_and_the_verdict_is_told(workspace: Path) -> None:
    assert registered(workspace) == {f"troupe-{stage}": 1 for stage in MODELS} | {"troupe": 1}
    assert aliases(workspace) == {"champion": "1"}


def test_an_up_to_date_run_recomputes_nothing_whatever_layer_its_parameters_come_from(workspace: Path) -> None:
    """The parameters of the run before, one of them wrong in the profile and put right by an override: no change."""
    before, runs = stamps(workspace), records(workspace)
    tiny = YAML(typ="safe").load((workspace / "profiles" / f"{PROFILE}.yaml").read_text())
    mine = {**tiny, "run": {"seed": 8, "threads": THREADS, "precision": PRECISION}}
    (workspace / "profiles" / "mine.yaml").write_text(json.dumps(mine))  # JSON is YAML
    result = succeed(run(workspace, "-m", "pipelines", "run", "--profile", "mine", "--set", "run.seed=1337"))
    assert "Running stage" not in result.stdout
    assert stamps(workspace) == before
    assert registered(workspace)["troupe-pretrain"] == 1
    assert records(workspace) == runs, "a run that had nothing to do leaves no record"
    unknown = run(workspace, "-m", "pipelines", "run", "--profile", "tinny")
    assert unknown.returncode == 2
    assert "profile 'tinny': no such profile; there are cpu-hours, " in unknown.stderr
    assert len(unknown.stderr.splitlines()) == 1


def test_a_lost_registry_is_filled_again_without_training(workspace: Path) -> None:
    before = stamps(workspace)
    for lost in workspace.glob("mlflow.db*"):
        lost.unlink()
    shutil.rmtree(workspace / "mlartifacts")
    succeed(pipeline(workspace))
    assert stamps(workspace) == before
    assert registered(workspace) == {f"troupe-{stage}": 1 for stage in MODELS} | {"troupe": 1}
    assert aliases(workspace) == {"champion": "1"}


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("pretrain.stepps=3", "override: pretrain.stepps: unknown parameter"),
        ("model.n_head=3", "n_embd (32) must be divisible by n_head (3)"),
        ("data.source=nowhere/*.txt", "nowhere/*.txt"),
    ],
)
def test_bad_input_is_one_line_and_deletes_nothing(workspace: Path, overrides: str, says: str) -> None:
    before = stamps(workspace)
    result = pipeline(workspace, overrides)
    assert result.returncode == 2
    assert says in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert stamps(workspace) == before


def test_the_champion_speaks(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    for model in ("adversarial", "artifacts/moe", "models:/troupe@champion"):
        command = ["troupe", "generate", "--prompt", "The ", "--max-new-tokens", "20", "--model", model]
        monkeypatch.setattr(sys, "argv", command)
        process = forked(cli.main, Path("says.txt"))
        process.join(60)
        said = Path("says.txt").read_text()
        assert process.exitcode == 0, said
        assert said.startswith("The ")
        assert len(said) > len("The ") + 5


def records(workspace: Path) -> list[Path]:
    return sorted((workspace / ".troupe/runs").iterdir())


def registered(workspace: Path) -> dict[str, int]:
    """How many versions each registered model has, read from the store itself."""
    with sqlite3.connect(workspace / "mlflow.db") as store:
        return dict(store.execute("select name, count(*) from model_versions group by name"))


def aliases(workspace: Path) -> dict[str, str]:
    with sqlite3.connect(workspace / "mlflow.db") as store:
        return {
            alias: str(version)
            for alias, version in store.execute(
                "select alias, version from registered_model_aliases where name = 'troupe'"
            )
        }
