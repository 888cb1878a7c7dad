"""What the tests of the adversarial stage share: two models to begin with, and settings that take seconds."""

from pathlib import Path

import pytest

from troupe.bundles.bundle import save_bundle
from troupe.conversion.attention import convert
from troupe.data.tokenizer import load_tokenizer
from troupe.layout import TOKENS, model_dir
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.switchhead import SwitchHeadConfig
from troupe.params import Params, dump_params, load_params
from troupe.seeding import generator

SMALL = (
    "steps=12 batch_size=4 kl_cap=.inf eval_interval=4 checkpoint_interval=2 max_bpb_rise=10.0 min_distinct=0.0 "
    "discriminator.n_embd=8 discriminator.n_hidden=8 discriminator.texts=48 discriminator.updates=4 "
    "discriminator.rounds=3 discriminator.more_rounds=2 discriminator.batch_size=16"
)


@pytest.fixture
def experts(workspace: Params) -> Params:
    """The workspace with artifacts/pretrain and moe in it; untrained, so that their text is easily detected."""
    tokenizer = load_tokenizer(TOKENS / "tokenizer.json")
    dense = GPT(GPTConfig(tokenizer.vocab_size, **workspace.model.model_dump()))
    init_gpt2(dense, generator(0, "test"))
    n_head, head_width = dense.config.n_head, dense.config.n_embd // dense.config.n_head
    experts = SwitchHeadConfig(n_head, head_width, n_expert=2, top_k=1, router="sigmoid")
    model = convert(dense, experts, "exact", generator(0, "test"))
    save_bundle(model_dir("pretrain"), dense, tokenizer, {"stage": "pretrain"})
    save_bundle(model_dir("moe"), model, tokenizer, {"stage": "moe"})
    alone = SMALL.partition(" discriminator")[0]  # without a discriminator
    of_methods = {"gan": SMALL, "distil": SMALL, "ddo": alone, "moments": alone}
    return changed(workspace, *(f"{name}.{change}" for name, small in of_methods.items() for change in small.split()))


def changed(params: Params, *overrides: str) -> Params:
    """With other parameters of the stage, e.g. "methods=[gan]", "gan.steps=2"."""
    dump_params(params, Path("as-given.yaml"))
    return load_params(Path("as-given.yaml"), [f"adversarial.{override}" for override in overrides])


def never(*_: object) -> None:
    raise AssertionError("nobody asked for this")
