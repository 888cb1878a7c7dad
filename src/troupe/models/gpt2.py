"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"), with attention as its one seam
and the departures that a GPTConfig may ask for.

Axes: B batch, T tokens, D model width, H heads, K head width, S all tokens so far, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from troupe.kernels.attention import causal_attention
from troupe.kernels.layers import Linear, dropout
from troupe.models.config import GPTConfig
from troupe.models.layers import (
    MLP,
    CausalConv,
    KVCache,
    LayerCache,
    QueryKey,
    build_norm,
    of_positions,
)

INIT_STD, INIT_WIDTH = 0.02, 768


class CausalSelfAttention(nn.Module):
    """Dense multi-head attention: what `GPT(config, attention=...)` takes by default. Heads of queries may share one of
    keys and values (Ainslie et al. 2023, grouped-query attention, 2305.13245)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.attention_width
        self.widths = (width, config.cache_width, config.cache_width)
        self.query_key_value = Linear(config.n_embd, sum(self.widths), bias=config.bias)
        self.prepare = QueryKey(config, width // config.n_head)
        self.output = Linear(width, config.n_embd, bias=config.bias)

    def forward(self, x_BTD: Tensor, cache: LayerCache | None = None) -> Tensor:
        K = self.widths[0] // self.config.n_head
        parts = torch.split(self.query_key_value(x_BTD), list(self.widths), dim=-1)
        q, k, v = (torch.unflatten(part_BTW, -1, (-1, K)).transpose(1, 2) for part_BTW in parts)
        q, k = self.prepare(q, k, cache.start if cache else 0)
        if cache is not None:
            k, v = cache.extend(k, v)
            q = q.contiguous()  # strided, as `Linear` may give it, torch's kernel would refuse it and take a slower way
        y_BHTK = causal_attention(q, k, v, cache.mask_B11S if cache else None)
        return dropout(self.output(y_BHTK.transpose(1, 2).flatten(2)), self.config.dropout, self.training)


class Block(nn.Module):
    """Pre-LN transformer block: x + attention(norm(x)), then x + mlp(norm(x)); a config may ask for a convolution after
    each norm."""

    def __init__(self, config: GPTConfig, attention: nn.Module) -> None:
        super().__init__()
        self.attention_norm = build_norm(config)
        self.attention_conv = CausalConv(config.n_embd, config.conv) if config.conv else None
        self.attention = attention
        self.mlp_norm = build_norm(config)
        self.mlp_conv = CausalConv(config.n_embd, config.conv) if config.conv else None
        self.mlp = MLP(config)

    def forward(self, x_BTD: Tensor, cache: LayerCache | None = None) -> Tensor:
        y_BTD = self.attention_norm(x_BTD)
        if self.attention_conv is not None:
            y_BTD = self.attention_conv(y_BTD, cache)
        x_BTD = x_BTD + self.attention(y_BTD, cache)
        y_BTD = self.mlp_norm(x_BTD)
        if self.mlp_conv is not None:
            y_BTD = self.mlp_conv(y_BTD, cache)
        z_BTD: Tensor = x_BTD + self.mlp(y_BTD)
        return z_BTD


class GPT(nn.Module):
    """`model(ids_BT) -> logits_BTV`, nothing else; the loss and the sampling live outside.

    `attention` builds each block's attention from the config: module(x_BTD, LayerCache | None) -> y_BTD.
    The output head is the token embedding itself, of which the state dict then holds one copy, unless it is not `tied`.
    """

    def __init__(self, config: GPTConfig, attention: Callable[[GPTConfig], nn.Module] = CausalSelfAttention) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        learned = config.positions == "learned"
        self.position_embedding = nn.Embedding(config.block_size, config.n_embd) if learned else None
        self.blocks = nn.ModuleList(Block(config, attention(config)) for _ in range(config.n_layer))
        self.norm = build_norm(config)
        self.head = None if config.tied else Linear(config.n_embd, config.vocab_size, bias=False)

    def forward(self, ids_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits of the token after each of `ids_BT`, which follow the tokens that `cache` holds.

        Raises ValueError if cached and new tokens together exceed block_size.
        """
        return self.read_out(self.hidden(ids_BT, cache))

    def description(self) -> tuple[str, dict[str, Any]]:
        """The name of its architecture, and the dimensions from which `bundles.architectures` builds its like."""
        experts, dims = getattr(self.blocks[0].attention, "experts", None), self.config.dimensions()
        return ("gpt2", dims) if experts is None else ("switchhead", dims | {"experts": asdict(experts)})

    @property
    def cache_width(self) -> int:
        """Of the keys, or the values, that a layer caches of a token; experts have heads of their own, which share
        none, while `config` still describes the dense model's."""
        experts = getattr(self.blocks[0].attention, "experts", None)
        return self.config.cache_width if experts is None else int(experts.n_head * experts.head_width)

    def read_out(self, x_BTD: Tensor) -> Tensor:
        """The logits that `hidden` stands for."""
        head = self.token_embedding if self.head is None else self.head
        return F.linear(x_BTD, head.weight)

    def hidden(self, ids_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """x_BTD after the last norm: what the model knows after each token, as `forward` reads it."""
        T = ids_BT.size(1)
        end = (cache.length if cache else 0) + T
        if end > self.config.block_size:
            raise ValueError(f"{end} tokens do not fit a context of {self.config.block_size}")
        x_BTD = self.token_embedding(ids_BT)
        if self.position_embedding is not None:
            x_BTD = x_BTD + of_positions(self.position_embedding.weight, cache.start if cache else 0, T)
        x_BTD = dropout(x_BTD, self.config.dropout, self.training)
        for index, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, cache.layers[index] if cache else None)
        z_BTD: Tensor = self.norm(x_BTD)
        return z_BTD


def init_gpt2(model: GPT, rng: torch.Generator) -> None:
    """Initialise as GPT-2 does, in place: weights N(0, 0.02) at its width of 768, biases 0, norms 1 and 0.

    At another width the spread is in proportion to 1/sqrt(n_embd), which keeps the size of what a layer puts out.
    Projections onto the residual stream (every linear layer named `output`) are scaled by 1/sqrt(2 n_layer), since
    2 n_layer of them add up there (section 2.3 of the paper).
    """
    width_std = INIT_STD * math.sqrt(INIT_WIDTH / model.config.n_embd)
    residual = [module for name, module in model.named_modules() if name.rpartition(".")[2] == "output"]
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            std = width_std / math.sqrt(len(residual)) if module in residual else width_std
            nn.init.normal_(module.weight, std=std, generator=rng)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            module.reset_parameters()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode (no dropout) inside, whatever it was before outside."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
