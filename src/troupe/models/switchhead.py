"""SwitchHead: attention whose value and output projections are mixtures of experts, per head (arXiv 2312.07987).

Axes: B batch, T tokens, N = B*T, D model width, M heads (or H), E experts per head, K head width,
L layers, R routers of a head (0 routes values, 1 routes outputs).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from troupe.kernels.attention import causal_attention
from troupe.kernels.layers import Linear, dropout
from troupe.models.config import ONLY_FIELDS, Dropout, GPTConfig, Size
from troupe.models.experts import Computation, Router, fastest_computation, mix_outputs, mix_values
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.layers import LayerCache, QueryKey


@dataclass(frozen=True)
class SwitchHeadConfig:
    __pydantic_config__ = ONLY_FIELDS

    n_head: Size
    head_width: Size  # of queries, keys and values
    n_expert: Size  # per head, for values and, separately, for outputs
    top_k: Size
    router: Literal["sigmoid", "softmax"]
    expert_dropout: Dropout = 0.0  # share of the experts that a training batch goes without
    compute: Literal["auto", "dense", "loop", "grouped"] = "auto"  # how experts are computed; the result is the same


class SwitchHead(nn.Module):
    """Dense queries and keys; experts for values and outputs, chosen apart from each other, per token and head.

    One linear layer holds both routers: it scores every head's experts of values, then every head's of outputs.

    In every head v_j = sum over the top k experts e of g_e(x_j) (x_j W_V^e + b_V^e), and y_i sums the heads' attended
    values through W_O^e in the same way. Gates are sigmoids that are not renormalised, or the softmax over all experts.
    With biases, as in GPT-2, there is a value bias per expert, gated with it, and one ungated output bias per layer.
    The cache holds values after mixing: with M heads of width K it is M*K wide, however many experts there are.
    """

    def __init__(self, config: GPTConfig, experts: SwitchHeadConfig) -> None:
        super().__init__()
        self.config, self.experts = config, experts
        D, M, E, K = config.n_embd, experts.n_head, experts.n_expert, experts.head_width
        self.query_key = Linear(D, 2 * M * K, bias=config.bias)
        self.prepare = QueryKey(config, K)
        self.router = Router(
            D, 2 * M, E, experts.top_k, experts.router, experts.expert_dropout
        )  # of values, of outputs
        self.value = nn.Linear(D, M * E * K, bias=config.bias)
        self.output = nn.Linear(M * E * K, D, bias=config.bias)

    def forward(self, x_BTD: Tensor, cache: LayerCache | None = None) -> Tensor:
        both_BT2MK = torch.unflatten(self.query_key(x_BTD), -1, (2, self.experts.n_head, -1))
        q, k = (part_BTMK.transpose(1, 2) for part_BTMK in both_BT2MK.unbind(2))
        q, k = self.prepare(q, k, cache.start if cache else 0)
        x_ND, computation = x_BTD.flatten(0, 1), self._computation(x_BTD)
        value_gates_NME, output_gates_NME = self.router(x_ND).chunk(2, dim=1)
        v_NMK = mix_values(x_ND, value_gates_NME, self.value.weight, self.value.bias, computation)
        v = torch.unflatten(v_NMK, 0, x_BTD.shape[:2]).transpose(1, 2)
        if cache is not None:
            k, v = cache.extend(k, v)
            q = q.contiguous()  # for the reason given in gpt2.py
        y_NMK = causal_attention(q, k, v, cache.mask_B11S if cache else None).transpose(1, 2).flatten(0, 1)
        y_ND = mix_outputs(y_NMK, output_gates_NME, self.output.weight, self.output.bias, computation)
        return dropout(y_ND.view_as(x_BTD), self.config.dropout, self.training)

    def _computation(self, x_BTD: Tensor) -> Computation:
        of = self.experts
        return fastest_computation(x_BTD, of.head_width, of.n_expert, of.top_k) if of.compute == "auto" else of.compute


def init_switchhead(model: GPT, rng: torch.Generator) -> None:
    """Initialise a model that is trained from scratch: as GPT-2, but attention as `init_attention` does."""
    init_gpt2(model, rng)
    for layer in switchhead_layers(model):
        init_attention(layer, rng, scale=math.sqrt(2 / model.config.n_layer))


def init_attention(layer: SwitchHead, rng: torch.Generator, scale: float) -> None:
    """Initialise one layer as the paper does, in place: queries, keys, values and routers N(0, s/sqrt(n_embd)), outputs
    N(0, s/sqrt(M K)), biases 0, norms 1, with s = `scale`, in the paper sqrt(2/n_layer). The rows of a router are made
    equally long, so that no expert begins as the favourite; their length, s, is what it would be on average.
    """
    D, width = layer.config.n_embd, layer.experts.n_head * layer.experts.head_width
    for part in (layer.query_key, layer.value, layer.output, layer.router):
        nn.init.normal_(part.weight, std=scale / math.sqrt(width if part is layer.output else D), generator=rng)
        if isinstance(part, Router):
            with torch.no_grad():
                part.weight.copy_(scale * F.normalize(part.weight))
        elif part.bias is not None:
            nn.init.zeros_(part.bias)
    for module in layer.prepare.modules():
        if isinstance(module, nn.RMSNorm):
            module.reset_parameters()


@dataclass(frozen=True)
class ExpertUsage:
    """How tokens spread over experts.

    `load` (L, R, H, E): the share of a router's choices that went to each of its experts; sums to 1 over E.
    """

    load: Tensor

    @property
    def entropy_LRH(self) -> Tensor:
        """Of the load, in nats: from 0 (collapsed) to ln E (even)."""
        entropy: Tensor = torch.special.entr(self.load).sum(-1)
        return entropy

    @property
    def effective_LRH(self) -> Tensor:
        """exp(entropy): the number of experts really in use, from 1 (collapsed) to E (even)."""
        return torch.exp(self.entropy_LRH)

    @property
    def dead(self) -> int:
        """How many experts no token chose; less is better."""
        return int((self.load == 0).sum())


def expert_usage(model: GPT, ids_BT: Tensor) -> ExpertUsage:
    """Watch the routers of a SwitchHead model over one batch."""

    def load(gates_NRHE: Tensor) -> Tensor:
        load_RHE = (gates_NRHE != 0).float().mean(0)
        return load_RHE / load_RHE.sum(-1, keepdim=True)

    return ExpertUsage(torch.stack(_watched(model, ids_BT, load)))


def expert_gates(model: GPT, ids_BT: Tensor) -> list[Tensor]:
    """gates_NRHE of every layer: what each token's values and outputs take of each expert, 0 for those not chosen."""
    return _watched(model, ids_BT, lambda gates_NRHE: gates_NRHE)


def _watched(model: GPT, ids_BT: Tensor, of_gates: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """`of_gates` of the gates_NRHE of every layer, in one forward pass."""
    found: list[Tensor] = []

    def watch(router: Router, args: object, gates_NHE: Tensor) -> None:  # H: the heads' values, then their outputs
        found.append(of_gates(torch.unflatten(gates_NHE, 1, (2, -1))))

    handles = [router.register_forward_hook(watch) for router in routers(model)]
    try:
        with torch.no_grad():
            model(ids_BT)
    finally:
        for handle in handles:
            handle.remove()
    return found


def keep_balance(model: GPT) -> None:
    """Have forward passes in training mode leave behind what `balance_loss` takes; call it before torch.compile."""
    for router in routers(model):
        router.keeps_balance = True


def balance_loss(model: GPT) -> Tensor:
    """How unevenly the last forward pass in training mode used the experts, mean over layers, routers and heads:
    a differentiable scalar from 1 (alike) to E (always the same one; E/k of top k). experts.balance has the formula.
    Of several processes that train together each asks for even use within its own share of the batch, which is more
    than even use of the whole.

    Raises RuntimeError unless `keep_balance` was called before that pass.
    """
    found = routers(model)
    if not found or not all(router.keeps_balance for router in found):
        raise RuntimeError("balance_loss: call keep_balance(model) before the forward pass")
    return torch.stack([router.balance for router in found]).mean()


def routers(model: GPT) -> list[Router]:
    return [layer.router for layer in switchhead_layers(model)]


def switchhead_layers(model: GPT) -> list[SwitchHead]:
    return [module for module in model.modules() if isinstance(module, SwitchHead)]
