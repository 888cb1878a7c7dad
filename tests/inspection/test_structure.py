"""A model's parts and work, from its shape: against torch's own counter, a real cache and published sizes."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from troupe.inspection.attention import attention_costs
from troupe.inspection.structure import parts, without_weights
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT
from troupe.models.ngrams import NGrams
from troupe.models.switchhead import SwitchHead, SwitchHeadConfig
from troupe.models.tilted import NUMBERS, tilted

SMALL = GPTConfig(vocab_size=31, block_size=20, n_layer=2, n_head=3, n_embd=12, dropout=0.1)
ALTERED = replace(SMALL, positions="rotary", norm="rms", activation="swiglu", qk_norm=True, conv=3, bias=False)
EXPERTS = partial(SwitchHead, experts=SwitchHeadConfig(3, 4, 4, 2, "sigmoid"))
MODELS = {
    "dense": partial(GPT, SMALL),
    "experts": partial(GPT, SMALL, attention=EXPERTS),
    "altered": partial(GPT, ALTERED),
    "altered experts": partial(GPT, ALTERED, attention=EXPERTS),
}


@pytest.mark.parametrize("kind", MODELS)
def test_macs_are_half_the_flops_that_torch_counts(kind: str) -> None:
    """Under math attention, which computes the whole matrix; fused kernels count as nothing on a CPU."""
    model = MODELS[kind]().eval()
    B, T = 2, 17
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(B, T, dtype=torch.int64))
    macs = sum(part.executed for part in parts(model)) + attention_costs(model, T).full
    assert counter.get_total_flops() == 2 * B * T * macs


@pytest.mark.parametrize("kind", ["experts", "altered experts"])
def test_only_experts_cost_more_than_is_useful(kind: str) -> None:
    """2 of 4 experts are chosen: of their matrices, half of what is executed is useful, and all of the others."""
    for part in parts(MODELS[kind]()):
        in_experts = part.name in ("blocks.attention.value", "blocks.attention.output")
        assert part.useful == (part.executed // 2 if in_experts else part.executed)


@pytest.mark.parametrize("kind", MODELS)
def test_every_parameter_is_in_one_part(kind: str) -> None:
    model = MODELS[kind]()
    assert sum(part.parameters for part in parts(model)) == sum(p.numel() for p in model.parameters())
    assert {part.modules for part in parts(model) if part.name.startswith("blocks.")} == {2}


def test_a_tilt_is_a_part_by_its_name() -> None:
    """It multiplies no matrix, and the n-grams beside it are looked up."""
    model = GPT(SMALL)
    tilt, *others = parts(tilted(model, NGrams.counted(np.arange(60) % 31, 3, 31)))
    assert (tilt.name, tilt.modules, tilt.parameters, tilt.executed) == ("tilt", 1, NUMBERS, 0)
    assert others == parts(model)


@pytest.mark.parametrize(
    ("n_layer", "n_head", "n_embd", "parameters"),
    [
        (12, 12, 768, 124_439_808),
        (24, 16, 1024, 354_823_168),
        (36, 20, 1280, 774_030_080),
        (48, 25, 1600, 1_557_611_200),
    ],
    ids=["gpt2", "medium", "large", "xl"],
)
def test_the_sizes_of_gpt2_without_their_memory(n_layer: int, n_head: int, n_embd: int, parameters: int) -> None:
    """As transformers counts OpenAI's checkpoints."""
    model = without_weights(lambda: GPT(GPTConfig(50_257, 1024, n_layer, n_head, n_embd, 0.1)))
    assert sum(part.parameters for part in parts(model)) == parameters
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["altered", "altered experts"])
def test_parts_stand_in_the_order_of_the_computation(kind: str) -> None:
    names = [part.name for part in parts(MODELS[kind]())]
    of_blocks = [name.split(".")[1] for name in names if name.startswith("blocks.")]
    order = ["attention_norm", "attention_conv", "attention", "mlp_norm", "mlp_conv", "mlp"]
    assert list(dict.fromkeys(of_blocks)) == order
    assert (names[0], names[-1]) == ("token_embedding", "norm")
