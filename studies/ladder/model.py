"""A rung as a model: GPT with parts left out.

Where a rung leaves nothing out, its parameters have the names and shapes of GPT's, and the same weights give the same
logits. Axes: B sequences, T tokens, D model width, V vocabulary.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from studies.ladder.rungs import Rung
from troupe.kernels.layers import Linear, dropout
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, CausalSelfAttention
from troupe.models.layers import KVCache, LayerCache


def build(rung: Rung, vocab_size: int, block_size: int) -> GPT:
    """The model of a rung, with weights that are yet to be drawn."""
    config = rung.config(vocab_size, block_size)
    return Partial(rung, config) if rung.n_layer else Bigram(config)


class Bigram(GPT):
    """logits_BTV = table[ids_BT]: of each character, what may follow it."""

    def __init__(self, config: GPTConfig) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.vocab_size)
        self.blocks, self.head = nn.ModuleList(), None

    def forward(self, ids_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        logits_BTV: Tensor = self.token_embedding(ids_BT)
        return logits_BTV


class Partial(GPT):
    """GPT's forward pass through blocks that may lack an MLP, residual connections and norms."""

    def __init__(self, rung: Rung, config: GPTConfig) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.block_size, config.n_embd)
        self.blocks = nn.ModuleList(PartialBlock(rung, config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd) if rung.norm == "pre" else nn.Identity()
        self.head = None


class PartialBlock(nn.Module):
    """Attention, then an MLP, as a rung has them."""

    def __init__(self, rung: Rung, config: GPTConfig) -> None:
        super().__init__()
        self.rung = rung
        self.attention_norm = self._norm(config)
        self.attention = CausalSelfAttention(config)
        if rung.mlp:
            self.mlp_norm = self._norm(config)
            self.mlp = FeedForward(config, rung.mlp)

    def forward(self, x_BTD: Tensor, cache: LayerCache | None = None) -> Tensor:
        x_BTD = self._join(x_BTD, self.attention(self._before(self.attention_norm, x_BTD), cache), self.attention_norm)
        if self.rung.mlp:
            x_BTD = self._join(x_BTD, self.mlp(self._before(self.mlp_norm, x_BTD)), self.mlp_norm)
        return x_BTD

    def _norm(self, config: GPTConfig) -> nn.Module:
        return nn.Identity() if self.rung.norm == "none" else nn.LayerNorm(config.n_embd)

    def _before(self, norm: nn.Module, x_BTD: Tensor) -> Tensor:
        y_BTD: Tensor = norm(x_BTD) if self.rung.norm == "pre" else x_BTD
        return y_BTD

    def _join(self, x_BTD: Tensor, y_BTD: Tensor, norm: nn.Module) -> Tensor:
        z_BTD: Tensor = x_BTD + y_BTD if self.rung.residual else y_BTD
        return norm(z_BTD) if self.rung.norm == "post" else z_BTD


class FeedForward(nn.Module):
    """D -> `factor` D -> D with GELU: at factor 4 GPT-2's MLP."""

    def __init__(self, config: GPTConfig, factor: int) -> None:
        super().__init__()
        self.input = Linear(config.n_embd, factor * config.n_embd)
        self.output = Linear(factor * config.n_embd, config.n_embd)
        self.dropout = config.dropout

    def forward(self, x_BTD: Tensor) -> Tensor:
        hidden = F.gelu(self.input(x_BTD), approximate="tanh")
        return dropout(self.output(hidden), self.dropout, self.training)
