"""What the language models share: the MLP, causal attention over heads, and the key-value cache.

Axes: B batch, T new tokens, S all tokens so far, D model width, H heads, K head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """GPT-2's feed-forward block: D -> 4D -> D with the tanh approximation of GELU (Radford et al. 2019)."""

    def __init__(self, n_embd: int, dropout: float) -> None:
        super().__init__()
        self.input = nn.Linear(n_embd, 4 * n_embd)
        self.output = nn.Linear(4 * n_embd, n_embd)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BTD: Tensor = self.dropout(self.output(F.gelu(self.input(x_BTD), approximate="tanh")))
        return y_BTD


class LayerCache:
    """Keys and values of one layer for the tokens seen so far. For generation only: it is written in place."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._buffers: tuple[Tensor, Tensor] | None = None

    def extend(self, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        """Append the keys and values of T new tokens; return those of all S tokens so far."""
        if self._buffers is None:
            B, H, _, K = k_BHTK.shape
            self._buffers = k_BHTK.new_empty(B, H, self.capacity, K), v_BHTK.new_empty(B, H, self.capacity, K)
        start, self.length = self.length, self.length + k_BHTK.size(2)
        for buffer, new in zip(self._buffers, (k_BHTK, v_BHTK), strict=True):
            buffer[:, :, start : self.length] = new
        k, v = self._buffers
        return k[:, :, : self.length], v[:, :, : self.length]


class KVCache:
    """One LayerCache per layer, each with room for `capacity` tokens (a model's block_size)."""

    def __init__(self, n_layer: int, capacity: int) -> None:
        self.layers = [LayerCache(capacity) for _ in range(n_layer)]

    @property
    def length(self) -> int:
        """How many tokens the cache holds."""
        return self.layers[0].length


def split_heads(x_BTD: Tensor, n_head: int) -> Tensor:
    """(B, T, H*K) -> (B, H, T, K)."""
    return torch.unflatten(x_BTD, -1, (n_head, -1)).transpose(1, 2)


def causal_attention(q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, dropout: float) -> Tensor:
    """(B, H, T, K): scaled dot-product attention of the last T of S tokens, each over itself and those before it."""
    T, S = q_BHTK.size(2), k_BHSK.size(2)
    mask = None
    if 1 < T < S:
        mask = torch.ones(T, S, dtype=torch.bool, device=q_BHTK.device).tril(S - T)
    return F.scaled_dot_product_attention(q_BHTK, k_BHSK, v_BHSK, mask, dropout, is_causal=T == S)
