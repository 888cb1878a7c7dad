"""The switch from dense to experts: an exact one must not be felt, another exchanges attention and nothing else."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.dense import CONFIG, dense, ids, rng
from troupe.conversion.attention import Conversion, convert, folded
from troupe.errors import ArtifactError
from troupe.models.gpt2 import GPT
from troupe.models.layers import KVCache
from troupe.models.switchhead import SwitchHeadConfig, expert_usage

DEPARTED = replace(CONFIG, positions="rotary", norm="rms", activation="relu2", qk_norm=True, conv=4, bias=False)
SIGMOID = SwitchHeadConfig(3, 6, n_expert=4, top_k=2, router="sigmoid")
SOFTMAX = SwitchHeadConfig(3, 6, n_expert=4, top_k=1, router="softmax")
FEWER = SwitchHeadConfig(1, 8, n_expert=4, top_k=2, router="sigmoid")
EXACT = [SIGMOID, SOFTMAX, replace(SIGMOID, n_expert=5, top_k=3), replace(SOFTMAX, n_expert=3, top_k=2)]
EXACT += [replace(routing, n_expert=1, top_k=1) for routing in (SIGMOID, SOFTMAX)]
every_routing = pytest.mark.parametrize("experts", EXACT, ids=lambda c: f"{c.router}-{c.top_k}of{c.n_expert}")


@every_routing
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["fp32", "fp64"])
def test_an_exact_switch_is_not_felt(experts: SwitchHeadConfig, dtype: torch.dtype, bound: float) -> None:
    """The logits move by rounding only; the dense model is left as it was."""
    before = dense(dtype)
    kept = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    with torch.no_grad():
        difference = convert(before, experts, "exact", rng(1))(ids()) - before(ids())
        assert before(ids()).std() > 0.5
    assert difference.abs().max() <= bound
    assert all(torch.equal(kept[name], tensor) for name, tensor in before.state_dict().items())


def test_an_exact_switch_is_not_felt_by_a_model_that_departs_from_gpt2() -> None:
    before = dense(torch.float64, DEPARTED)
    experts = convert(before, SIGMOID, "exact", rng(1))
    pieces, cache = ids().split([5, 1, 6], dim=1), KVCache(DEPARTED.n_layer, DEPARTED.block_size)
    with torch.no_grad():
        torch.testing.assert_close(experts(ids()), before(ids()), atol=1e-8, rtol=0)
        cached = torch.cat([experts(piece, cache) for piece in pieces], dim=1)
        torch.testing.assert_close(cached, experts(ids()), atol=1e-10, rtol=0)


@pytest.mark.parametrize("how", ["exact", "scratch"])
def test_it_keeps_dtype_and_mode_and_follows_its_seed(how: Conversion) -> None:
    model = convert(dense(torch.float64).train(), SIGMOID, how, rng(1))
    assert model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    again, other = (convert(dense(torch.float64), SIGMOID, how, rng(seed)).state_dict() for seed in (1, 2))
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())
    assert any(not torch.equal(other[name], tensor) for name, tensor in model.state_dict().items())


def test_fresh_attention_may_have_other_heads_and_leaves_the_rest_alone() -> None:
    before = dense(config=DEPARTED)
    model = convert(before, FEWER, "distilled", rng(1))
    old = before.state_dict()
    rest = {name for name in old if ".attention." not in name}
    assert rest == {name for name in model.state_dict() if ".attention." not in name}
    assert all(torch.equal(old[name], model.state_dict()[name]) for name in rest)
    with torch.no_grad():
        assert model(ids()).shape == before(ids()).shape


def test_an_exact_switch_cannot_change_the_heads() -> None:
    with pytest.raises(ValueError, match="keeps the 3 heads of 6; 1 heads of 8 need another"):
        convert(dense(), FEWER, "exact", rng())


def test_experts_cannot_be_converted_again() -> None:
    with pytest.raises(TypeError, match="not one with SwitchHead"):
        convert(convert(dense(), SIGMOID, "exact", rng()), SIGMOID, "exact", rng())


def test_fresh_attention_puts_out_little() -> None:
    """So that a model whose other weights are kept is little disturbed: less than the dense attention it replaces."""
    before = dense(config=DEPARTED)
    given = torch.randn(4, 12, DEPARTED.n_embd, generator=rng())
    for how in ("distilled", "scratch"):
        model = convert(before, SIGMOID, how, rng(1))
        with torch.no_grad():
            for fresh, old in zip(model.blocks, before.blocks, strict=True):
                assert fresh.attention(given).norm() < 0.3 * old.attention(given).norm()


def spread_of_experts(model: GPT) -> Tensor:
    """(L, H): how far apart the value experts of a head are, as the largest distance over the norm of the first."""
    layers = []
    for block in model.blocks:
        experts_HEKD = torch.unflatten(block.attention.value.weight.detach(), 0, (CONFIG.n_head, 4, -1))
        distance_HE = (experts_HEKD - experts_HEKD[:, :1]).flatten(2).norm(dim=-1)
        layers.append(distance_HE.amax(-1) / experts_HEKD[:, 0].flatten(1).norm(dim=-1))
    return torch.stack(layers)


@pytest.mark.parametrize("experts", [SIGMOID, SOFTMAX], ids=["sigmoid", "softmax"])
def test_copies_are_all_used_at_the_switch_and_separate_when_trained(experts: SwitchHeadConfig) -> None:
    model = convert(dense(), experts, "exact", rng(1))
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


@every_routing
def test_experts_that_are_copies_fold_into_dense_attention(experts: SwitchHeadConfig) -> None:
    """What an exact conversion has made comes back: the same logits, with shared heads and without."""
    for config in (CONFIG, DEPARTED, replace(DEPARTED, n_kv_head=1, norm_eps=1e-5, tied=False, mlp_width=20)):
        before = dense(torch.float64, config)
        after = folded(convert(before, experts, "exact", rng(1)))
        assert after.description()[0] == "gpt2"
        with torch.no_grad():
            torch.testing.assert_close(after(ids()), before(ids()), atol=1e-10, rtol=0)


def test_experts_that_differ_and_gates_that_depend_on_the_token_do_not_fold() -> None:
    whole = dense()
    assert folded(whole) is whole
    apart = convert(whole, SIGMOID, "exact", rng(1))
    with torch.no_grad():
        apart.blocks[1].get_parameter("attention.value.weight")[0, 0] += 1e-3
    with pytest.raises(ArtifactError, match="they differ from each other; give --model pretrain"):
        folded(apart)
    routed = convert(whole, SIGMOID, "exact", rng(1))
    with torch.no_grad():
        routed.blocks[0].get_parameter("attention.router.weight").mul_(1e9)
    with pytest.raises(ArtifactError, match="their gates differ by token"):
        folded(routed)
