"""SwitchHead: attention whose value and output projections are mixtures of experts, per head (arXiv 2312.07987).

Axes: B batch, T tokens, D model width, H heads, E experts per head, K head width, S all tokens so far, L layers,
R routers of a head (0 routes values, 1 routes outputs).
"""

import copy
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, CausalSelfAttention
from troupe.models.layers import LayerCache, QueryKey, causal_attention, split_heads

# Scores this small order the experts, yet leave every gate where a score of zero has it, to 1e-10 in the logits.
ROUTER_STD_AT_SWITCH = 1e-12


@dataclass(frozen=True)
class SwitchHeadConfig:
    n_head: int
    head_width: int  # of queries, keys and values
    n_expert: int  # per head, for values and, separately, for outputs
    top_k: int
    router: Literal["sigmoid", "softmax"]
    expert_dropout: float = 0.0  # share of the experts that a training batch goes without
    compute: Literal["auto", "dense", "loop", "grouped"] = "auto"  # how experts are computed; the result is the same


class SwitchHead(nn.Module):
    """Dense queries and keys; experts for values and outputs, chosen per token and head by two separate routers.

    In every head v_j = sum over the top k experts e of g_e(x_j) (x_j W_V^e + b_V^e), and y_i sums the heads' attended
    values through W_O^e in the same way. Gates are sigmoids that are not renormalised, or the softmax over all experts.
    With biases, as in GPT-2, there is a value bias per expert, gated with it, and one ungated output bias per layer.

    Every expert is computed and the gates of those not chosen are zero: one matrix product instead of a gather or a
    loop, the fastest form on a CPU while E/k is about 2. The cache holds values after mixing, so it costs no more
    than a dense layer's.
    """

    def __init__(self, config: GPTConfig, experts: SwitchHeadConfig) -> None:
        super().__init__()
        self.config, self.experts = config, experts
        head_width, all_experts = experts.head_width, experts.n_head * experts.n_expert
        self.query_key = nn.Linear(config.n_embd, 2 * experts.n_head * head_width, bias=config.bias)
        self.prepare = QueryKey(config, head_width)
        self.value_router = nn.Linear(config.n_embd, all_experts, bias=False)
        self.value = nn.Linear(config.n_embd, all_experts * head_width, bias=config.bias)
        self.output_router = nn.Linear(config.n_embd, all_experts, bias=False)
        self.output = nn.Linear(all_experts * head_width, config.n_embd, bias=config.bias)

    def forward(self, x_BTD: Tensor, cache: LayerCache | None = None) -> Tensor:
        H, E = self.experts.n_head, self.experts.n_expert
        q, k = (split_heads(y_BTD, H) for y_BTD in self.query_key(x_BTD).chunk(2, dim=-1))
        q, k = self.prepare(q, k, cache.length if cache else 0)
        v_BTHEK = torch.unflatten(self.value(x_BTD), -1, (H, E, -1))
        v = (v_BTHEK * self._gates(self.value_router, x_BTD).type_as(v_BTHEK)).sum(-2).transpose(1, 2)
        if cache is not None:
            k, v = cache.extend(k, v)
        y_BHTK = causal_attention(q, k, v)
        y_BTHEK = y_BHTK.transpose(1, 2).unsqueeze(-2) * self._gates(self.output_router, x_BTD).type_as(y_BHTK)
        return torch.dropout(self.output(y_BTHEK.flatten(2)), self.config.dropout, self.training)

    def _gates(self, router: nn.Module, x_BTD: Tensor) -> Tensor:
        """(B, T, H, E, 1): what each expert counts for; zero for those not among the top k."""
        with torch.autocast(x_BTD.device.type, enabled=False):  # bf16 scores would tie
            scores_BTHE = torch.unflatten(router(x_BTD), -1, (self.experts.n_head, -1))
        gates_BTHE = scores_BTHE.sigmoid() if self.experts.router == "sigmoid" else scores_BTHE.softmax(-1)
        return (gates_BTHE * chosen(scores_BTHE, self.experts.top_k)).unsqueeze(-1)


def chosen(scores_BTHE: Tensor, top_k: int) -> Tensor:
    """(B, T, H, E): one for the `top_k` experts of highest score, zero for the others."""
    return torch.zeros_like(scores_BTHE).scatter(-1, scores_BTHE.topk(top_k, dim=-1).indices, 1.0)


def upcycle(dense: GPT, config: SwitchHeadConfig, rng: torch.Generator) -> GPT:
    """A SwitchHead model that computes what `dense` computes, ready to be trained on (`dense` itself stays as it is).

    Every expert starts as a copy of its head's dense projection, divided by the sum of the k gates at score zero
    (k/2 for sigmoid, k/E for softmax), so that the mixture is the dense projection. Routers start as random
    directions, too small to move a gate by more than rounding: which experts are the top k still differs from token
    to token, so that copies receive different gradients and separate from the first step, without noise.
    """
    model = copy.deepcopy(dense)
    for block in model.blocks:
        if not isinstance(block.attention, CausalSelfAttention):
            raise TypeError(f"upcycle takes a dense model, not one with {type(block.attention).__name__}")
        block.attention = _upcycle_attention(block.attention, config, rng)
    return model.train(dense.training)


def _upcycle_attention(dense: CausalSelfAttention, config: SwitchHeadConfig, rng: torch.Generator) -> SwitchHead:
    H, E = dense.config.n_head, config.n_expert
    gate_at_zero = 1 / 2 if config.router == "sigmoid" else 1 / E
    scale = 1 / (config.top_k * gate_at_zero)
    D = dense.config.n_embd
    weight, bias = dense.query_key_value.weight, dense.query_key_value.bias
    layer = SwitchHead(dense.config, config).to(weight)
    layer.prepare.load_state_dict(dense.prepare.state_dict())
    with torch.no_grad():
        layer.query_key.weight.copy_(weight[: 2 * D])
        layer.value.weight.copy_(scale * _repeat_heads(weight[2 * D :], H, E))
        layer.output.weight.copy_(scale * _repeat_heads(dense.output.weight.T, H, E).T)
        if dense.config.bias:
            layer.query_key.bias.copy_(bias[: 2 * D])
            layer.value.bias.copy_(scale * _repeat_heads(bias[2 * D :], H, E))
            layer.output.bias.copy_(dense.output.bias)
        for router in (layer.value_router, layer.output_router):
            router.weight.copy_(
                ROUTER_STD_AT_SWITCH * torch.randn(router.weight.shape, generator=rng, device=rng.device)
            )
    return layer


def _repeat_heads(rows: Tensor, n_head: int, n_expert: int) -> Tensor:
    """(H*K, ...) -> (H*E*K, ...): the rows of each head E times over."""
    per_head = torch.unflatten(rows, 0, (n_head, 1, -1))
    return per_head.expand(-1, n_expert, *per_head.shape[2:]).flatten(0, 2)


@dataclass(frozen=True)
class ExpertUsage:
    """How tokens spread over experts.

    `load` (L, R, H, E): the share of a router's choices that went to each of its experts; sums to 1 over E.
    """

    load: Tensor

    @property
    def effective_LRH(self) -> Tensor:
        """exp(entropy of the load): the number of experts really in use, from 1 (collapsed) to E (even)."""
        return torch.exp(torch.special.entr(self.load).sum(-1))

    @property
    def dead(self) -> int:
        """How many experts no token chose; less is better."""
        return int((self.load == 0).sum())


def expert_usage(model: GPT, ids_BT: Tensor) -> ExpertUsage:
    """Watch the routers of a SwitchHead model over one batch."""
    loads: list[Tensor] = []

    def watch(top_k: int, n_head: int, router: nn.Module, args: object, scores: Tensor) -> None:
        mask_BTHE = chosen(torch.unflatten(scores, -1, (n_head, -1)), top_k)
        loads.append(mask_BTHE.mean((0, 1)) / top_k)

    layers = [module for module in model.modules() if isinstance(module, SwitchHead)]
    handles = [
        router.register_forward_hook(partial(watch, layer.experts.top_k, layer.experts.n_head))
        for layer in layers
        for router in (layer.value_router, layer.output_router)
    ]
    try:
        with torch.no_grad():
            model(ids_BT)
    finally:
        for handle in handles:
            handle.remove()
    return ExpertUsage(torch.unflatten(torch.stack(loads), 0, (len(layers), 2)))
