"""A language model whose next token is drawn tilted by what it, and an n-gram model of tokens, say of each token.

    p(t | h)  proportional to  p_network(t | h) exp(theta . phi(t, h))

the exponential tilt, normalised token by token. phi holds what gives generated text away to a discriminator (features
of models.discriminator's evidence), of all tokens that might come next instead of the one that did. With u the
surprisal -ln p(t | h) of network and n-grams, each cut at 2 ln V, and H its mean (near the entropy), both divided by
ln V, an even guess:

    z = H - u        how much likelier a token is than that model's typical one
    phi = (z_1, z_2, z_1^2, z_1 z_2, z_2^2, H_1 z_1, H_2 z_1, H_1 z_2, H_2 z_2)

The linear part is a log-linear interpolation of both models (Klakow 1998, "Log-linear interpolation of language
models"), with exponents that depend on how sure each of them is; the squares treat likely and unlikely tokens
differently, as truncation does. Nine numbers in all: what a few hundred texts can teach. adversarial/tilt.py fits.

Shapes: B batch, T tokens, V vocabulary.
"""

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT
from troupe.models.layers import KVCache
from troupe.models.ngrams import NGrams

NUMBERS = 9  # of the tilt; all 0 leave the network as it is


class Evidence(NamedTuple):
    """What the network says of each next token, ln p, and of it and the n-grams z_BTV and H_BT1, in even guesses."""

    network_BTV: Tensor
    z_1: Tensor
    z_2: Tensor
    H_1: Tensor
    H_2: Tensor

    @classmethod
    def of(cls, network_BTV: Tensor, counted_BTV: Tensor) -> Self:
        """From the log-probabilities of both models."""
        (z_1, H_1), (z_2, H_2) = _likelier(network_BTV), _likelier(counted_BTV)
        return cls(network_BTV, z_1, z_2, H_1, H_2)

    def logits(self, tilt: Tensor) -> Tensor:
        """(B, T, V); differentiable in `tilt`."""
        a_1 = tilt[0] + tilt[5] * self.H_1 + tilt[6] * self.H_2
        a_2 = tilt[1] + tilt[7] * self.H_1 + tilt[8] * self.H_2
        of_network_BTV = self.z_1 * (a_1 + tilt[2] * self.z_1 + tilt[3] * self.z_2)
        return self.network_BTV + of_network_BTV + self.z_2 * (a_2 + tilt[4] * self.z_2)


def _likelier(logp_BTV: Tensor) -> tuple[Tensor, Tensor]:
    even = math.log(logp_BTV.size(-1))
    surprisal_BTV = (-logp_BTV / even).clamp_max(2)
    mean_BT1 = (logp_BTV.exp() * surprisal_BTV).sum(-1, keepdim=True)
    return mean_BT1 - surprisal_BTV, mean_BT1


class Tilted(GPT):
    """A GPT with `ngrams` and a `tilt`; `tilted` makes one. Its logits are normalised before the tilt."""

    def __init__(self, config: GPTConfig, attention: Callable[[GPTConfig], nn.Module], ngrams: NGrams) -> None:
        super().__init__(config, attention)
        self.ngrams = ngrams
        self.tilt = nn.Parameter(torch.zeros(NUMBERS))

    def forward(self, ids_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        return self.evidence(ids_BT, cache).logits(self.tilt)

    def description(self) -> tuple[str, dict[str, Any]]:
        """As of any GPT, and the sizes of the n-grams."""
        _, dims = super().description()
        return "tilted", dims | {"ngrams": self.ngrams.sizes()}

    def evidence(self, ids_BT: Tensor, cache: KVCache | None = None) -> Evidence:
        """What the network and the n-grams say of each next token."""
        network_BTV = super().forward(ids_BT, cache).float().log_softmax(-1)
        read_BS = cache.recall(ids_BT, self.ngrams.reach - 1) if cache is not None else ids_BT
        return Evidence.of(network_BTV, self.ngrams(read_BS)[:, -ids_BT.size(1) :])


def tilted(model: GPT, ngrams: NGrams) -> Tilted:
    """A copy of `model` beside `ngrams`, on its device; its tilt is 0: it says what `model` says."""
    found = Tilted(model.config, copied_attention(model), ngrams)
    found.load_state_dict({**found.state_dict(), **model.state_dict()})
    return found.to(next(model.parameters()).device).train(model.training)


def untilted(model: GPT) -> GPT:
    """A copy of its network alone, on its device: what `tilted` was given; of a GPT without a tilt, all of it."""
    found = GPT(model.config, copied_attention(model))
    found.load_state_dict({name: model.state_dict()[name] for name in found.state_dict()})
    return found.to(next(model.parameters()).device).train(model.training)


def copied_attention(model: GPT) -> Callable[[GPTConfig], nn.Module]:
    """Hands out a copy of the attention of one block after the other."""
    attentions = iter([copy.deepcopy(block.get_submodule("attention")) for block in model.blocks])
    return lambda _: next(attentions)
