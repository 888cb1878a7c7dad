"""A dense model with its attention exchanged for experts, everything else kept.

Axes: D model width, H heads of the dense model, E experts per head, K head width.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, CausalSelfAttention
from troupe.models.switchhead import SwitchHead, SwitchHeadConfig, init_attention
from troupe.params import MoeParams

Conversion = Literal["exact", "distilled", "scratch"]

# Scores this small order the experts, yet leave every gate where a score of zero has it, to 1e-10 in the logits.
ROUTER_STD_AT_SWITCH = 1e-12
# Smaller than for training from scratch: what is to be taught starts from little. docs/results has others tried.
SCALE_OF_FRESH_ATTENTION = 0.3


def experts_wanted(moe: MoeParams, dense: GPTConfig) -> SwitchHeadConfig:
    """What section moe of params.yaml asks for; heads that it leaves open are those of the dense model."""
    return SwitchHeadConfig(
        n_head=moe.n_head or dense.n_head,
        head_width=moe.head_width or dense.attention_width // dense.n_head,
        n_expert=moe.n_expert,
        top_k=moe.top_k,
        router=moe.router,
        expert_dropout=moe.expert_dropout,
        compute=moe.compute,
    )


def convert(dense: GPT, experts: SwitchHeadConfig, how: Conversion, rng: torch.Generator) -> GPT:
    """A copy of `dense` with attention experts, on the same device; `dense` itself stays as it is.

    exact: the copy computes what `dense` computes, with as many and as wide heads (`_copied`). distilled, scratch:
    attention of any shape with the same random weights; of these two the first is then to be taught by `dense`
    (distillation.py). Both start small, unlike a model trained from scratch as a whole: everything around them expects
    attention that has learned, and is least disturbed by one that puts out little. With the paper's sqrt(2/n_layer)
    training ended 0.002 nats per token worse (3 layers, one seed: within what seeds differ by).

    Raises TypeError if `dense` has experts already, and ValueError if an exact conversion has other heads than it.
    """
    layers = [_dense(block.get_submodule("attention")) for block in dense.blocks]
    model = copy.deepcopy(dense)
    build = _copied if how == "exact" else _fresh
    for block, layer in zip(model.blocks, layers, strict=True):
        block.attention = build(layer, experts, rng)
    return model.train(dense.training)


def _dense(attention: torch.nn.Module) -> CausalSelfAttention:
    if not isinstance(attention, CausalSelfAttention):
        raise TypeError(f"convert takes a dense model, not one with {type(attention).__name__}")
    return attention


def _fresh(dense: CausalSelfAttention, experts: SwitchHeadConfig, rng: torch.Generator) -> SwitchHead:
    layer = SwitchHead(dense.config, experts)
    init_attention(layer, rng, SCALE_OF_FRESH_ATTENTION)
    return layer.to(dense.output.weight)


def _copied(dense: CausalSelfAttention, experts: SwitchHeadConfig, rng: torch.Generator) -> SwitchHead:
    """Every expert a copy of its head's dense projection, divided by the sum of the k gates at score zero (k/2 for
    sigmoid, k/E for softmax), so that the mixture is the dense projection.

    Routers start as random directions, too small to move a gate by more than rounding: which experts are the top k
    still differs from token to token, so that copies receive different gradients and separate from the first step.
    """
    H, K = dense.config.n_head, dense.config.attention_width // dense.config.n_head
    if (experts.n_head, experts.head_width) != (H, K):
        wanted = f"{experts.n_head} heads of {experts.head_width}"
        raise ValueError(f"an exact conversion keeps the {H} heads of {K}; {wanted} need another")
    gate_at_zero = 1 / 2 if experts.router == "sigmoid" else 1 / experts.n_expert
    share = 1 / (experts.top_k * gate_at_zero)
    layer = SwitchHead(dense.config, experts).to(dense.output.weight)
    layer.prepare.load_state_dict(dense.prepare.state_dict())
    copies = partial(_copies, n_head=H, n_expert=experts.n_expert)
    with torch.no_grad():
        _fill(layer.query_key, dense.query_key_value, lambda rows: rows[: 2 * H * K])
        _fill(layer.value, dense.query_key_value, lambda rows: share * copies(rows[2 * H * K :]))
        layer.output.weight.copy_(share * copies(dense.output.weight.T).T)
        if dense.output.bias is not None:
            layer.output.bias.copy_(dense.output.bias)
        drawn = torch.randn(layer.router.weight.shape, generator=rng, device=rng.device)
        layer.router.weight.copy_(ROUTER_STD_AT_SWITCH * drawn)
    return layer


def _fill(target: torch.nn.Linear, source: torch.nn.Linear, rows: Callable[[Tensor], Tensor]) -> None:
    """Weight and bias of `target` from the chosen `rows` of those of `source`."""
    for mine, theirs in ((target.weight, source.weight), (target.bias, source.bias)):
        if theirs is not None:
            mine.copy_(rows(theirs))


def _copies(rows: Tensor, n_head: int, n_expert: int) -> Tensor:
    """(H*K, ...) -> (H*E*K, ...): the rows of each head E times over."""
    per_head = torch.unflatten(rows, 0, (n_head, 1, -1))
    return per_head.expand(-1, n_expert, *per_head.shape[2:]).flatten(0, 2)
