"""nanoGPT (github.com/karpathy/nanoGPT) as its user runs it: its own scripts, unchanged, in a temporary copy.

The copy gets tiny Shakespeare as data/shakespeare_char/input.txt, which nanoGPT's prepare.py then finds instead of
downloading it. OMP_NUM_THREADS says how many threads it takes, as benchmarks.common.start has set it, OMP_WAIT_POLICY
and GOMP_SPINCOUNT how they wait, as for troupe.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from troupe.data.source import TINY_SHAKESPEARE, read_text

DATASET = "data/shakespeare_char"
CONFIG = "config/train_shakespeare_char.py"
LOOK = re.compile(r"^step (\d+): train loss [\d.]+, val loss ([\d.]+)", re.MULTILINE)
STEP = re.compile(r"^iter (\d+): loss [\d.]+, time ([\d.]+)ms", re.MULTILINE)


@dataclass(frozen=True)
class Finished:
    output: str
    seconds: float  # of the whole process

    def tokens_per_second(self, tokens_per_step: int) -> list[float]:
        """Of every step but the first, whose time contains an evaluation."""
        return [1000 * tokens_per_step / float(milliseconds) for _, milliseconds in STEP.findall(self.output)[1:]]

    def looks(self) -> list[tuple[int, float]]:
        """Step and loss of its estimates on validation."""
        return [(int(step), float(loss)) for step, loss in LOOK.findall(self.output)]


@contextmanager
def copied(checkout: Path) -> Iterator[Path]:
    """A temporary copy of a checkout with tiny Shakespeare prepared by its own script."""
    with TemporaryDirectory(prefix="nanogpt-") as temporary:
        folder = Path(temporary) / "nanoGPT"
        shutil.copytree(checkout, folder, ignore=shutil.ignore_patterns(".git", "*.bin", "*.pt", "out*"))
        (folder / DATASET / "input.txt").write_text(read_text(TINY_SHAKESPEARE), encoding="utf-8")
        run(folder, f"{DATASET}/prepare.py")
        yield folder


def run(folder: Path, script: str | Path, *arguments: str) -> Finished:
    """Run a script in the copy. Exits with its last line if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, str(script), *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SystemExit(f"{Path(script).name} failed in a copy of nanoGPT: {last}")
    return Finished(ended.stdout, time.monotonic() - began)


def train(folder: Path, settings: Mapping[str, object]) -> Finished:
    """Its train.py with its own Shakespeare configuration and these settings over it."""
    return run(folder, "train.py", CONFIG, *(f"--{name}={value}" for name, value in settings.items()))
