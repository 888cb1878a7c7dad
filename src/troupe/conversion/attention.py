"""A dense model with its attention exchanged for experts, everything else kept.

Axes: D model width, H heads of the dense model, E experts per head, K head width.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from troupe.errors import ArtifactError
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, CausalSelfAttention
from troupe.models.switchhead import SwitchHead, SwitchHeadConfig, init_attention
from troupe.params import MoeParams

Conversion = Literal["exact", "distilled", "scratch"]

# Scores this small order the experts, yet leave every gate where a score of zero has it, to 1e-10 in the logits.
ROUTER_STD_AT_SWITCH = 1e-12
LARGEST_SCORE = 10 * ROUTER_STD_AT_SWITCH  # of a router's weight, to be taken for one that has not been trained
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


def folded(model: GPT) -> GPT:
    """A dense model that computes what `model` computes: its experts must be copies of each other and their gates have
    the same sum for every token. Of a dense model, itself, and of one that has more than a network.

    Raises ArtifactError, saying which of both it is that does not hold.
    """
    layers = [block.get_submodule("attention") for block in model.blocks]
    if model.description()[0] != "switchhead":
        return model
    experts = next(layer.experts for layer in layers if isinstance(layer, SwitchHead))
    config = replace(model.config, n_head=experts.n_head, head_width=experts.head_width, n_kv_head=None)
    if config.attention_width == config.n_embd:
        config = replace(config, head_width=None)
    dense = GPT(config).to(next(model.parameters()))
    kept = {name: tensor for name, tensor in model.state_dict().items() if ".attention." not in name}
    dense.load_state_dict(kept, strict=False)
    for block, layer in zip(dense.blocks, layers, strict=True):
        attention = block.get_submodule("attention")
        assert isinstance(attention, CausalSelfAttention) and isinstance(layer, SwitchHead)  # noqa: PT018 - for mypy
        _fold(layer, attention)
    return dense.train(model.training)


def _fold(layer: SwitchHead, dense: CausalSelfAttention) -> None:
    experts = layer.experts
    share = _sum_of_gates(layer)
    shape = (experts.n_head, experts.n_expert, experts.head_width)
    dense.prepare.load_state_dict(layer.prepare.state_dict())
    with torch.no_grad():
        for theirs, mine in layer.named_parameters(recurse=True):
            if theirs.partition(".")[0] not in ("value", "output") or theirs == "output.bias":
                continue
            rows = mine.T if theirs == "output.weight" else mine
            if not torch.equal(of := torch.unflatten(rows, 0, shape), of[:, :1].expand_as(of)):
                raise ArtifactError("experts cannot be exported: they differ from each other; give --model pretrain")
        values = [share * _first(part, shape) for part in (layer.value.weight, layer.value.bias) if part is not None]
        both = [part for part in (layer.query_key.weight, layer.query_key.bias) if part is not None]
        targets = [part for part in (dense.query_key_value.weight, dense.query_key_value.bias) if part is not None]
        for target, query_key, value in zip(targets, both, values, strict=True):
            target.copy_(torch.cat([query_key, value]))
        dense.output.weight.copy_(share * _first(layer.output.weight.T, shape).T)
        if dense.output.bias is not None:
            dense.output.bias.copy_(layer.output.bias)


def _sum_of_gates(layer: SwitchHead) -> float:
    experts = layer.experts
    if experts.router == "softmax" and experts.top_k == experts.n_expert:
        return 1.0
    if layer.router.weight.abs().max() > LARGEST_SCORE:
        raise ArtifactError("experts cannot be exported: their gates differ by token; give --model pretrain")
    return experts.top_k * (1 / 2 if experts.router == "sigmoid" else 1 / experts.n_expert)


def _first(rows: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(H*E*K, ...) -> (H*K, ...): of every head its first expert."""
    return torch.unflatten(rows, 0, shape)[:, 0].flatten(0, 1)


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
    sigmoid, k/E for softmax), so that the mixture is the dense projection. Heads that share keys and values get a copy
    each.

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
        _fill(layer.query_key, dense.query_key_value, lambda rows: torch.cat(_parts(dense, rows)[:2]))
        _fill(layer.value, dense.query_key_value, lambda rows: share * copies(_parts(dense, rows)[2]))
        layer.output.weight.copy_(share * copies(dense.output.weight.T).T)
        if dense.output.bias is not None:
            layer.output.bias.copy_(dense.output.bias)
        drawn = torch.randn(layer.router.weight.shape, generator=rng, device=rng.device)
        layer.router.weight.copy_(ROUTER_STD_AT_SWITCH * drawn)
    return layer


def _parts(dense: CausalSelfAttention, rows: Tensor) -> list[Tensor]:
    """The rows of queries, keys and values, (H*K, ...) each: shared ones once for every head of queries."""
    H, K = dense.config.n_head, dense.config.attention_width // dense.config.n_head
    heads = [torch.unflatten(part, 0, (-1, K)) for part in torch.split(rows, list(dense.widths))]
    return [of_heads.repeat_interleave(H // len(of_heads), dim=0).flatten(0, 1) for of_heads in heads]


def _fill(target: torch.nn.Linear, source: torch.nn.Linear, rows: Callable[[Tensor], Tensor]) -> None:
    """Weight and bias of `target` from the chosen `rows` of those of `source`."""
    for mine, theirs in ((target.weight, source.weight), (target.bias, source.bias)):
        if theirs is not None:
            mine.copy_(rows(theirs))


def _copies(rows: Tensor, n_head: int, n_expert: int) -> Tensor:
    """(H*K, ...) -> (H*E*K, ...): the rows of each head E times over."""
    per_head = torch.unflatten(rows, 0, (n_head, 1, -1))
    return per_head.expand(-1, n_expert, *per_head.shape[2:]).flatten(0, 2)
