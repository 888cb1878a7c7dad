"""kill -9 at any moment, the same command again: the weights are those of a run that nothing disturbed, to the byte."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from troupe.layout import CHECKPOINTS, EFFECTIVE_PARAMS, model_dir
from troupe.models.bundle import load_bundle
from troupe.params import Params
from troupe.stages import fit
from troupe.stages.log import MetricsLog, read_metrics
from troupe.stages.pretrain import pretrain

FOLDER = model_dir("pretrain")
LOG = FOLDER / "metrics.jsonl"
COMMAND = [sys.executable, "-m", "troupe.stages.pretrain", "--params", str(EFFECTIVE_PARAMS)]


@pytest.fixture
def undisturbed(workspace: Params) -> str:
    """The digest of a run in one go, whose files are then removed."""
    pretrain(workspace)
    sha256 = load_bundle(FOLDER).sha256
    shutil.rmtree(FOLDER)
    return sha256


def kill_after(steps: int) -> None:
    """Start the stage, and kill it without warning once its log shows `steps` steps."""
    with subprocess.Popen(COMMAND, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and len(read_metrics(LOG)) < steps:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
    assert not (FOLDER / "summary.json").exists(), "killed too late to show anything"


@pytest.mark.slow
def test_killed_damaged_and_killed_again_it_ends_with_the_same_bytes(
    undisturbed: str, workspace: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(time.time())
    first, second = rng.randrange(9, 20), rng.randrange(20, 36)
    kill_after(first)
    shutil.rmtree(FOLDER)  # as DVC does with a stage's outputs before it runs the stage again
    kill_after(second)
    newest = max(CHECKPOINTS.rglob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:1000])
    pretrain(workspace)
    said = [line for line in capsys.readouterr().out.splitlines() if "checkpoint passed over" in line]
    assert len(said) == 1
    assert newest.name in said[0]
    assert load_bundle(FOLDER).sha256 == undisturbed, f"killed after {first} and {second} steps"
    assert [record["step"] for record in read_metrics(LOG)] == list(range(1, 41))


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
