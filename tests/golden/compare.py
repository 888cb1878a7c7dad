"""Whether this working tree computes what a revision of it does, to the bit, on this machine.

    python tests/golden/compare.py          # the working tree beside HEAD
    python tests/golden/compare.py 1a2b3c4  # beside another revision

Every stage that makes a model is run at tiny scale, once with the code of either; what is compared are digests of
weights, of the last checkpoints and of every figure of metrics.jsonl but for times. Exit status 1 if one differs. For
refactoring: run it after each step; it takes a minute.

Why no digests are committed: other instruction sets, libraries and kernels add the same numbers in another order, so
the bits hold on one machine only. What holds everywhere, within rounding, is in test_golden.py.
"""

import hashlib
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
TIMES = {"time", "train/tokens_per_second"}  # differ from run to run
SETTINGS = (
    "run.threads=1 run.precision=float32 run.compile=never data.source=text.txt data.block_bytes=256 "
    "evaluate.stride=16 tokens.vocab_size=300 model.block_size=16 model.n_layer=2 model.n_head=2 model.n_embd=16 "
    "pretrain.steps=40 pretrain.batch_size=4 pretrain.warmup_steps=4 pretrain.eval_interval=8 "
    "pretrain.checkpoint_interval=16 moe.steps=12 moe.batch_size=4 moe.warmup_steps=2 moe.eval_interval=4 "
    "judging.texts=10 judging.seeds=1 judging.window=16 adversarial.tilt.prompt_length=4 adversarial.tilt.texts=24 "
    "adversarial.gan.prompt_length=4 adversarial.gan.sequence_length=8"
)
GAME = (
    "prompt_length=4 sequence_length=8 steps=4 batch_size=4 learning_rate=1e-3 max_bpb_rise=10.0 min_distinct=0.0 "
    "eval_interval=4 checkpoint_interval=4"
)
DISCRIMINATOR = (
    "discriminator.texts=32 discriminator.updates=4 discriminator.rounds=3 discriminator.more_rounds=2 "
    "discriminator.n_embd=8 discriminator.n_hidden=8 discriminator.min_auc=0.0 discriminator.reference.n_layer=1 "
    "discriminator.reference.n_embd=8 discriminator.reference.steps=4"
)


def method(name: str, settings: str) -> str:
    """What is set to run one adversarial method alone."""
    return " ".join([f"adversarial.methods=[{name}]", *(f"adversarial.{name}.{one}" for one in settings.split())])


RUNS = {  # a name: the stage, and what is set for it alone
    "pretrain": ("pretrain", ""),
    "moe": ("moe", ""),
    "moe, distilled": ("moe", "moe.conversion=distilled moe.distil_steps=4 moe.control=false moe.balance_weight=0.01"),
    "tilt": ("adversarial", "adversarial.methods=[tilt]"),
    "gan": ("adversarial", method("gan", f"{GAME} {DISCRIMINATOR}")),
    "wgan": ("adversarial", method("gan", f"{GAME} {DISCRIMINATOR} objective=wgan n_critic=2 warmup_critic=4")),
    "gan, a reward for a text": ("adversarial", method("gan", f"{GAME} {DISCRIMINATOR} per_token=false")),
    "distil": ("adversarial", method("distil", f"{GAME} {DISCRIMINATOR}")),
    "ddo": ("adversarial", method("ddo", GAME)),
    "moments": ("adversarial", method("moments", f"{GAME} buckets=64")),
    "temperature": ("adversarial", method("temperature", "")),
    "likelihood": ("adversarial", method("likelihood", "steps=4 batch_size=4")),
}
ALONE = "--alone"  # of the process that computes with one of both
Found = dict[str, str]  # sha256 of weights and of figures, by run and file


def main(arguments: Sequence[str]) -> int:
    """Print what is equal and what is not; returns the exit status."""
    if arguments[:1] == [ALONE]:
        print(json.dumps(results(Path(arguments[1]))))
        return 0
    revision = arguments[0] if arguments else "HEAD"
    with TemporaryDirectory() as temporary, ThreadPoolExecutor(2) as pool:
        old, works = Path(temporary, "old"), [Path(temporary, name) for name in ("by the old", "by the new")]
        check_out(revision, old)
        before, after = pool.map(computed_by, (old, ROOT), works)
    for name, digest in after.items():
        old_digest = before.get(name, "none")
        same = "equal" if old_digest == digest else f"differs, {old_digest[:16]} of {revision}"
        print(f"{name:<48} {digest[:16]}  {same}")
    return int(before != after)


def check_out(revision: str, folder: Path) -> None:
    """Write the code and the parameters of a revision to `folder`, this file's version of then among them: it sets
    parameters by the names that they had."""
    folder.mkdir()
    paths = ["src", "params.yaml", "tests/golden/compare.py"]
    tree = subprocess.run(["git", "archive", revision, *paths], cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["tar", "-x"], cwd=folder, input=tree.stdout, check=True)


def computed_by(code: Path, folder: Path) -> Found:
    """What the code and the parameters in `code` make of a small text, in `folder`: in a process of its own."""
    base = folder / "base"
    base.mkdir(parents=True)
    shutil.copy(code / "params.yaml", base)
    (base / "text.txt").write_text(some_text(4000))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TROUPE_")}
    environment |= {"PYTHONPATH": str(code / "src"), "OMP_NUM_THREADS": "1"}  # before the package that is installed
    command = [sys.executable, str(code / "tests/golden/compare.py"), ALONE, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{code}: {done.stdout}{done.stderr}")
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def results(folder: Path) -> Found:
    """Run every stage in this process, one after the other."""
    base, found = folder / "base", {}
    for stage in ("inputs", "corpus", "tokens"):
        run(stage, base, "")
    for name, (stage, settings) in RUNS.items():
        work = base if name == stage else folder / name
        if work != base:  # later runs go on from base
            shutil.copytree(base, work, ignore=shutil.ignore_patterns("checkpoints"))
        run(stage, work, settings)
        found |= digests(name, work / "artifacts" / stage) | newest(name, work / ".troupe/checkpoints", stage)
    return found


def run(stage: str, folder: Path, settings: str) -> None:
    """As its command does."""
    os.chdir(folder)
    os.environ["TROUPE_SET"], sys.argv = f"{SETTINGS} {settings}", [stage]
    runpy.run_module(f"troupe.stages.{stage}", run_name="__main__", alter_sys=True)


def some_text(n_words: int) -> str:
    """The same on every machine."""
    words = ("to", "be", "or", "not", "that", "is", "the", "question")
    return " ".join(words[byte % len(words)] for byte in hashlib.shake_256(b"golden").digest(n_words))


def digests(name: str, artifact: Path) -> Found:
    """Of all weights below a stage's folder, and of its figures."""
    found = {
        f"{name}: {path.relative_to(artifact)}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(artifact.rglob("*.safetensors"))
    }
    lines = [json.loads(line) for line in (artifact / "metrics.jsonl").read_text().splitlines()]
    figures = [{figure: value for figure, value in line.items() if figure not in TIMES} for line in lines]
    return found | {f"{name}: metrics.jsonl": hashlib.sha256(json.dumps(figures).encode()).hexdigest()}


def newest(name: str, checkpoints: Path, stage: str) -> Found:
    """Of the last state of its trainings: the networks that were not chosen, too, optimisers and random numbers."""
    return {
        f"{name}: {_fit(path)} after step {int(path.stem)}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(checkpoints.glob(f"{stage}*/*/*/*.safetensors"))
    }


def _fit(checkpoint: Path) -> str:
    """The training that a checkpoint is of; of the adversarial stage each run has one."""
    fit = checkpoint.parts[-4]
    return "adversarial" if fit.startswith("adversarial") else fit


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
