"""Mixtures of experts: a router against its definition, and three ways to compute one sum."""

import copy
import itertools
import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.numerics import roundings
from troupe.models.experts import Computation, Router, balance, chosen, fastest_computation, mix_outputs, mix_values
from troupe.params import grouped_fault

COMPUTATIONS: list[Computation] = ["dense", "loop", "grouped"]
DIMENSIONS = st.fixed_dictionaries(
    {
        "N": st.integers(1, 9),
        "M": st.integers(1, 3),
        "E": st.integers(1, 5),
        "K": st.sampled_from([4, 8, 12]),
        "D": st.sampled_from([4, 8, 20]),
        "seed": st.integers(0, 1000),
        "biased": st.booleans(),
    }
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gates(scores_NME: Tensor, top_k: int) -> Tensor:
    return scores_NME.sigmoid() * chosen(scores_NME, top_k)


def results(
    mix: Any, computation: Computation, x: Tensor, gates_NME: Tensor, weight: Tensor, bias: Tensor | None
) -> Iterator[Tensor]:
    """The value of a mixture, and its gradients by all that goes into it."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, gates_NME, weight, bias) if tensor is not None]
    y = mix(*leaves[:3], leaves[3] if bias is not None else None, computation)
    yield y
    yield from torch.autograd.grad((y * torch.randn(y.shape, generator=rng(), dtype=y.dtype)).sum(), leaves)


@settings(max_examples=60, deadline=None)
@given(DIMENSIONS, st.data())
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["fp32", "fp64"])
def test_the_ways_agree(dtype: torch.dtype, bound: float, of: dict[str, Any], data: st.DataObject) -> None:
    """Values and gradients, for any dimensions; of few tokens some experts get none. grouped knows no float64.

    The gate's own gradient is compared where the gate is open: dense alone differentiates by a gate that is closed,
    and the router multiplies that by zero.
    """
    N, M, E, K, D = (of[name] for name in "NMEKD")

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng(of["seed"] + len(shape) + math.prod(shape)), dtype=dtype)

    gates_NME = gates(draw(N, M, E), data.draw(st.integers(1, E), "top_k"))
    bias_values, bias_outputs = (draw(M * E * K), draw(D)) if of["biased"] else (None, None)
    cases = [
        (mix_values, draw(N, D), draw(M * E * K, D) / D**0.5, bias_values),
        (mix_outputs, draw(N, M, K), draw(D, M * E * K) / K**0.5, bias_outputs),
    ]
    for mix, x, weight, bias in cases:
        y, dx, dgates, *dweights = results(mix, "dense", x, gates_NME, weight, bias)
        expected = [y, dx, dgates * (gates_NME != 0), *dweights]
        for computation in ("loop", "grouped") if dtype == torch.float32 else ("loop",):
            y, dx, dgates, *dweights = results(mix, computation, x, gates_NME, weight, bias)
            found = [y, dx, dgates * (gates_NME != 0), *dweights]
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, atol=bound, rtol=bound)


@pytest.mark.parametrize("computation", COMPUTATIONS)
def test_a_mixture_by_hand(computation: Computation) -> None:
    """One token x = (1, 2, 0, 0), two heads of two experts: head 0 opens its first by 1/2, head 1 its second
    by 1/4. Expert z maps every input to z + 1 times the sum of x, 3(z + 1), four times over, plus a bias of 8:
    head 0 gets (3 + 8)/2 = 5.5, head 1 (12 + 8)/4 = 5. Out again, expert z adds z + 1 times the sum over the head,
    gated: 22/2 * 1 + 20/4 * 4 = 31, and the bias of 1.
    """
    gates_NME = torch.tensor([[[0.5, 0.0], [0.0, 0.25]]])
    factor_Z = torch.tensor([1.0, 2.0, 3.0, 4.0])
    weight = factor_Z.repeat_interleave(4).unsqueeze(1).expand(16, 4).contiguous()
    v_NMK = mix_values(torch.tensor([[1.0, 2.0, 0.0, 0.0]]), gates_NME, weight, torch.full((16,), 8.0), computation)
    assert v_NMK.tolist() == [[[5.5] * 4, [5.0] * 4]]
    y_ND = mix_outputs(v_NMK, gates_NME, weight.T.contiguous(), torch.ones(4), computation)
    assert y_ND.tolist() == [[32.0] * 4]


@pytest.mark.parametrize("computation", COMPUTATIONS)
def test_the_ways_round_alike_under_autocast(computation: Computation) -> None:
    x_ND, gates_NME = torch.randn(20, 16, generator=rng()), gates(torch.randn(20, 2, 4, generator=rng(1)), 2)
    weight = torch.randn(2 * 4 * 8, 16, generator=rng(2)) / 4
    exact = mix_values(x_ND, gates_NME, weight, None, "dense")
    with torch.autocast("cpu", torch.bfloat16):
        v_NMK = mix_values(x_ND, gates_NME, weight, None, computation)
        y_ND = mix_outputs(v_NMK, gates_NME, weight.T.contiguous(), None, computation)
    assert v_NMK.dtype == y_ND.dtype == torch.bfloat16
    sizes = mix_values(x_ND.abs(), gates_NME, weight.abs(), None, "dense")  # of what is added up
    rounded = roundings(5, 0.5, torch.bfloat16)  # of inputs, weights, products, gates, sums
    assert ((v_NMK.float() - exact).abs() <= rounded * sizes).all()


def test_the_way_follows_what_pays_and_what_the_kernel_takes() -> None:
    x = torch.zeros(2, 3, 64)
    assert fastest_computation(x, head_width=64, n_expert=8, top_k=2) == "grouped"
    assert fastest_computation(x, head_width=64, n_expert=4, top_k=2) == "dense"
    assert fastest_computation(x.double(), head_width=64, n_expert=8, top_k=2) == "dense"
    assert fastest_computation(x, head_width=6, n_expert=8, top_k=2) == "dense"
    with torch.autocast("cpu", torch.bfloat16):
        assert fastest_computation(x, head_width=64, n_expert=8, top_k=2) == "dense"
    assert fastest_computation(x.to("meta"), head_width=64, n_expert=8, top_k=2) == "dense"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("D", "K"), [(8, 8), (12, 8), (8, 12), (8, 6), (6, 8), (16, 24)])
def test_what_the_grouped_kernel_refuses_is_foretold(dtype: torch.dtype, D: int, K: int) -> None:
    gates_NME = gates(torch.randn(9, 2, 4, generator=rng()), 2)
    x_ND, weight = torch.randn(9, D, generator=rng(1)), torch.randn(2 * 4 * K, D, generator=rng(2)).requires_grad_()
    fault = grouped_fault(D, K, str(dtype).removeprefix("torch."), compiled=False)
    refused = pytest.raises(RuntimeError, match="16 bytes") if fault else nullcontext()
    with refused, torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        v_NMK = mix_values(x_ND, gates_NME, weight, None, "grouped")
        mix_outputs(v_NMK, gates_NME, weight.T.contiguous(), None, "grouped").float().sum().backward()


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=7), st.data())
def test_the_best_are_chosen_and_of_equal_ones_the_first(scores: list[int], data: st.DataObject) -> None:
    top_k = data.draw(st.integers(1, len(scores)))
    best = sorted(range(len(scores)), key=lambda e: -scores[e])[:top_k]  # a stable sort
    found = chosen(torch.tensor([[scores]], dtype=torch.float32), top_k)
    assert found.flatten().nonzero().flatten().tolist() == sorted(best)


def test_gates_are_open_for_the_chosen_alone_and_not_renormalised() -> None:
    x_ND = torch.randn(30, 6, generator=rng())
    for kind, law in (("sigmoid", torch.sigmoid), ("softmax", lambda scores: scores.softmax(-1))):
        router = Router(6, 2, 4, 2, kind, 0.0)
        scores_NME = (x_ND @ router.weight.T).unflatten(-1, (2, 4))
        open_NME = scores_NME >= scores_NME.sort(-1).values[..., -2:-1]
        torch.testing.assert_close(router(x_ND), torch.where(open_NME, law(scores_NME), 0.0))


# What a batch goes without


def dropping(share: float, n_expert: int = 8, top_k: int = 2) -> Router:
    return Router(16, 4, n_expert, top_k, "sigmoid", share)


def test_an_expert_left_out_is_left_out_for_the_whole_batch() -> None:
    """Of 512 tokens every expert of 8 gets some, so one without any has been left out; about a quarter of 32 are, in
    each of 200 batches: 1600 expected of 6400, standard deviation sqrt(6400 * 3/16) = 35. k are chosen all the same.
    """
    torch.manual_seed(0)
    router, x_ND = dropping(0.25), torch.randn(512, 16)
    assert (router.eval()(x_ND) != 0).any(0).all()
    router.train()
    out = 0
    for _ in range(200):
        open_NME = router(x_ND) != 0
        assert (open_NME.sum(-1) == 2).all()
        out += int((~open_NME.any(0)).sum())
    assert abs(out - 1600) < 5 * 35


def test_gates_of_those_that_stay_are_what_they_were() -> None:
    torch.manual_seed(0)
    router, x_ND = dropping(0.5), torch.randn(64, 16)
    scores_NME = (x_ND @ router.weight.T).unflatten(-1, (4, 8))
    gates_NME = router(x_ND)
    torch.testing.assert_close(gates_NME, torch.where(gates_NME != 0, scores_NME.sigmoid(), 0.0))


def test_nothing_is_left_out_in_eval_mode_or_with_a_share_of_zero_and_no_number_is_drawn() -> None:
    x_ND = torch.randn(64, 16, generator=rng())
    for router in (dropping(0.9).eval(), dropping(0.0).train()):
        scores_NME = (x_ND @ router.weight.T).unflatten(-1, (4, 8))
        before = torch.get_rng_state()
        torch.testing.assert_close(router(x_ND), gates(scores_NME, 2))
        assert torch.equal(torch.get_rng_state(), before)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.floats(0.1, 0.99), st.sampled_from([1e-4, 1.0, 10.0]), st.integers(0, 1000), st.data())
def test_those_that_stay_come_first_and_then_those_left_out_each_by_its_score(
    n_expert: int, share: float, scale: float, seed: int, data: st.DataObject
) -> None:
    """Against a sort by (left out, score) of what the same random numbers leave out."""
    router = dropping(share, n_expert, top_k=data.draw(st.integers(1, n_expert), "top_k"))
    x_ND = scale * torch.randn(16, 16, generator=rng(seed))
    torch.manual_seed(seed)
    opened_NME = router(x_ND) != 0
    torch.manual_seed(seed)
    out_ME = torch.rand(4, n_expert) < share
    scores_NME = F.linear(x_ND, router.weight).unflatten(-1, (4, n_expert))
    for token, head in itertools.product(range(16), range(4)):
        out, scores = out_ME[head].tolist(), scores_NME[token, head].tolist()
        ranked = sorted(range(n_expert), key=list(zip(out, (-score for score in scores), strict=True)).__getitem__)
        assert opened_NME[token, head].nonzero().flatten().tolist() == sorted(ranked[: router.top_k])


def test_where_all_are_left_out_it_is_as_if_none_were() -> None:
    """So no expert is favoured by its number: nothing but the scores decides."""
    router, x_ND = dropping(1.0, n_expert=3), torch.randn(64, 16, generator=rng())
    assert torch.equal(router.train()(x_ND), router.eval()(x_ND))


def test_expert_dropout_follows_the_experts_not_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renumbered, and left out as before, they have the same gates in other places."""
    router, x_ND, order = dropping(0.7), torch.randn(64, 16, generator=rng()), torch.randperm(8, generator=rng())
    drawn_ME = torch.rand(4, 8, generator=rng(1))
    monkeypatch.setattr(torch, "rand", lambda *_, **__: drawn_ME)
    gates_NME = router(x_ND)
    assert ((drawn_ME >= 0.7).sum(-1) < 2).any(), "in some head fewer than two are left"
    with torch.no_grad():
        router.weight.copy_(router.weight.unflatten(0, (4, 8))[:, order].flatten(0, 1))
    monkeypatch.setattr(torch, "rand", lambda *_, **__: drawn_ME[:, order])
    torch.testing.assert_close(router(x_ND), gates_NME[..., order])


def test_expert_dropout_follows_the_seed() -> None:
    router, x_ND = dropping(0.5), torch.randn(8, 16, generator=rng())
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(router(x_ND))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


# Balance


@pytest.mark.parametrize(("E", "top_k"), [(4, 1), (6, 2), (5, 5)])
def test_even_use_costs_one(E: int, top_k: int) -> None:
    """Each token prefers its own expert and those after it, in turns: every expert is chosen and probable alike."""
    wheel_EE = torch.stack([torch.arange(E, dtype=torch.float64).roll(shift) for shift in range(E)])
    scores_NME = wheel_EE.unsqueeze(1).expand(E, 3, E)
    assert balance(scores_NME, chosen(scores_NME, top_k)).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("E", "top_k"), [(4, 1), (6, 2)])
def test_collapse_costs_e_over_k(E: int, top_k: int) -> None:
    """All tokens choose the same k, with all the probability: k experts, each E * (1/k) * (1/k), make E/k."""
    scores_NME = torch.zeros(7, 3, E)
    scores_NME[..., :top_k] = 100.0
    assert balance(scores_NME, chosen(scores_NME, top_k)).item() == pytest.approx(E / top_k)


def test_balance_by_hand() -> None:
    """Of 4 tokens 3 choose expert 0, with probability 3/4 each, and one expert 1, with 3/4: probabilities (5/8, 3/8),
    loads (3/4, 1/4), so 2 * (3/4 * 5/8 + 1/4 * 3/8) = 9/8."""
    lead = math.log(3)
    scores_NME = torch.tensor([[[lead, 0.0]], [[lead, 0.0]], [[lead, 0.0]], [[0.0, lead]]])
    assert balance(scores_NME, chosen(scores_NME, 1)).item() == pytest.approx(9 / 8)


def test_a_router_can_be_copied_after_a_pass() -> None:
    router, x_ND = Router(8, 2, 4, 1, "sigmoid", 0.0), torch.randn(32, 8, generator=rng())
    router.keeps_balance = True
    router(x_ND)
    kept, twin = router.balance, copy.deepcopy(router)
    assert router.balance is kept
    twin(x_ND)
    assert twin.balance.item() == kept.item()
    twin.balance.backward()
    assert router.weight.grad is None, "a copy of its own"


def test_gradient_descent_on_balance_alone_undoes_a_collapse() -> None:
    """Also where scores are as close as after an exact conversion, which their softmax hardly tells from even."""
    torch.manual_seed(0)
    router, x_ND = Router(8, 2, 4, 1, "sigmoid", 0.0), torch.randn(256, 8) + 1
    with torch.no_grad():
        router.weight.copy_(1e-3 * torch.randn(router.weight.shape))
        router.weight[::4] += 1e-2  # the first of each head
    used = (router(x_ND) != 0).float().mean(0)
    assert (used.amax(-1) > 0.9).all()
    router.keeps_balance = True
    optimizer = torch.optim.Adam(router.parameters(), lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        router(x_ND)
        router.balance.backward()
        optimizer.step()
    used = (router(x_ND) != 0).float().mean(0)
    assert (used.amax(-1) < 0.5).all()
