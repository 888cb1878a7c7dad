"""Mixtures of linear experts, one mixture per head: the router that chooses, and three ways to compute the sum.

Axes: N tokens of all sequences, D model width, M heads, E experts of a head, Z = M*E experts in all, K head width,
P pairs of a token and an expert that it has chosen.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from troupe.params import grouped_fault

Computation = Literal["dense", "loop", "grouped"]


class Router(nn.Linear):
    """Scores every head's experts for a token and opens the gates of the best: x_ND -> gates_NME, zero for all others.

    A gate is the sigmoid of its score, not renormalised, or its softmax over all E experts of the head. In training a
    batch goes without each expert with probability `dropout`, unless fewer than `top_k` are left (Csordás et al. 2023,
    sigma-MoE, arXiv 2310.10837; there a gate left out is zero, here the next best takes its place). Of several
    processes that train together each draws what its own share of the batch goes without.
    """

    def __init__(
        self, n_embd: int, n_head: int, n_expert: int, top_k: int, kind: Literal["sigmoid", "softmax"], dropout: float
    ) -> None:
        super().__init__(n_embd, n_head * n_expert, bias=False)
        self.n_head, self.n_expert, self.top_k, self.kind, self.dropout = n_head, n_expert, top_k, kind, dropout
        self.keeps_balance, self.balance = False, torch.zeros(())  # see balance_loss

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes over: not the balance of a pass, which cannot be copied with what it was computed from."""
        return self.__dict__ | {"balance": torch.zeros(())}

    def forward(self, x_ND: Tensor) -> Tensor:
        with _without_autocast(x_ND.device.type):  # bf16 scores would tie
            scores_NME = torch.unflatten(super().forward(x_ND), -1, (self.n_head, self.n_expert))
        gates_NME = scores_NME.sigmoid() if self.kind == "sigmoid" else scores_NME.softmax(-1)
        chosen_NME = chosen(self._without_some(scores_NME.detach()), self.top_k)
        if self.training and self.keeps_balance:
            self.balance = balance(scores_NME, chosen_NME)
        return gates_NME * chosen_NME

    def _without_some(self, scores_NME: Tensor) -> Tensor:
        """Experts that are left out come after all others, by their own scores: none is favoured by its number."""
        if not (self.training and self.dropout):
            return scores_NME
        left_out_ME = torch.rand(scores_NME.shape[1:], device=scores_NME.device) < self.dropout
        scores_NME = scores_NME.double()  # what differs by little must still differ when it is moved
        spread_NM1 = scores_NME.amax(-1, keepdim=True) - scores_NME.amin(-1, keepdim=True)
        return torch.where(left_out_ME, scores_NME - spread_NM1 - 1, scores_NME)


def _without_autocast(device: str) -> AbstractContextManager[object]:
    """Entered only where autocast is on: it takes longer than the scores of one token."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def chosen(scores_NME: Tensor, top_k: int) -> Tensor:
    """(N, M, E), bool: the `top_k` experts of highest score; of equal ones the first.

    Not torch.topk, which torch.compile cannot fuse.
    """
    experts_E = torch.arange(scores_NME.size(-1), device=scores_NME.device)
    found_NME = experts_E == scores_NME.argmax(-1, keepdim=True)
    for _ in range(top_k - 1):
        next_NM1 = scores_NME.masked_fill(found_NME, -torch.inf).argmax(-1, keepdim=True)
        found_NME = found_NME | (experts_E == next_NM1)
    return found_NME


def balance(scores_NME: Tensor, chosen_NME: Tensor) -> Tensor:
    """E * sum of load_e * probability_e, mean over heads: 1 where experts are used alike, E where one is always chosen.

    load: share of the choices; probability: softmax of the scores, mean over tokens (Fedus et al. 2021, Switch
    Transformer, arXiv 2101.03961, equation 4). Gradients flow through the probabilities.
    """
    load_ME = chosen_NME.to(scores_NME.dtype).mean(0)
    load_ME = load_ME / load_ME.sum(-1, keepdim=True)
    probability_ME = scores_NME.softmax(-1).mean(0)
    return scores_NME.size(-1) * (load_ME * probability_ME).sum(-1).mean()


def mix_values(
    x_ND: Tensor, gates_NME: Tensor, weight: Tensor, bias: Tensor | None, computation: Computation
) -> Tensor:
    """(N, M, K): in every head, the sum of gate * (x W + b) over the experts. `weight` is (Z*K, D), `bias` (Z*K)."""
    N, M, E = gates_NME.shape
    if computation == "dense":
        v_NMEK = torch.unflatten(F.linear(x_ND, weight, bias), -1, (M, E, -1))
        return (v_NMEK * gates_NME.unsqueeze(-1).type_as(v_NMEK)).sum(-2)
    pairs = Pairs.of(gates_NME)
    weight_ZKD = torch.unflatten(weight, 0, (M * E, -1))
    v_NMK = torch.unflatten(pairs.mix(x_ND, pairs.token_P, weight_ZKD, pairs.slot_P, N * M, computation), 0, (N, M))
    if bias is None:
        return v_NMK
    return v_NMK + torch.einsum("nme,mek->nmk", gates_NME, bias.view(M, E, -1)).type_as(v_NMK)


def mix_outputs(
    h_NMK: Tensor, gates_NME: Tensor, weight: Tensor, bias: Tensor | None, computation: Computation
) -> Tensor:
    """(N, D): the sum of gate * (h W) over the experts of all heads, and the bias. `weight` is (D, Z*K), `bias` (D)."""
    N, M, E = gates_NME.shape
    if computation == "dense":
        h_NMEK = h_NMK.unsqueeze(-2) * gates_NME.unsqueeze(-1).type_as(h_NMK)
        return F.linear(h_NMEK.flatten(1), weight, bias)
    pairs = Pairs.of(gates_NME)
    weight_ZDK = torch.unflatten(weight, 1, (M * E, -1)).transpose(0, 1)
    y_ND = pairs.mix(h_NMK.flatten(0, 1), pairs.slot_P, weight_ZDK, pairs.token_P, N, computation)
    return y_ND if bias is None else y_ND + bias.type_as(y_ND)


@dataclass(frozen=True)
class Pairs:
    """Every pair of a token and an expert that it has chosen, sorted by expert."""

    token_P: Tensor
    slot_P: Tensor  # token * M + head
    gate_P: Tensor
    count_Z: Tensor  # pairs of each expert

    @classmethod
    def of(cls, gates_NME: Tensor) -> "Pairs":
        M, E = gates_NME.shape[1:]
        gates_ZN = gates_NME.flatten(1).T
        expert_P, token_P = gates_ZN.nonzero(as_tuple=True)  # a gate of zero adds nothing, chosen or not
        return cls(token_P, token_P * M + expert_P // E, gates_ZN[expert_P, token_P], (gates_ZN != 0).sum(1))

    def mix(
        self,
        x_SI: Tensor,
        source_P: Tensor,
        weight_ZOI: Tensor,
        target_P: Tensor,
        n_target: int,
        computation: Computation,
    ) -> Tensor:
        """(n_target, O): of each pair, gate * (row `source` of x) W is added to row `target`."""
        x_SI, weight_ZOI = _as_autocast(x_SI), _as_autocast(weight_ZOI)
        y_TO = self.gate_P.new_zeros(n_target, weight_ZOI.size(1))
        gate_P1 = self.gate_P.unsqueeze(-1)
        if computation == "grouped":
            ends_Z = self.count_Z.cumsum(0, dtype=torch.int32)
            y_PO = F.grouped_mm(x_SI[source_P], weight_ZOI.transpose(1, 2), offs=ends_Z)
            return y_TO.index_add(0, target_P, gate_P1 * y_PO).type_as(x_SI)
        chosen = self.count_Z.nonzero().flatten()
        sizes = self.count_Z[chosen].tolist()
        of_each = (torch.split(of_P, sizes) for of_P in (source_P, target_P, gate_P1))
        for expert, source, target, gate in zip(chosen.tolist(), *of_each, strict=True):
            y_TO.index_add_(0, target, gate * F.linear(x_SI[source], weight_ZOI[expert]))
        return y_TO.type_as(x_SI)


def _as_autocast(x: Tensor) -> Tensor:
    """In the precision that autocast, where it is on, gives the operands of a matrix product."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def fastest_computation(x: Tensor, head_width: int, n_expert: int, top_k: int) -> Computation:
    """The fastest by measurement (docs/algorithms/switchhead.md).

    dense computes E/k times too much, but in one product, and torch.compile fuses the rest with it; grouped wins on a
    CPU from E/k = 4 in float32 (in bfloat16 arithmetic is too cheap to be worth sorting for) where its kernel can.
    """
    pays = x.device.type == "cpu" and n_expert >= 4 * top_k and not torch.is_autocast_enabled("cpu")
    if not pays or x.dtype != torch.float32:
        return "dense"
    return "dense" if grouped_fault(x.size(-1), head_width, "float32", torch.compiler.is_compiling()) else "grouped"
