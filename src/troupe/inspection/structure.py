"""What a model is made of and what a token costs, from its shape alone: nothing is computed, weights may be absent.

A MAC is one multiplication with its addition; FLOPs are twice as many. Only matrix products count: norms, activation
functions, softmax and gates are a few percent. Axes: B batch, T tokens of context, D model width, V vocabulary.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT

FLOAT32 = 4  # bytes
LAYER = re.compile(r"blocks\.\d+\.")


@dataclass(frozen=True)
class Part:
    """Modules of one name, in all layers together: how many, their parameters, the MACs of their matrices per token."""

    name: str
    modules: int
    parameters: int
    macs: int


@dataclass(frozen=True)
class AttentionMacs:
    """MACs per token of scores and weighted values, in all layers, mean over the tokens of a context.

    `full` is what a kernel computes that masks afterwards; `causal` what is needed, and what a kernel computes that
    skips masked blocks.
    """

    full: int
    causal: int


def without_weights(build: Callable[[], GPT]) -> GPT:
    """A model on torch's meta device: shapes without memory, so that any size costs nothing."""
    with torch.device("meta"):
        return build()


def parts(model: GPT) -> list[Part]:
    """The model by its modules' names, in the order of the computation; the tied head's MACs stand with the embedding.

    Of experts that are not chosen, SwitchHead computes the products all the same (switchhead.py says why): they count.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    for name, module in model.named_modules():
        parameters = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if parameters:
            found.setdefault(LAYER.sub("blocks.", name), []).append((parameters, _macs(model, module)))
    return [Part(name, len(of), *map(sum, zip(*of, strict=True))) for name, of in found.items()]


def attention_macs(config: GPTConfig, context: int) -> AttentionMacs:
    """A token scores the tokens it sees and sums their values: D MACs each, per token seen and layer."""
    per_token_seen = 2 * config.n_layer * config.n_embd
    return AttentionMacs(per_token_seen * context, per_token_seen * (context + 1) // 2)


def kv_cache_bytes(config: GPTConfig, batch: int, context: int) -> int:
    """Keys and values of all layers while generating: float32, as the weights are."""
    return 2 * config.n_layer * batch * context * config.n_embd * FLOAT32


def _macs(model: GPT, module: nn.Module) -> int:
    if isinstance(module, nn.Linear) or (module is model.token_embedding and _is_tied(model)):
        return module.weight.numel()
    return 0


def _is_tied(model: GPT) -> bool:
    return not any(isinstance(child, nn.Linear) for child in model.children())
