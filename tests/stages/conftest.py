"""What the tests of the adversarial stage share: two models to begin with, and settings that take seconds."""

import math

import pytest

from troupe.conversion.attention import convert
from troupe.data.tokenizer import load_tokenizer
from troupe.layout import TOKENS, model_dir
from troupe.models.bundle import save_bundle
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.switchhead import SwitchHeadConfig
from troupe.params import Params
from troupe.seeding import generator

SMALL = {
    "tilt_rounds": 0,
    "learn": "reinforce",
    "steps": 12,
    "batch_size": 4,
    "critic_embd": 8,
    "critic_hidden": 8,
    "critic_texts": 48,
    "critic_updates": 4,
    "critic_looks": 3,
    "critic_rounds": 2,
    "critic_batch_size": 16,
    "judge_texts": 30,
    "judge_seeds": 1,
    "kl_cap": math.inf,
    "eval_interval": 4,
    "checkpoint_interval": 2,
}
BOUNDS = {"max_bpb_rise": 10.0, "min_distinct": 0.0}
ONLY_TILTED = {"learn": "none", "tilt_texts": 24}


@pytest.fixture
def experts(workspace: Params) -> Params:
    """The workspace with artifacts/pretrain and moe in it; untrained, so that what they write is easily told."""
    tokenizer = load_tokenizer(TOKENS / "tokenizer.json")
    dense = GPT(GPTConfig(tokenizer.vocab_size, **workspace.model.model_dump()))
    init_gpt2(dense, generator(0, "test"))
    n_head, head_width = dense.config.n_head, dense.config.n_embd // dense.config.n_head
    experts = SwitchHeadConfig(n_head, head_width, n_expert=2, top_k=1, router="sigmoid")
    model = convert(dense, experts, "exact", generator(0, "test"))
    save_bundle(model_dir("pretrain"), dense, tokenizer, {"stage": "pretrain"})
    save_bundle(model_dir("moe"), model, tokenizer, {"stage": "moe"})
    return changed(workspace, **SMALL, **BOUNDS)


def changed(params: Params, **values: object) -> Params:
    return params.model_copy(update={"adversarial": params.adversarial.model_copy(update=values)})


def never(*_: object) -> None:
    raise AssertionError("nobody asked for this")
