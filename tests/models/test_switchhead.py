"""SwitchHead against its formulas, and the switch from dense to experts, which must not be felt."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, CausalSelfAttention, init_gpt2
from troupe.models.layers import KVCache
from troupe.models.switchhead import SwitchHead, SwitchHeadConfig, expert_usage, upcycle

CONFIG = GPTConfig(vocab_size=60, block_size=12, n_layer=2, n_head=3, n_embd=18, dropout=0.0)
ROUTINGS = [
    SwitchHeadConfig(3, 6, n_expert=4, top_k=2, router="sigmoid"),
    SwitchHeadConfig(3, 6, n_expert=5, top_k=3, router="sigmoid"),
    SwitchHeadConfig(3, 6, n_expert=4, top_k=1, router="sigmoid"),
    SwitchHeadConfig(3, 6, n_expert=4, top_k=1, router="softmax"),
    SwitchHeadConfig(3, 6, n_expert=3, top_k=2, router="softmax"),
    SwitchHeadConfig(3, 6, n_expert=1, top_k=1, router="sigmoid"),
    SwitchHeadConfig(3, 6, n_expert=1, top_k=1, router="softmax"),
]
every_routing = pytest.mark.parametrize("experts", ROUTINGS, ids=lambda c: f"{c.router}-{c.top_k}of{c.n_expert}")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer(experts: SwitchHeadConfig, config: GPTConfig = CONFIG) -> SwitchHead:
    """In float64, with weights large enough that routers, gates and biases all matter."""
    switchhead = SwitchHead(config, experts).double()
    for parameter in switchhead.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=rng(parameter.numel()))
    return switchhead


def inputs(B: int = 2, T: int = 7, D: int = CONFIG.n_embd, seed: int = 0) -> Tensor:
    return torch.randn(B, T, D, generator=rng(seed), dtype=torch.float64)


def dense(dtype: torch.dtype = torch.float32, config: GPTConfig = CONFIG) -> GPT:
    """A dense model of trained size: GPT-2's initial weights would hide mistakes behind small logits."""
    model = GPT(config)
    init_gpt2(model, rng())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=rng(parameter.numel()))
    return model.to(dtype).eval()


def ids(B: int = 4, T: int = 12) -> Tensor:
    return torch.randint(0, CONFIG.vocab_size, (B, T), generator=rng())


def by_the_formulas(switchhead: SwitchHead, x_TD: Tensor) -> Tensor:
    """One sequence through the paper's equations with plain loops over tokens, heads and experts."""
    H, E, K = CONFIG.n_head, switchhead.experts.n_expert, CONFIG.n_embd // CONFIG.n_head
    T = len(x_TD)
    W_Q, W_K = switchhead.query_key.weight.chunk(2)
    b_Q, b_K = switchhead.query_key.bias.chunk(2)

    def gates(router: Tensor, x_D: Tensor, m: int) -> dict[int, float]:
        scores = [float(router[m * E + e] @ x_D) for e in range(E)]
        best = sorted(range(E), key=lambda e: -scores[e])[: switchhead.experts.top_k]
        if switchhead.experts.router == "sigmoid":
            return {e: 1 / (1 + math.exp(-scores[e])) for e in best}
        return {e: math.exp(scores[e]) / sum(math.exp(s) for s in scores) for e in best}

    y_TD = switchhead.output.bias.repeat(T, 1)
    for m in range(H):
        head = slice(m * K, (m + 1) * K)
        q = [W_Q[head] @ x_D + b_Q[head] for x_D in x_TD]
        k = [W_K[head] @ x_D + b_K[head] for x_D in x_TD]
        v = []
        for x_D in x_TD:
            v_K = torch.zeros(K, dtype=torch.float64)
            for e, gate in gates(switchhead.value_router.weight, x_D, m).items():
                rows = slice((m * E + e) * K, (m * E + e + 1) * K)
                v_K = v_K + gate * (switchhead.value.weight[rows] @ x_D + switchhead.value.bias[rows])
            v.append(v_K)
        for i in range(T):
            weights = torch.stack([q[i] @ k[j] / math.sqrt(K) for j in range(i + 1)]).softmax(0)
            mixed_K = sum(weight * v[j] for j, weight in enumerate(weights))
            for e, gate in gates(switchhead.output_router.weight, x_TD[i], m).items():
                columns = slice((m * E + e) * K, (m * E + e + 1) * K)
                y_TD[i] += gate * (switchhead.output.weight[:, columns] @ mixed_K)
    return y_TD


@every_routing
def test_layer_computes_the_formulas(experts: SwitchHeadConfig) -> None:
    switchhead, x_BTD = layer(experts), inputs()
    with torch.no_grad():
        expected = torch.stack([by_the_formulas(switchhead, x_TD) for x_TD in x_BTD])
        torch.testing.assert_close(switchhead(x_BTD), expected, atol=1e-11, rtol=0)


@every_routing
def test_gradients_agree_with_finite_differences(experts: SwitchHeadConfig) -> None:
    experts = replace(experts, n_head=2, head_width=2)
    switchhead = layer(experts, GPTConfig(vocab_size=9, block_size=4, n_layer=1, n_head=2, n_embd=4, dropout=0.0))
    names = [name for name, _ in switchhead.named_parameters()]
    x_BTD = inputs(B=1, T=3, D=4).requires_grad_()

    def function(x_BTD: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(switchhead, dict(zip(names, parameters, strict=True)), (x_BTD,))

    assert torch.autograd.gradcheck(function, (x_BTD, *switchhead.parameters()))


@every_routing
def test_permuting_experts_changes_nothing(experts: SwitchHeadConfig) -> None:
    """Values and outputs are permuted differently, and each head in its own way."""
    switchhead, x_BTD = layer(experts), inputs()
    before = switchhead(x_BTD)
    H, E, K = CONFIG.n_head, experts.n_expert, CONFIG.n_embd // CONFIG.n_head
    values, outputs = (torch.stack([torch.randperm(E, generator=rng(h + s)) for h in range(H)]) for s in (1, 50))

    def permuted(rows: Tensor, order_HE: Tensor) -> Tensor:
        per_expert = torch.unflatten(rows, 0, (H, E, -1))
        return torch.stack([per_expert[h, order_HE[h]] for h in range(H)]).flatten(0, 2)

    with torch.no_grad():
        for parameter in (switchhead.value.weight, switchhead.value.bias, switchhead.value_router.weight):
            parameter.copy_(permuted(parameter, values))
        switchhead.output.weight.copy_(permuted(switchhead.output.weight.T, outputs).T)
        switchhead.output_router.weight.copy_(permuted(switchhead.output_router.weight, outputs))
    torch.testing.assert_close(switchhead(x_BTD), before, atol=1e-12, rtol=0)
    assert switchhead.value.weight.shape == (H * E * K, CONFIG.n_embd)


def test_one_expert_is_gated_dense_attention() -> None:
    """With softmax a single gate is 1, so the layer is plain multi-head attention; sigmoid gates scale v and y."""
    gated = layer(SwitchHeadConfig(3, 6, 1, 1, "sigmoid"))
    ungated = SwitchHead(CONFIG, SwitchHeadConfig(3, 6, 1, 1, "softmax")).double()
    ungated.load_state_dict(gated.state_dict())
    plain = CausalSelfAttention(CONFIG).double()
    with torch.no_grad():
        plain.query_key_value.weight.copy_(torch.cat([gated.query_key.weight, gated.value.weight]))
        plain.query_key_value.bias.copy_(torch.cat([gated.query_key.bias, gated.value.bias]))
    plain.output.load_state_dict(gated.output.state_dict())
    x_BTD = inputs()
    torch.testing.assert_close(ungated(x_BTD), plain(x_BTD), atol=1e-12, rtol=0)

    def heads(y: Tensor) -> Tensor:
        return torch.unflatten(y, -1, (CONFIG.n_head, -1))

    q, k = (heads(y).transpose(1, 2) for y in gated.query_key(x_BTD).chunk(2, -1))
    v = (heads(gated.value(x_BTD)) * F.linear(x_BTD, gated.value_router.weight).sigmoid().unsqueeze(-1)).transpose(1, 2)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    gated_y = (y * F.linear(x_BTD, gated.output_router.weight).sigmoid().unsqueeze(-1)).flatten(2)
    torch.testing.assert_close(gated(x_BTD), gated.output(gated_y), atol=1e-12, rtol=0)


@every_routing
def test_no_token_sees_a_later_one(experts: SwitchHeadConfig) -> None:
    switchhead, before = layer(experts), inputs()
    after = before.clone()
    after[:, 4:] += 1
    changed = (switchhead(before) - switchhead(after)).abs().amax((0, 2))
    assert (changed[:4] == 0).all()
    assert (changed[4:] > 0).all()


@every_routing
def test_the_cache_gives_the_logits_of_the_whole(experts: SwitchHeadConfig) -> None:
    model = GPT(CONFIG, attention=partial(SwitchHead, experts=experts)).double()
    init_gpt2(model, rng())
    cache = KVCache(CONFIG.n_layer, CONFIG.block_size)
    with torch.no_grad():
        logits = torch.cat([model(piece, cache) for piece in ids().split([5, 1, 1, 3, 2], dim=1)], dim=1)
        torch.testing.assert_close(logits, model(ids()), atol=1e-12, rtol=0)


@every_routing
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["fp32", "fp64"])
def test_the_switch_is_not_felt(experts: SwitchHeadConfig, dtype: torch.dtype, bound: float) -> None:
    """The logits move by rounding only; the dense model is left as it was."""
    before = dense(dtype)
    kept = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    with torch.no_grad():
        difference = upcycle(before, experts, rng(1))(ids()) - before(ids())
        assert before(ids()).std() > 0.5
    assert difference.abs().max() <= bound
    assert all(torch.equal(kept[name], tensor) for name, tensor in before.state_dict().items())


def test_the_switch_is_not_felt_by_a_model_that_departs_from_gpt2() -> None:
    config = replace(CONFIG, positions="rotary", norm="rms", activation="relu2", qk_norm=True, conv=4, bias=False)
    before = dense(torch.float64, config)
    experts = upcycle(before, ROUTINGS[0], rng(1))
    pieces, cache = ids().split([5, 1, 6], dim=1), KVCache(config.n_layer, config.block_size)
    with torch.no_grad():
        torch.testing.assert_close(experts(ids()), before(ids()), atol=1e-8, rtol=0)
        cached = torch.cat([experts(piece, cache) for piece in pieces], dim=1)
        torch.testing.assert_close(cached, experts(ids()), atol=1e-10, rtol=0)


def test_upcycling_keeps_dtype_and_mode_and_follows_its_seed() -> None:
    model = upcycle(dense(torch.float64).train(), ROUTINGS[0], rng(1))
    assert model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    again, other = (upcycle(dense(torch.float64), ROUTINGS[0], rng(seed)).state_dict() for seed in (1, 2))
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())
    assert any(not torch.equal(other[name], tensor) for name, tensor in model.state_dict().items())


def test_experts_cannot_be_upcycled_again() -> None:
    with pytest.raises(TypeError, match="not one with SwitchHead"):
        upcycle(upcycle(dense(), ROUTINGS[0], rng()), ROUTINGS[0], rng())


def spread_of_experts(model: GPT) -> Tensor:
    """(L, H): how far apart the value experts of a head are, as the largest distance over the norm of the first."""
    layers = []
    for block in model.blocks:
        experts_HEKD = torch.unflatten(block.attention.value.weight.detach(), 0, (CONFIG.n_head, 4, -1))
        distance_HE = (experts_HEKD - experts_HEKD[:, :1]).flatten(2).norm(dim=-1)
        layers.append(distance_HE.amax(-1) / experts_HEKD[:, 0].flatten(1).norm(dim=-1))
    return torch.stack(layers)


@pytest.mark.parametrize("experts", [ROUTINGS[0], ROUTINGS[3]], ids=["sigmoid", "softmax"])
def test_copies_are_all_used_at_the_switch_and_separate_when_trained(experts: SwitchHeadConfig) -> None:
    model = upcycle(dense(), experts, rng(1))
    usage = expert_usage(model, ids(64))
    assert usage.dead == 0
    assert usage.effective_LRH.mean() > 3
    assert (spread_of_experts(model) == 0).all()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(ids(16)[:, :-1]).flatten(0, 1), ids(16)[:, 1:].flatten()).backward()
        optimizer.step()
    assert (spread_of_experts(model) > 0.01).all()


def test_usage_counts_choices() -> None:
    """Routers written by hand: values always choose experts 0 and 1, outputs 1 and 3 (equal rows tie towards none)."""
    model = upcycle(dense(), ROUTINGS[0], rng())
    with torch.no_grad():
        for block in model.blocks:
            block.attention_norm.weight.zero_()
            block.attention_norm.bias.fill_(1.0)  # every token looks the same to the routers
            for router, order in (
                (block.attention.value_router, [4, 3, 2, 1]),
                (block.attention.output_router, [1, 3, 2, 4]),
            ):
                router.weight.copy_(torch.tensor(order * CONFIG.n_head).unsqueeze(1).expand_as(router.weight))
    usage = expert_usage(model, ids())
    assert usage.load.shape == (2, 2, CONFIG.n_head, 4)
    assert (usage.load[:, 0] == torch.tensor([0.5, 0.5, 0, 0])).all()
    assert (usage.load[:, 1] == torch.tensor([0, 0.5, 0, 0.5])).all()
    torch.testing.assert_close(usage.effective_LRH, torch.full((2, 2, CONFIG.n_head), 2.0))
    assert usage.dead == 2 * 2 * CONFIG.n_head * 2


def test_watching_leaves_no_trace() -> None:
    model = upcycle(dense(), ROUTINGS[0], rng())
    before = model(ids())
    expert_usage(model, ids())
    assert torch.equal(model(ids()), before)
    assert not any(module._forward_hooks for module in model.modules())


def test_routing_survives_bfloat16_autocast() -> None:
    """Scores stay in float32: in bfloat16 the small ones of the switch would tie and all go one way."""
    model = upcycle(dense(), ROUTINGS[0], rng(1))
    exact = expert_usage(model, ids(64)).load
    with torch.autocast("cpu", torch.bfloat16):
        rounded = expert_usage(model, ids(64)).load
        logits = model(ids())
    assert logits.dtype == torch.bfloat16
    assert (exact - rounded).abs().max() < 0.05
    torch.testing.assert_close(logits.float(), model(ids()), atol=0.3, rtol=0.05)
