"""Causal scaled dot-product attention (Vaswani et al. 2017, 1706.03762, section 3.2.1).

Axes: B batch, T new tokens, S all tokens so far, H heads, K head width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SCORES = 2**27  # how many the backward pass of compiled attention may hold at a time, in float32 and more than once
NEVER = 1e30  # taken from the score of a later token
BFLOAT16_UNITS = bool(torch.cpu.get_capabilities().get("amx_bf16"))


def causal_attention(q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, mask_B11S: Tensor | None = None) -> Tensor:
    """(B, H, T, K): attention of the last T of S tokens, each over itself and those before it; or of one token of each
    text over those that `mask_B11S`, which is added to the scores, leaves it. Keys and values may have fewer heads,
    each for as many neighbouring ones of queries.

    On a CPU torch's bfloat16 kernel is slow backwards. So under autocast attention is float32 there or, where
    torch.compile can fuse what it is made of and there are units for bfloat16, `CompiledAttention`. Once that kernel is
    as fast, as `python -m benchmarks.training` shows, all of this is F.scaled_dot_product_attention.
    """
    T, S, shared = q_BHTK.size(2), k_BHSK.size(2), q_BHTK.size(1) // k_BHSK.size(1)
    if shared > 1 and T == 1:  # heads that share keys stand as so many tokens, and no key is copied
        q_BGHK = torch.unflatten(q_BHTK, 1, (-1, shared)).squeeze(3)
        return F.scaled_dot_product_attention(q_BGHK, k_BHSK, v_BHSK, mask_B11S).reshape(q_BHTK.shape)
    if shared > 1:
        k_BHSK, v_BHSK = (one.repeat_interleave(shared, dim=1) for one in (k_BHSK, v_BHSK))
    if mask_B11S is not None:
        return F.scaled_dot_product_attention(q_BHTK, k_BHSK, v_BHSK, mask_B11S)
    mask = None
    if 1 < T < S:
        mask = torch.ones(T, S, dtype=torch.bool, device=q_BHTK.device).tril(S - T)
    if q_BHTK.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return F.scaled_dot_product_attention(q_BHTK, k_BHSK, v_BHSK, mask, is_causal=T == S)
    if torch.compiler.is_compiling() and T == S and BFLOAT16_UNITS and q_BHTK[..., 0].numel() * S <= SCORES:
        return _compiled(q_BHTK.bfloat16(), k_BHSK.bfloat16(), v_BHSK.bfloat16())
    with torch.autocast("cpu", enabled=False):
        q, k, v = q_BHTK.float(), k_BHSK.float(), v_BHSK.float()
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=T == S)


def _compiled(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
    # of views, as they come from one projection, torch 2.13's compiler took a tensor in another layout than it had
    contiguous = (one_BHTK.contiguous() for one_BHTK in (q_BHTK, k_BHTK, v_BHTK))
    y_BHTK: Tensor = CompiledAttention.apply(*contiguous)  # type: ignore[no-untyped-call]
    return y_BHTK


class CompiledAttention(torch.autograd.Function):
    """Forward by torch's kernel for CPUs, which keeps ln of each row's sum; backward by products of whole matrices with
    the weights computed anew from it (Dao et al. 2022, FlashAttention, 2205.14135, section B.2, without the tiles).
    Half of what is computed is masked, and still it takes less time: most products run on bfloat16 units. Scores
    are float32, as the kernel's are: large ones in bfloat16 would be off by more than a weight can bear."""

    @staticmethod
    def forward(ctx: Any, q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Any:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        y_BHTK, log_sum_BHT = kernel(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
        ctx.save_for_backward(q_BHTK, k_BHTK, v_BHTK, y_BHTK, log_sum_BHT)
        return y_BHTK

    @staticmethod
    def backward(ctx: Any, dy_BHTK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dy_BHTK = dy_BHTK.contiguous()
        q_BHTK, k_BHTK, v_BHTK, y_BHTK, log_sum_BHT = ctx.saved_tensors
        T, scale = q_BHTK.size(2), q_BHTK.size(3) ** -0.5
        position_T = torch.arange(T, dtype=torch.int32)
        mask_TT = ((position_T.unsqueeze(1) - position_T) >> 31) * NEVER  # -1 >> 31 is -1; a Boolean would be slower
        with torch.autocast("cpu", enabled=False):  # the compiler traces this pass where autocast is on
            scores_BHTT = scale * (q_BHTK.float() @ k_BHTK.float().mT)
        weights_BHTT = torch.exp(scores_BHTT + mask_TT - log_sum_BHT.unsqueeze(-1))
        mean_BHT1 = (dy_BHTK.float() * y_BHTK.float()).sum(-1, keepdim=True)
        ds_BHTT = (scale * weights_BHTT * ((dy_BHTK @ v_BHTK.mT).float() - mean_BHT1)).bfloat16()
        return ds_BHTT @ k_BHTK, ds_BHTT.mT @ q_BHTK, weights_BHTT.bfloat16().mT @ dy_BHTK
