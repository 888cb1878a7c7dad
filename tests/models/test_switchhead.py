"""SwitchHead against its formulas, and the switch from dense to experts, which must not be felt."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.dense import CONFIG, dense, ids, rng
from tests.numerics import rounded_share, roundings_of_forward
from troupe.conversion.attention import convert
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, CausalSelfAttention, init_gpt2
from troupe.models.layers import KVCache
from troupe.models.switchhead import (
    SwitchHead,
    SwitchHeadConfig,
    balance_loss,
    expert_usage,
    init_attention,
    init_switchhead,
    keep_balance,
    routers,
)

MODERN = replace(CONFIG, positions="rotary", norm="rms", qk_norm=True, bias=False)
ROUTINGS = [
    SwitchHeadConfig(3, 6, n_expert=4, top_k=2, router="sigmoid"),
    SwitchHeadConfig(3, 6, n_expert=5, top_k=3, router="sigmoid"),
    SwitchHeadConfig(3, 6, n_expert=4, top_k=1, router="sigmoid"),
    SwitchHeadConfig(3, 6, n_expert=4, top_k=1, router="softmax"),
    SwitchHeadConfig(3, 6, n_expert=3, top_k=2, router="softmax"),
    SwitchHeadConfig(3, 6, n_expert=1, top_k=1, router="sigmoid"),
    SwitchHeadConfig(3, 6, n_expert=1, top_k=1, router="softmax"),
]
OTHER_HEADS = [  # fewer and wider than the model's, or more and narrower
    SwitchHeadConfig(2, 8, n_expert=4, top_k=2, router="sigmoid"),
    SwitchHeadConfig(1, 10, n_expert=3, top_k=1, router="softmax"),
    SwitchHeadConfig(4, 4, n_expert=8, top_k=1, router="sigmoid"),
]
every_routing = pytest.mark.parametrize("experts", ROUTINGS, ids=lambda c: f"{c.router}-{c.top_k}of{c.n_expert}")


def layer(experts: SwitchHeadConfig, config: GPTConfig = CONFIG) -> SwitchHead:
    """In float64, with weights large enough that routers, gates and biases all matter."""
    switchhead = SwitchHead(config, experts).double()
    for seed, parameter in enumerate(switchhead.parameters()):
        torch.nn.init.normal_(parameter, std=0.5, generator=rng(seed))
    return switchhead


def inputs(B: int = 2, T: int = 7, D: int = CONFIG.n_embd, seed: int = 0) -> Tensor:
    return torch.randn(B, T, D, generator=rng(seed), dtype=torch.float64)


def by_the_formulas(switchhead: SwitchHead, x_TD: Tensor) -> Tensor:
    """One sequence through the paper's equations with plain loops over tokens, heads and experts."""
    of = switchhead.experts
    M, E, K, T = of.n_head, of.n_expert, of.head_width, len(x_TD)
    nothing = torch.zeros(M * E * K, dtype=torch.float64)

    def bias(part: torch.nn.Linear) -> Tensor:
        return nothing[:1].expand(part.out_features) if part.bias is None else part.bias

    W_Q, W_K = switchhead.query_key.weight.chunk(2)
    b_Q, b_K = bias(switchhead.query_key).chunk(2)

    def gates(router: Tensor, x_D: Tensor, m: int) -> dict[int, float]:
        scores = [float(router[m * E + e] @ x_D) for e in range(E)]
        best = sorted(range(E), key=lambda e: -scores[e])[: of.top_k]
        if of.router == "sigmoid":
            return {e: 1 / (1 + math.exp(-scores[e])) for e in best}
        return {e: math.exp(scores[e]) / sum(math.exp(s) for s in scores) for e in best}

    def normed(y_K: Tensor, norm: torch.nn.RMSNorm | None) -> Tensor:
        return y_K if norm is None else norm.weight * y_K / math.sqrt(sum(float(y) ** 2 for y in y_K) / K)

    def turned(y_K: Tensor, position: int) -> Tensor:
        """Each pair (i, i + K/2) as a complex number, times exp(i * angle)."""
        if switchhead.config.positions != "rotary":
            return y_K
        angles = position * 10_000.0 ** (-torch.arange(0, K, 2, dtype=torch.float64) / K)
        z = torch.complex(y_K[: K // 2], y_K[K // 2 :]) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([z.real, z.imag])

    y_TD = bias(switchhead.output).repeat(T, 1)
    value_rows, output_rows = switchhead.router.weight.chunk(2)
    for m in range(M):
        head = slice(m * K, (m + 1) * K)
        q_norm, k_norm = switchhead.prepare.query_norm, switchhead.prepare.key_norm
        q = [turned(normed(W_Q[head] @ x_D + b_Q[head], q_norm), i) for i, x_D in enumerate(x_TD)]
        k = [turned(normed(W_K[head] @ x_D + b_K[head], k_norm), i) for i, x_D in enumerate(x_TD)]
        v = []
        for x_D in x_TD:
            v_K = torch.zeros(K, dtype=torch.float64)
            for e, gate in gates(value_rows, x_D, m).items():
                rows = slice((m * E + e) * K, (m * E + e + 1) * K)
                v_K = v_K + gate * (switchhead.value.weight[rows] @ x_D + bias(switchhead.value)[rows])
            v.append(v_K)
        for i in range(T):
            weights = torch.stack([q[i] @ k[j] / math.sqrt(K) for j in range(i + 1)]).softmax(0)
            mixed_K = sum(weight * v[j] for j, weight in enumerate(weights))
            for e, gate in gates(output_rows, x_TD[i], m).items():
                columns = slice((m * E + e) * K, (m * E + e + 1) * K)
                y_TD[i] += gate * (switchhead.output.weight[:, columns] @ mixed_K)
    return y_TD


@pytest.mark.parametrize(
    ("config", "bound"),
    [(CONFIG, 1e-11), (replace(CONFIG, qk_norm=True), 1e-11), (MODERN, 1e-6)],  # rotary angles are kept in float32
    ids=["gpt2", "qk_norm", "rotary"],
)
@pytest.mark.parametrize("experts", ROUTINGS + OTHER_HEADS, ids=str)
def test_layer_computes_the_formulas(experts: SwitchHeadConfig, config: GPTConfig, bound: float) -> None:
    switchhead, x_BTD = layer(experts, config), inputs()
    with torch.no_grad():
        expected = torch.stack([by_the_formulas(switchhead, x_TD) for x_TD in x_BTD])
        assert expected.std() > 0.1
        torch.testing.assert_close(switchhead(x_BTD), expected, atol=bound, rtol=0)


@torch.no_grad()
def smallest_lead(switchhead: SwitchHead, x_BTD: Tensor) -> float:
    """By how much the last expert that is chosen beats the first that is not, at the closest."""
    of, leads = switchhead.experts, [math.inf]
    for rows in switchhead.router.weight.chunk(2):
        ordered = torch.unflatten(x_BTD @ rows.T, -1, (of.n_head, -1)).sort(-1, descending=True).values
        if of.top_k < of.n_expert:
            leads.append(float((ordered[..., of.top_k - 1] - ordered[..., of.top_k]).min()))
    return min(leads)


@every_routing
def test_gradients_agree_with_finite_differences(experts: SwitchHeadConfig) -> None:
    experts = replace(experts, n_head=2, head_width=2)
    switchhead = layer(experts, GPTConfig(vocab_size=9, block_size=4, n_layer=1, n_head=2, n_embd=4, dropout=0.0))
    names = [name for name, _ in switchhead.named_parameters()]
    x_BTD = inputs(B=1, T=3, D=4).requires_grad_()

    def function(x_BTD: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(switchhead, dict(zip(names, parameters, strict=True)), (x_BTD,))

    assert smallest_lead(switchhead, x_BTD) > 1e-4  # gradcheck's steps of 1e-6 change no choice
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
        value_rows, output_rows = switchhead.router.weight.chunk(2)
        for parameter in (switchhead.value.weight, switchhead.value.bias, value_rows):
            parameter.copy_(permuted(parameter, values))
        switchhead.output.weight.copy_(permuted(switchhead.output.weight.T, outputs).T)
        output_rows.copy_(permuted(output_rows, outputs))
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
    value_gates, output_gates = (F.linear(x_BTD, gated.router.weight).sigmoid().unsqueeze(-1)).chunk(2, dim=-2)
    v = (heads(gated.value(x_BTD)) * value_gates).transpose(1, 2)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    gated_y = (y * output_gates).flatten(2)
    torch.testing.assert_close(gated(x_BTD), gated.output(gated_y), atol=1e-12, rtol=0)


@every_routing
def test_no_token_sees_a_later_one(experts: SwitchHeadConfig) -> None:
    switchhead, before = layer(experts), inputs()
    after = before.clone()
    after[:, 4:] += 1
    changed = (switchhead(before) - switchhead(after)).abs().amax((0, 2))
    assert (changed[:4] == 0).all()
    assert (changed[4:] > 0).all()


@pytest.mark.parametrize("config", [CONFIG, MODERN], ids=["gpt2", "modern"])
@pytest.mark.parametrize("experts", ROUTINGS + OTHER_HEADS, ids=str)
def test_the_cache_gives_the_logits_of_the_whole(experts: SwitchHeadConfig, config: GPTConfig) -> None:
    """It holds keys, and values after mixing: M heads of width K each, however many experts there are."""
    model = GPT(config, attention=partial(SwitchHead, experts=experts)).double()
    init_switchhead(model, rng())
    cache = KVCache(config.n_layer, config.block_size)
    with torch.no_grad():
        logits = torch.cat([model(piece, cache) for piece in ids().split([5, 1, 1, 3, 2], dim=1)], dim=1)
        torch.testing.assert_close(logits, model(ids()), atol=1e-12, rtol=0)
    held = [buffer for of_layer in cache.layers for buffer in of_layer._buffers or ()]
    assert [tuple(buffer.shape) for buffer in held] == 4 * [(4, experts.n_head, 12, experts.head_width)]


def test_usage_counts_choices() -> None:
    """Routers written by hand: values always choose experts 0 and 1, outputs 1 and 3 (equal rows tie towards none)."""
    model = convert(dense(), ROUTINGS[0], "exact", rng())
    with torch.no_grad():
        for block in model.blocks:
            block.attention_norm.weight.zero_()
            block.attention_norm.bias.fill_(1.0)  # every token looks the same to the routers
            order = [4, 3, 2, 1] * CONFIG.n_head + [1, 3, 2, 4] * CONFIG.n_head
            weight = block.attention.router.weight
            weight.copy_(torch.tensor(order).unsqueeze(1).expand_as(weight))
    usage = expert_usage(model, ids())
    assert usage.load.shape == (2, 2, CONFIG.n_head, 4)
    assert (usage.load[:, 0] == torch.tensor([0.5, 0.5, 0, 0])).all()
    assert (usage.load[:, 1] == torch.tensor([0, 0.5, 0, 0.5])).all()
    torch.testing.assert_close(usage.entropy_LRH, torch.full((2, 2, CONFIG.n_head), math.log(2)))
    torch.testing.assert_close(usage.effective_LRH, torch.full((2, 2, CONFIG.n_head), 2.0))
    assert usage.dead == 2 * 2 * CONFIG.n_head * 2


def test_watching_leaves_no_trace() -> None:
    model = convert(dense(), ROUTINGS[0], "exact", rng())
    before = model(ids())
    expert_usage(model, ids())
    assert torch.equal(model(ids()), before)
    assert not any(module._forward_hooks for module in model.modules())


def test_routing_survives_bfloat16_autocast() -> None:
    """Scores stay in float32: in bfloat16 the small ones of the switch would tie and all go one way."""
    model = convert(dense(), ROUTINGS[0], "exact", rng(1))
    exact = expert_usage(model, ids(64)).load
    with torch.autocast("cpu", torch.bfloat16):
        rounded = expert_usage(model, ids(64)).load
        logits = model(ids())
    assert logits.dtype == torch.bfloat16
    assert (exact - rounded).abs().max() < 0.05
    whole = model(ids())
    assert (logits.float() - whole).norm() <= rounded_share(
        roundings_of_forward(CONFIG.n_layer), torch.bfloat16
    ) * whole.norm()


# From scratch

WIDE = GPTConfig(vocab_size=60, block_size=8, n_layer=8, n_head=8, n_embd=128, dropout=0.0, qk_norm=True)


def test_initial_spreads_are_the_papers() -> None:
    """s = sqrt(2/8) = 1/2: N(0, s/sqrt(128)) = 0.0442 on the way in, N(0, s/sqrt(4 x 24)) = 0.0510 on the way out."""
    model = GPT(WIDE, attention=partial(SwitchHead, experts=SwitchHeadConfig(4, 24, 5, 2, "sigmoid")))
    init_switchhead(model, rng())
    for block in model.blocks:
        attention = block.attention
        for part in (attention.query_key, attention.value, attention.router):
            assert part.weight.std().item() == pytest.approx(0.5 / math.sqrt(128), rel=0.05)
        assert attention.output.weight.std().item() == pytest.approx(0.5 / math.sqrt(4 * 24), rel=0.05)
        torch.testing.assert_close(attention.router.weight.norm(dim=1), torch.full((40,), 0.5))
        for part in (attention.query_key, attention.value, attention.output):
            assert (part.bias == 0).all()
        assert (attention.prepare.query_norm.weight == 1).all()


def test_outside_attention_the_beginning_is_gpt2s_and_it_follows_its_seed() -> None:
    models = []
    for init, seed in ((init_switchhead, 1), (init_switchhead, 1), (init_switchhead, 2), (init_gpt2, 1)):
        model = GPT(CONFIG, attention=partial(SwitchHead, experts=ROUTINGS[0]))
        init(model, rng(seed))
        models.append(model.state_dict())
    first, again, other, gpt2 = models
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.attention.value.weight"], other["blocks.0.attention.value.weight"])
    assert all(torch.equal(first[name], gpt2[name]) for name in first if "attention." not in name)
    assert not torch.equal(first["blocks.0.attention.value.weight"], gpt2["blocks.0.attention.value.weight"])


def test_one_layer_can_begin_afresh() -> None:
    model = GPT(MODERN, attention=partial(SwitchHead, experts=ROUTINGS[0]))
    init_switchhead(model, rng(1))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.no_grad():
        model.blocks[1].attention.prepare.key_norm.weight.fill_(3.0)
    init_attention(model.blocks[1].attention, rng(2), scale=0.5)
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    parts = ("query_key", "value", "output", "router")
    assert changed == {f"blocks.1.attention.{part}.weight" for part in parts}


# Balance


def training(experts: SwitchHeadConfig = ROUTINGS[0], config: GPTConfig = CONFIG) -> GPT:
    model = GPT(config, attention=partial(SwitchHead, experts=experts)).train()
    init_switchhead(model, rng())
    return model


def balance_by_hand(model: GPT, inputs_of: list[Tensor]) -> float:
    """Loops over routers, heads and experts, from the definition."""
    terms = []
    for router, x_ND in zip(routers(model), inputs_of, strict=True):
        scores_NME = torch.unflatten(x_ND @ router.weight.T, -1, (router.n_head, router.n_expert))
        for m in range(router.n_head):
            scores_NE = scores_NME[:, m]
            best = scores_NE.topk(router.top_k, dim=-1).indices
            load = [(best == e).float().mean().item() for e in range(router.n_expert)]
            likely = scores_NE.softmax(-1).mean(0).tolist()
            terms.append(router.n_expert * sum(f * p for f, p in zip(load, likely, strict=True)))
    return sum(terms) / len(terms)


def test_balance_is_that_of_all_routers_in_the_last_pass_in_training_mode() -> None:
    model, seen = training(), []
    keep_balance(model)
    model(ids(2))
    handles = [router.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for router in routers(model)]
    model(ids())
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        model.eval()(ids(3))  # leaves nothing behind
        assert balance_loss(model).item() == pytest.approx(balance_by_hand(model, seen), rel=1e-5)


def test_balance_trains_routers_and_leaves_experts_alone() -> None:
    """A router's scores come from the layers below it, so only what the last routers cannot see is sure to be still."""
    model = training()
    keep_balance(model)
    model(ids())
    balance_loss(model).backward()
    assert all(router.weight.grad is not None and router.weight.grad.norm() > 0 for router in routers(model))
    assert model.blocks[-1].attention.value.weight.grad is None
    assert model.blocks[0].attention.value.weight.grad.norm() > 0


def test_balance_that_nobody_asked_for_is_not_there() -> None:
    model = training()
    before = [router.balance for router in routers(model)]
    model(ids())
    assert all(router.balance is kept for router, kept in zip(routers(model), before, strict=True))
    for unasked in (model, dense()):
        with pytest.raises(RuntimeError, match="call keep_balance"):
            balance_loss(unasked)


@pytest.mark.parametrize("experts", [ROUTINGS[0], ROUTINGS[3]], ids=["sigmoid", "softmax"])
def test_compiled_the_loss_and_its_balance_have_the_same_gradients(experts: SwitchHeadConfig) -> None:
    """Traced and differentiated as a whole, which is where state left behind could be lost; without the slow last
    step, which makes machine code of it."""
    model = training(experts, MODERN)
    keep_balance(model)
    found = []
    for forward in (model, torch.compile(model, dynamic=False, fullgraph=True, backend="aot_eager")):
        for batch in (ids(3), ids(3).flip(0).flip(1)):  # the second runs what the first compiled
            model.zero_grad()
            loss = F.cross_entropy(forward(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
            (loss + balance_loss(model)).backward()
        found.append([balance_loss(model), *(parameter.grad for parameter in model.parameters())])
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, atol=1e-6, rtol=1e-4)
