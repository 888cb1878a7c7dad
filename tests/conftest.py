"""For every test: one thread; many torch threads on a busy machine are slower by orders of magnitude."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from troupe import environment
from troupe.models.config import GPTConfig
from troupe.params import Params, load_params
from troupe.stages.corpus import corpus
from troupe.stages.inputs import inputs
from troupe.stages.tokens import tokens

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start; _one_thread is for this one
os.environ.setdefault("TROUPE_CACHE", tempfile.mkdtemp(prefix="troupe-tests-"))  # for probes; workers inherit it
environment.prepare()  # before any test imports mlflow, which decides on telemetry then

ROOT = Path(__file__).parents[1]

settings.register_profile("troupe", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("troupe")


LONGEST = ("smoke", "pipelines", "faults", "registry", "stages")  # folders; files run side by side, these first


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)

    items.sort(key=rank)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Also undoes what a stage that ran in this process has set: hypothesis wants denormal numbers."""
    torch.set_num_threads(1)
    yield
    torch.set_flush_denormal(False)
    torch.use_deterministic_algorithms(False)


TINY = (
    "run.threads=1 data.source=text.txt data.block_bytes=256 tokens.vocab_size=300 "
    "model.block_size=16 model.n_layer=2 model.n_head=2 model.n_embd=16 "
    "pretrain.steps=40 pretrain.batch_size=4 pretrain.eval_interval=8 pretrain.checkpoint_interval=4 "
    "moe.steps=12 moe.batch_size=4 moe.eval_interval=4 moe.checkpoint_interval=4 "
    "adversarial.prompt_length=4 adversarial.sequence_length=8 adversarial.candidates=2 adversarial.critic_texts=64 "
    "adversarial.span=4 adversarial.reference_layers=1 adversarial.reference_embd=8 adversarial.reference_steps=4 "
    "adversarial.critic_updates=4 adversarial.critic_looks=2 adversarial.critic_rounds=1 adversarial.critic_hidden=16 "
    "adversarial.judge_texts=30 adversarial.tilt_texts=24 evaluate.stride=16"
)

GPT2 = " ".join(
    f"model.{field.name}={field.default}" for field in fields(GPTConfig) if field.default not in (MISSING, None)
)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A workspace as the current folder, with corpus and tokens of a small text; its parameters, tiny."""
    monkeypatch.chdir(tmp_path)
    words = ["to", "be", "or", "not", "that", "is", "the", "question"]
    picks = torch.randint(len(words), (4000,), generator=torch.Generator().manual_seed(0)).tolist()
    Path("text.txt").write_text(" ".join(words[pick] for pick in picks))
    params = load_params(ROOT / "params.yaml", TINY.split())
    for stage in (inputs, corpus, tokens):
        stage(params)
    return params
