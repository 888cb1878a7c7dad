"""kill -9 at any moment, the same command again: the weights are those of a run that nothing disturbed, to the byte."""

import math
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.forked import forked
from troupe.bundles.architectures import load_bundle
from troupe.errors import Diverged
from troupe.files import read_json
from troupe.layout import CHECKPOINTS, model_dir
from troupe.models.gpt2 import GPT
from troupe.params import Params
from troupe.progress import MetricsLog, read_metrics
from troupe.stages import fit
from troupe.stages.pretrain import pretrain

FOLDER = model_dir("pretrain")
LOG = FOLDER / "metrics.jsonl"


@pytest.fixture
def undisturbed(workspace: Params) -> str:
    """The digest of a run in one go, whose files are then removed."""
    pretrain(workspace)
    sha256 = load_bundle(FOLDER).sha256
    shutil.rmtree(FOLDER)
    shutil.rmtree(CHECKPOINTS)
    return sha256


def kill_after(steps: int, params: Params) -> None:
    """Start the stage, and kill it without warning once its log shows `steps` steps."""
    process = forked(lambda: pretrain(params), Path("says"))
    while process.is_alive() and len(read_metrics(LOG)) < steps:
        time.sleep(0.001)
    process.kill()
    process.join()
    assert not (FOLDER / "summary.json").exists(), "killed too late to show anything"


@pytest.mark.fault("a checkpoint cut short: the one before, and the same weights")
@pytest.mark.slow
def test_killed_damaged_and_killed_again_it_ends_with_the_same_bytes(
    undisturbed: str, workspace: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(time.time())
    first, second = rng.randrange(9, 20), rng.randrange(20, 36)
    kill_after(first, workspace)
    shutil.rmtree(FOLDER)  # as DVC does with a stage's outputs before it runs the stage again
    kill_after(second, workspace)
    newest = max(CHECKPOINTS.rglob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:1000])
    pretrain(workspace)
    said = [line for line in capsys.readouterr().out.splitlines() if "checkpoint passed over" in line]
    assert len(said) == 1
    assert newest.name in said[0]
    assert load_bundle(FOLDER).sha256 == undisturbed, f"killed after {first} and {second} steps"
    assert [record["step"] for record in read_metrics(LOG)] == list(range(1, 41))


@pytest.mark.fault("kill -9 of the trainer at random moments: the same weights")
@pytest.mark.slow
def test_killed_at_many_random_moments_it_ends_with_the_same_bytes(undisturbed: str, workspace: Params) -> None:
    """Moments, not steps: while it computes, looks, logs, writes a checkpoint or the finished model."""
    rng = random.Random(time.time())
    delays = []
    while not (FOLDER / "summary.json").exists():
        process = forked(lambda: pretrain(workspace), Path("says"))
        delays.append(rng.uniform(0.02, 0.15) * (1 + len(delays) / 5))
        process.join(delays[-1])
        process.kill()
        process.join()
        if rng.random() < 0.3:
            shutil.rmtree(FOLDER, ignore_errors=True)  # as DVC does before it runs a stage again
    assert len(delays) > 1, "never killed"
    assert load_bundle(FOLDER).sha256 == undisturbed, f"killed after {delays}"


@pytest.mark.fault("a run that diverges: step, rate and last good checkpoint")
def test_a_run_that_diverges_names_step_rate_and_the_last_good_checkpoint(
    workspace: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the look after step 16 the weights become NaN: the loss of step 17 shows it, the checkpoint of 16 has them."""
    look = fit.validate

    def poison(model: GPT, *rest: Any) -> Any:
        seen = look(model, *rest)
        if len(read_metrics(LOG)) == 15:
            with torch.no_grad():
                next(model.parameters()).fill_(math.nan)
        return seen

    monkeypatch.setattr(fit, "validate", poison)
    with pytest.raises(Diverged, match=r"diverged at step 17 of 40, learning rate 0\.0\d+: loss nan") as error:
        pretrain(workspace)
    named = Path(str(error.value).rpartition("last good checkpoint: ")[2])
    assert named.name == "00000012.safetensors"
    weights = safetensors.torch.load_file(named)
    assert all(tensor.isfinite().all() for name, tensor in weights.items() if name.startswith("model."))


def test_checkpoints_of_other_parameters_are_not_touched(
    undisturbed: str, workspace: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(MetricsLog):
        def __call__(self, step: int, values: object) -> None:
            if step == 20:
                raise KeyboardInterrupt

    monkeypatch.setattr(fit, "MetricsLog", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain(workspace)
    monkeypatch.setattr(fit, "MetricsLog", MetricsLog)
    assert list(CHECKPOINTS.rglob("00000016.json"))
    pretrain(workspace.model_copy(update={"pretrain": workspace.pretrain.model_copy(update={"warmup_steps": 9})}))
    assert len(read_metrics(LOG)) == 40
    assert load_bundle(FOLDER).sha256 != undisturbed
    pretrain(workspace)
    assert read_json(FOLDER / "summary.json")["resumed_at_step"] == 16
    assert load_bundle(FOLDER).sha256 == undisturbed
