"""Attention, and its backward pass in bfloat16, against attention in float64."""

import pytest
import torch
from torch import Tensor

from troupe.kernels import attention
from troupe.kernels.attention import CompiledAttention, causal_attention


def in_float64(q: Tensor, k: Tensor, v: Tensor, dy: Tensor) -> list[Tensor]:
    """Result and gradients, by the formula."""
    q, k, v = (one.detach().double().requires_grad_() for one in (q, k, v))
    scores = (q @ k.mT) * q.size(-1) ** -0.5
    y = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf).softmax(-1) @ v
    return [y, *torch.autograd.grad(y, (q, k, v), dy.double())]


def inputs(T: int, K: int, spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    q, k, v, dy = (spread * torch.randn(3, 2, T, K) for _ in range(4))
    q, k, v = (one.bfloat16().requires_grad_() for one in (q, k, v))
    return q, k, v, dy.bfloat16()


@pytest.mark.parametrize(("T", "K"), [(1, 8), (2, 16), (64, 32), (100, 48), (256, 64)])
def test_result_and_gradients_are_those_of_float64_within_bfloat16s_rounding(T: int, K: int) -> None:
    q, k, v, dy = inputs(T, K)
    y = CompiledAttention.apply(q, k, v)
    for found, expected in zip([y, *torch.autograd.grad(y, (q, k, v), dy)], in_float64(q, k, v, dy), strict=True):
        assert found.dtype == torch.bfloat16
        assert (found.double() - expected).norm() <= 0.01 * expected.norm() + 0.001 * dy.norm()


def test_far_apart_scores_give_finite_gradients() -> None:
    q, k, v, dy = inputs(64, 32, spread=20.0)
    for gradient in torch.autograd.grad(CompiledAttention.apply(q, k, v), (q, k, v), dy):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("common", [1.0, 2.0])
def test_large_scores_that_all_keys_share_leave_the_gradients_as_good(common: float) -> None:
    """As trained models have them, up to 128 here: no weight depends on them."""
    q, k, v, dy = inputs(128, 64)
    q, k = ((one.detach() + common * 2 * torch.ones(64)).bfloat16().requires_grad_() for one in (q, k))
    found = torch.autograd.grad(CompiledAttention.apply(q, k, v), (q, k, v), dy)
    for one, expected in zip(found, in_float64(q, k, v, dy)[1:], strict=True):
        assert (one.double() - expected).norm() <= 0.03 * expected.norm()


def test_no_gradient_comes_from_the_future() -> None:
    q, k, v, dy = inputs(32, 16)
    dy[:, :, 10:] = 0
    _, dk, dv = torch.autograd.grad(CompiledAttention.apply(q, k, v), (q, k, v), dy)
    assert not dk[:, :, 10:].any()
    assert not dv[:, :, 10:].any()


@pytest.mark.slow
@pytest.mark.parametrize("scores", [attention.SCORES, 10])
@pytest.mark.parametrize("common", [0.0, 4.0])
def test_compiled_under_autocast_it_is_the_same_function_whichever_way_it_goes(
    scores: int, common: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "SCORES", scores)
    monkeypatch.setattr(attention, "BFLOAT16_UNITS", True)
    q, k, v, dy = inputs(64, 32)
    q, k = ((one.detach() + common).bfloat16().requires_grad_() for one in (q, k))
    torch._dynamo.reset()
    with torch.autocast("cpu", torch.bfloat16):
        y = torch.compile(causal_attention, dynamic=False)(q, k, v)
    assert y.dtype == (torch.bfloat16 if scores > 10 else torch.float32)
    found = [y, *torch.autograd.grad(y, (q, k, v), dy.type_as(y))]
    for one, expected in zip(found, in_float64(q, k, v, dy), strict=True):
        assert (one.double() - expected).norm() <= 0.03 * expected.norm()


def test_a_token_of_shared_keys_takes_its_result_in_any_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels need not give contiguous tensors; those of a CPU do for one token, others may have tokens outermost."""
    kernel = torch.nn.functional.scaled_dot_product_attention
    q_BHTK, k_BGSK, v_BGSK = torch.randn(2, 6, 1, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    expected_BHTK = causal_attention(q_BHTK, k_BGSK, v_BGSK)

    def tokens_outermost(*tensors: Tensor | None) -> Tensor:
        return kernel(*tensors).transpose(1, 2).contiguous().transpose(1, 2)

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", tokens_outermost)
    assert causal_attention(q_BHTK, k_BGSK, v_BGSK).equal(expected_BHTK)
