"""The same bytes again: by hand in another clone, from DVC's cache, and after a change that no model depends on."""

import json
import shutil
from pathlib import Path

import pytest

from tests.forked import forked
from tests.workspace import NUMERICS, PROFILE, clone, digests, pipeline, run, stamps, succeed
from troupe.params import load_params
from troupe.stages.adversarial import adversarial
from troupe.stages.corpus import corpus
from troupe.stages.evaluate import evaluate
from troupe.stages.inputs import inputs
from troupe.stages.moe import moe
from troupe.stages.pretrain import pretrain
from troupe.stages.tokens import tokens

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(first_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of its own: another test may copy the same run at any time."""
    folder = tmp_path_factory.mktemp("reproduction") / "workspace"
    shutil.copytree(first_run / "copy", folder)
    return folder


def test_stage_by_stage_another_clone_gives_the_same_bytes(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = clone(tmp_path / "other")
    monkeypatch.chdir(other)
    params = load_params(Path("params.yaml"), NUMERICS.split(), PROFILE)
    for stage in (inputs, corpus, tokens, pretrain, moe, adversarial, evaluate):
        process = forked(lambda stage=stage: stage(params), Path("says.txt"))
        process.join(120)
        assert process.exitcode == 0, Path("says.txt").read_text()
    assert digests(other) == digests(workspace)
    ours, theirs = (json.loads((f / "reports/metrics.json").read_text()) for f in (workspace, other))
    assert ours["models"] == theirs["models"]  # the seed reaches samples and judge as well


def test_one_changed_number_reruns_only_what_depends_on_it(workspace: Path) -> None:
    before, params = stamps(workspace), (workspace / "params.yaml").read_bytes()
    succeed(pipeline(workspace, "evaluate.top_k=7"))
    assert stamps(workspace) == before  # no model depends on it
    assert "top_k: 7" in (workspace / "artifacts/params.yaml").read_text()
    assert "7" in json.dumps(json.loads((workspace / "reports/samples.json").read_text()))
    assert (workspace / "params.yaml").read_bytes() == params


def test_a_lost_workspace_comes_back_from_the_cache(workspace: Path) -> None:
    before = digests(workspace)
    shutil.rmtree(workspace / "artifacts")
    shutil.rmtree(workspace / "reports")
    result = succeed(pipeline(workspace))
    assert digests(workspace) == before
    assert "tok/s" not in result.stdout  # no line of training progress
    assert (workspace / "reports/report.html").exists()


def test_a_registered_version_is_made_again_from_its_commit(workspace: Path) -> None:
    """In a worktree that is gone afterwards; without the record of its run nobody knows its parameters."""
    if not (workspace / "mlflow.db").exists():  # no test before has registered it
        succeed(pipeline(workspace))
    version = "models:/troupe-pretrain/1"
    result = succeed(run(workspace, "-m", "troupe.cli", "reproduce", version))
    assert f"{version}: pretrain of commit " in result.stdout
    assert " is the same\n" in result.stdout
    assert digests(workspace)["pretrain"] in result.stdout
    assert not any((workspace / ".git/worktrees").glob("*"))
    records = workspace / ".troupe/runs"
    records.rename(records.with_name("lost"))
    result = run(workspace, "-m", "troupe.cli", "reproduce", version)
    records.with_name("lost").rename(records)
    assert result.returncode == 2
    assert "cannot be made again: the record of its run, .troupe/runs/" in result.stderr
