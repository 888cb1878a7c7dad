"""The curves of tests/golden/curves.json: pretraining and experts at tiny scale, without random draws while they train.

python -m tests.golden.curves  # write them anew, where a change is meant to change them: say why in the commit
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.golden.compare import ROOT, SETTINGS, some_text
from tests.numerics import every_batch_reordered
from troupe.layout import EFFECTIVE_PARAMS, model_dir
from troupe.params import load_params
from troupe.progress import read_metrics
from troupe.stages.corpus import corpus
from troupe.stages.inputs import inputs
from troupe.stages.moe import moe
from troupe.stages.pretrain import pretrain
from troupe.stages.tokens import tokens

FILE = Path(__file__).with_name("curves.json")
# No dropout, so that sequences may change places in a batch; no choice among experts, which a rounding could turn.
SMOOTH = "model.dropout=0.0 moe.n_expert=2 moe.top_k=2 pretrain.steps=16 pretrain.eval_interval=4 moe.steps=8"
FITS = {"pretrain": "pretrain", "moe": "moe", "moe/control": "moe-control"}  # folders of artifacts
FIGURES = ("train/loss", "train/grad_norm", "train/lr", "val/loss", "val/bpb")
Curves = dict[str, dict[str, list[float]]]  # a value a step, or a look, by fit and figure


def prepare(folder: Path) -> None:
    """Corpus and tokens of a small text in `folder`."""
    with working_in(folder):
        Path("text.txt").write_text(some_text(4000))
        params = load_params(ROOT / "params.yaml", f"{SETTINGS} {SMOOTH}".split())
        for stage in (inputs, corpus, tokens):
            stage(params)


def curves(folder: Path, order: int | None = None) -> Curves:
    """Train in `folder`; with `order`, on the sequences of each batch in another order, from the beginning."""
    with working_in(folder), nullcontext() if order is None else every_batch_reordered(order):
        params = load_params(EFFECTIVE_PARAMS)
        pretrain(params)
        moe(params)
        logs = {name: read_metrics(model_dir(name) / "metrics.jsonl") for name in FITS}
    return {
        name: {figure: [line[figure] for line in log if figure in line] for figure in FIGURES}
        for name, log in logs.items()
    }


def digests(folder: Path) -> dict[str, str]:
    """Of what no rounding can change: the text, and its tokens."""
    meta = json.loads((folder / "artifacts/tokens/meta.json").read_text())
    return {name: meta[name] for name in ("corpus_sha256", "test_sha256", "tokenizer_sha256")}


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        prepare(Path(temporary))
        found = {"digests": digests(Path(temporary)), "curves": curves(Path(temporary))}
    FILE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
