"""What attention costs: worked by hand, against torch's own counter and a real cache, and as published."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from troupe.inspection.attention import AttentionShape, attention_costs, attention_shape, layer_costs
from troupe.inspection.structure import without_weights
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, CausalSelfAttention
from troupe.models.layers import KVCache
from troupe.models.switchhead import SwitchHead, SwitchHeadConfig

D, L, B, T = 12, 2, 3, 4
CONFIG = GPTConfig(31, 20, n_layer=L, n_head=3, n_embd=D, dropout=0.0, bias=False)
FEWER = SwitchHeadConfig(n_head=2, head_width=6, n_expert=5, top_k=3, router="sigmoid", compute="dense")
LAYERS = {
    "dense": CausalSelfAttention,
    "narrow": lambda config: CausalSelfAttention(replace(config, head_width=2)),
    "grouped": lambda config: CausalSelfAttention(replace(config, n_kv_head=1)),
    "experts": partial(SwitchHead, experts=FEWER),
}


def test_a_dense_layer_by_hand() -> None:
    """D = 12 in 3 heads of 4: four matrices of 144. Token t of 4 sees t, 2.5 on average; each costs 12 + 12 MACs."""
    costs = layer_costs(CausalSelfAttention(CONFIG), T)
    assert (costs.parameters, costs.useful, costs.executed) == (4 * 144, 4 * 144, 4 * 144)
    assert (costs.causal, costs.full) == (24 * 2.5, 24 * 4)
    assert costs.cache_bytes == (12 + 12) * 4
    assert costs.memory_floats == 3 * (4 * 4 + 4 * 4) + 4 * (4 * 12)


def test_a_switchhead_layer_by_hand() -> None:
    """2 heads of 6, 5 experts of which 3 are chosen: 12 x 12 for queries, keys and each expert, 12 x 10 per router."""
    costs = layer_costs(SwitchHead(CONFIG, FEWER), T)
    assert costs.parameters == costs.executed == (2 + 2 * 5) * 144 + 2 * 120
    assert costs.useful == (2 + 2 * 3) * 144 + 2 * 120
    assert (costs.causal, costs.full, costs.cache_bytes) == (24 * 2.5, 24 * 4, 24 * 4)
    assert costs.memory_floats == 2 * (4 * 4 + 4 * 4) + 4 * (4 * 12) + 2 * (4 * 10)


@pytest.mark.parametrize("kind", LAYERS)
def test_macs_are_half_the_flops_that_torch_counts(kind: str) -> None:
    """Under math attention, which computes the whole matrix; fused kernels count as nothing on a CPU."""
    layer = LAYERS[kind](CONFIG)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(torch.ones(B, T, D))
    costs = layer_costs(layer, T)
    assert counter.get_total_flops() == 2 * B * T * (costs.executed + costs.full)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_cache_is_as_large_as_a_real_one(kind: str) -> None:
    model, cache = GPT(CONFIG, LAYERS[kind]).eval(), KVCache(L, CONFIG.block_size)
    with torch.no_grad():
        model(torch.zeros(B, T, dtype=torch.int64), cache)
    real = sum(buffer.nbytes for layer in cache.layers for buffer in layer._buffers or ())
    assert attention_costs(model, T).cache_bytes * B * CONFIG.block_size == real


def test_a_model_costs_as_much_as_its_layers_and_needs_no_weights() -> None:
    costs = attention_costs(without_weights(lambda: GPT(CONFIG, LAYERS["experts"])), T)
    layer = layer_costs(LAYERS["experts"](CONFIG), T)
    assert costs.parameters == L * layer.parameters
    assert costs.memory_floats == L * layer.memory_floats


def test_as_published_with_rotary_positions() -> None:
    """Csordás et al. 2024, Wikitext 103 at 45M parameters with RoPE, in the dimensions of their repository's sweeps
    wikitext103_xl_rope and wikitext103_moeatt_rope_matched_k3: 560.9M MACs and 6.1M floats against 285.6M and 1.3M.
    """
    T, D = 512, 412
    dense = AttentionShape(D, n_head=10, head_width=41)
    experts = AttentionShape(D, n_head=2, head_width=64, n_expert=5, top_k=3, computed=5, routers=2)
    assert f"{_published_macs(dense, T) / 1e6:.1f}" == "560.9"
    assert f"{_published_macs(experts, T) / 1e6:.1f}" == "285.6"
    assert f"{dense.memory_floats(T) / 1e6:.1f}" == "6.1"
    assert f"{experts.memory_floats(T) / 1e6:.1f}" == "1.3"


def test_as_published_at_262_million_parameters() -> None:
    """The 44 % of MACs and 27 % of memory of the abstract, C4, sweeps c4_baseline_big and c4_moeatt_big_h4_matched.

    With what Transformer-XL adds as their scripts count it: a second block of T tokens to attend to, and a projection
    of positions for every head, over both blocks if dense and over one if SwitchHead.
    """
    T, D = 512, 1024
    dense = AttentionShape(D, n_head=16, head_width=64)
    experts = AttentionShape(D, n_head=4, head_width=112, n_expert=4, top_k=2, computed=4, routers=2)
    dense_macs = _published_macs(dense, T) + 2 * T * T * dense.width + 2 * 2 * T * D * dense.width
    expert_macs = _published_macs(experts, T) + 2 * T * T * experts.width + 2 * T * D * experts.width
    assert f"{expert_macs / dense_macs:.0%}" == "44%"
    dense_memory = dense.memory_floats(T) + 2 * T * T * dense.n_head + 2 * 2 * T * dense.width
    expert_memory = experts.memory_floats(T) + 2 * T * T * experts.n_head + 2 * T * experts.width
    assert f"{expert_memory / dense_memory:.0%}" == "27%"


def _published_macs(shape: AttentionShape, context: int) -> float:
    """Of one text, full: they count one router where every head has one, and the gates of values and outputs."""
    routers = shape.routers * shape.n_embd * shape.n_expert
    gates = shape.routers * shape.width * shape.top_k
    per_token = shape.projections(shape.top_k) - (shape.n_head - 1) * routers + gates
    return context * (per_token + 2 * shape.width * context)


def test_the_shape_is_the_layers() -> None:
    shape = attention_shape(SwitchHead(CONFIG, FEWER))
    assert shape == AttentionShape(D, 2, 6, n_expert=5, top_k=3, computed=5, routers=2)
    assert attention_shape(CausalSelfAttention(replace(CONFIG, head_width=7))) == AttentionShape(D, 3, 7)
