"""A throw-away workspace: what a clone holds, and parameters small enough for seconds."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import PRECISION, THREADS
from troupe.layout import MODEL_STAGES as MODELS
from troupe.models.bundle import found_identity

ROOT = Path(__file__).parents[1]
CLONED = ("params.yaml", "profiles", "dvc.yaml", ".dvc/config", ".dvcignore", ".gitignore", "pipelines", "src")

TINY = (
    f"run.threads={THREADS} run.precision={PRECISION} tokens.vocab_size=300 "
    "model.block_size=32 model.n_layer=2 model.n_head=2 model.n_embd=32 "
    "pretrain.steps=30 pretrain.batch_size=8 pretrain.warmup_steps=2 pretrain.eval_interval=15 "
    "pretrain.checkpoint_interval=10 moe.steps=6 moe.batch_size=8 moe.warmup_steps=1 moe.eval_interval=3 "
    "adversarial.tilt.texts=24 adversarial.tilt.prompt_length=8 "
    "adversarial.gan.steps=2 adversarial.gan.eval_interval=2 adversarial.gan.checkpoint_interval=1 "
    "adversarial.gan.sequence_length=12 adversarial.gan.prompt_length=8 adversarial.gan.discriminator.n_hidden=16 "
    "adversarial.gan.discriminator.texts=64 adversarial.gan.discriminator.updates=4 "
    "adversarial.gan.discriminator.rounds=2 adversarial.gan.discriminator.more_rounds=1 "
    "adversarial.gan.discriminator.reference.n_layer=1 adversarial.gan.discriminator.reference.n_embd=16 "
    "adversarial.gan.discriminator.reference.steps=4 "
    "judging.seeds=1 judging.texts=50 "
    "evaluate.stride=16 evaluate.ngram_max_order=5 evaluate.sample_tokens=20 evaluate.temperatures=[]"
)


def clone(folder: Path) -> Path:
    """Copy the working tree's tracked part to `folder` and commit it there, as a user's clone would be."""
    for name in CLONED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, target)
    git = ["git", "-c", "user.name=tester", "-c", "user.email=tester@localhost"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "A clone"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    return folder


def run(folder: Path, *command: str, seconds: float = 800, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python COMMAND...` in a workspace with the tests' threads and no tracking server of the outer world."""
    outer = ("MLFLOW_", "PREFECT_", "TROUPE_")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(outer) or k == "TROUPE_CACHE"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**inherited, "OMP_NUM_THREADS": str(THREADS), **environment},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def pipeline(folder: Path, overrides: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """`make pipeline SET="..."` at tiny scale."""
    return run(folder, "-m", "pipelines", "run", "--set", f"{TINY} {overrides}".strip(), **environment)


def succeed(result: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def digests(workspace: Path) -> dict[str, str]:
    """The identity of each model."""
    return {stage: found_identity(workspace / "artifacts" / stage) for stage in MODELS}


def stamps(workspace: Path) -> dict[str, int]:
    """When each model was written: a stage that ran again writes its model again."""
    return {stage: (workspace / "artifacts" / stage / "model.safetensors").stat().st_mtime_ns for stage in MODELS}
