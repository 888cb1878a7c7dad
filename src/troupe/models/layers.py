"""What the language models share: norms, the MLP, what happens to queries and keys, and the key-value cache.

Axes: B batch, T new tokens, S all tokens so far, D model width, F hidden width, H heads, K head width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from troupe.kernels.layers import Linear, dropout
from troupe.models.config import GPTConfig

Start = int | Tensor  # the position of the first new token: of all texts alike, or start_B, of each its own


class LayerCache:
    """Keys and values of one layer for the tokens seen so far. For generation only: it is written in place."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._buffers: tuple[Tensor, Tensor] | None = None
        self._recent: dict[nn.Module, Tensor] = {}

    @property
    def start(self) -> Start:
        """The position of the next token."""
        return self.length

    @property
    def mask_B11S(self) -> Tensor | None:
        """What is added to the scores of the tokens so far, where texts have different numbers of them."""
        return None

    def extend(self, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        """Append the keys and values of T new tokens; return those of all S tokens so far."""
        if self._buffers is None:
            B, H, _, K = k_BHTK.shape
            self._buffers = k_BHTK.new_empty(B, H, self.capacity, K), v_BHTK.new_empty(B, H, self.capacity, K)
        start, T = self.length, k_BHTK.size(2)
        self.length += T
        for buffer, new in zip(self._buffers, (k_BHTK, v_BHTK), strict=True):
            buffer.narrow(2, start, T).copy_(new)  # indexing would cost twice the time, at every token
        k, v = self._buffers
        return k.narrow(2, 0, self.length), v.narrow(2, 0, self.length)

    def recall(self, conv: nn.Module, x_BTD: Tensor, before: int) -> Tensor:
        """(B, before + T, D): `x_BTD` after what `conv` was given in the calls before, zeros where nothing was."""
        recent = self._recent.get(conv)
        padded = F.pad(x_BTD, (0, 0, before, 0)) if recent is None else torch.cat([recent, x_BTD], dim=1)
        self._recent[conv] = padded[:, padded.size(1) - before :]
        return padded


class KVCache:
    """One LayerCache per layer, each with room for `capacity` tokens: all of a text, at most block_size."""

    def __init__(self, n_layer: int, capacity: int) -> None:
        self.layers = [LayerCache(capacity) for _ in range(n_layer)]
        self._recent_BT: Tensor | None = None

    @property
    def length(self) -> int:
        """How many tokens the cache holds."""
        return self.layers[0].length

    @property
    def start(self) -> Start:
        """The position of the next token."""
        return self.layers[0].start

    def recall(self, ids_BT: Tensor, before: int) -> Tensor:
        """`ids_BT` after up to `before` tokens of earlier calls: for a model that counts tokens beside its layers."""
        known_BS = ids_BT if self._recent_BT is None else torch.cat([self._recent_BT, ids_BT], dim=1)
        self._recent_BT = known_BS[:, max(0, known_BS.size(1) - before) :]
        return known_BS


class RMSNorm(nn.RMSNorm):
    """Zhang & Sennrich 2019 (1910.07467), in the precision of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.type_as(x), self.eps)


def build_norm(config: GPTConfig) -> nn.Module:
    """The normalisation before each part of a block."""
    if config.norm == "layer":
        return nn.LayerNorm(config.n_embd, config.norm_eps or 1e-5, bias=config.bias)
    return RMSNorm(config.n_embd, config.norm_eps)


class MLP(nn.Module):
    """The feed-forward part of a block.

    gelu: GPT-2's D -> 4D -> D with the tanh approximation. relu2: the same with a squared ReLU (So et al. 2021, Primer,
    2109.08668, section 3.1). swiglu: a gate, silu(x W) * (x V), on 8/3 D hidden units, rounded down to a multiple
    of 8, so that its three matrices have about as many parameters (Shazeer 2020, 2002.05202). `mlp_width` is another
    number of hidden units.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        D, self.activation = config.n_embd, config.activation
        gated = self.activation == "swiglu"
        hidden = config.mlp_width or (8 * D // 3 // 8 * 8 if gated else 4 * D)
        self.input = Linear(D, 2 * hidden if gated else hidden, bias=config.bias)
        self.output = Linear(hidden, D, bias=config.bias)
        self.dropout = config.dropout

    def forward(self, x_BTD: Tensor) -> Tensor:
        return dropout(self.output(self._activate(self.input(x_BTD))), self.dropout, self.training)

    def _activate(self, x_BTF: Tensor) -> Tensor:
        if self.activation == "gelu":
            return _gelu(x_BTF)
        if self.activation == "relu2":
            return F.relu(x_BTF).square()
        gate_BTF, up_BTF = x_BTF.chunk(2, dim=-1)
        return F.silu(gate_BTF) * up_BTF


def _gelu(x: Tensor) -> Tensor:
    """GPT-2's, 0.5 x (1 + tanh(z / 2)) with z = 2 sqrt(2 / pi) (x + 0.044715 x^3). That is x sigmoid(z), which compiled
    code computes in 2/5 of the time: torch's vectors have a slow tanh."""
    if x.device.type != "cpu" or not torch.compiler.is_compiling():
        return F.gelu(x, approximate="tanh")
    return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))


class CausalConv(nn.Module):
    """Adds to every feature a learned sum of its values at the last `width` tokens, this one included.

    Attention need not spend heads on the neighbours then (Canon-A and -C of Allen-Zhu 2025, "Physics of Language
    Models: Part 4.1"; depthwise convolutions, as in Primer). It begins as the identity.
    """

    def __init__(self, n_embd: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, n_embd))

    def forward(self, x_BTD: Tensor, cache: LayerCache | None = None) -> Tensor:
        T, before = x_BTD.size(1), len(self.weight) - 1
        padded = cache.recall(self, x_BTD, before) if cache else F.pad(x_BTD, (0, 0, before, 0))
        if T == 1:  # a token at a time: what counts is how few operations there are
            return x_BTD + (self.weight.flip(0) * padded).sum(1, keepdim=True)
        for age, weight_D in enumerate(self.weight):
            x_BTD = x_BTD + weight_D * padded[:, before - age : before - age + T]
        return x_BTD


class QueryKey(nn.Module):
    """What happens to queries and keys before they meet: norm over a head (Henry et al. 2020, 2010.04245; here RMSNorm
    with a learned gain), then rotation by position (Su et al. 2021, RoFormer, 2104.09864). Nothing in GPT-2."""

    def __init__(self, config: GPTConfig, head_width: int) -> None:
        super().__init__()
        K = head_width
        self.query_norm = RMSNorm(K, config.norm_eps) if config.qk_norm else None
        self.key_norm = RMSNorm(K, config.norm_eps) if config.qk_norm else None
        rotary = config.positions == "rotary"
        self.rotary = Rotary(K, config.block_size, config.rotary_base) if rotary else None

    def forward(self, q_BHTK: Tensor, k_BHTK: Tensor, start: Start) -> tuple[Tensor, Tensor]:
        """Both as they were shaped; `start` is the position of the first of the T tokens."""
        q, k = q_BHTK, k_BHTK
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if self.rotary is not None:
            q, k = self.rotary(q, k, start)
        return q, k


class Rotary(nn.Module):
    """Turns each pair of a head's features (i, i + K/2) by the angle position * base^(-2i/K)."""

    cos_TK: Tensor
    sin_TK: Tensor

    def __init__(self, head_width: int, block_size: int, base: float) -> None:
        super().__init__()
        frequencies = base ** (-torch.arange(0, head_width, 2) / head_width)
        angles_TK = torch.outer(torch.arange(block_size), frequencies)
        self.register_buffer("cos_TK", angles_TK.cos(), persistent=False)
        self.register_buffer("sin_TK", angles_TK.sin(), persistent=False)

    def forward(self, q_BHTK: Tensor, k_BHTK: Tensor, start: Start) -> tuple[Tensor, Tensor]:
        cos, sin = (of_positions(table, start, q_BHTK.size(2)) for table in (self.cos_TK, self.sin_TK))
        if cos.dim() == 3:  # of each text its own, for all heads
            cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        return _turn(q_BHTK, cos, sin), _turn(k_BHTK, cos, sin)


def _turn(x_BHTK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x_BHTK.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def of_positions(table_PD: Tensor, start: Start, T: int) -> Tensor:
    """The rows of T tokens from `start` on: (T, D), or (B, 1, D) of one token of each text at a position of its own."""
    return table_PD.narrow(0, start, T) if isinstance(start, int) else table_PD.index_select(0, start).unsqueeze(1)
