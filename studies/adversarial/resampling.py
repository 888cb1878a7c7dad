"""Better text than a model's own, from the model and a discriminator: of several candidates one is drawn.

It draws from the residual energy-based model (troupe.adversarial.distil has its law), span by span.
docs/algorithms/resampling.md has what that costs, and what it leaves as it is.

Shapes: N texts, K candidates of each, M = N * K, T tokens so far, S tokens of a span.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from troupe.decoding import Decoding, draw, generate, side_by_side, uniforms
from troupe.errors import ParamsError
from troupe.models.gpt2 import GPT
from troupe.models.reader import Discriminator
from troupe.seeding import derive_seed


@dataclass(frozen=True)
class Resampling:
    """How text is written that a discriminator chooses: of `candidates` continuations of `span` tokens one is drawn in
    proportion to exp(score). Raises ParamsError for a value out of range."""

    discriminator: Discriminator
    candidates: int
    span: int  # tokens that are chosen together
    context: int  # tokens that the discriminator reads: the span and what stands before it

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ParamsError(f"candidates must be at least 1, got {self.candidates}; 1: the model's own text")
        if not 1 <= self.span < self.context:
            raise ParamsError(f"span must be at least 1 and below context ({self.context}), got {self.span}")
        if self.context > (most := self.discriminator.features.context):
            raise ParamsError(f"context ({self.context}) must not exceed the {most} tokens that the references read")


def effective_candidates(score_NK: Tensor) -> float:
    """1 / sum of squared weights (Kish 1965), mean over prompts: from 1 (one candidate has all the weight) to K."""
    return (1 / score_NK.double().softmax(-1).square().sum(-1)).mean().item()


def write(
    model: GPT, sampler: Resampling, ids_NT: Tensor, n_new: int, decoding: Decoding, seeds: Sequence[int]
) -> Tensor:
    """The prompts and `n_new` tokens after them, (N, T + n_new), drawn among candidates a span at a time.

    `decoding` is that of candidates; the choice among them is the same under any. A text depends on its
    prompt and its seed, not on the texts beside it. Errors are those of `decoding.generate`.
    """
    if sampler.candidates == 1:
        return generate(model, ids_NT, n_new, decoding, seeds)
    if len(seeds) != len(ids_NT):
        raise ValueError(f"{len(seeds)} seeds for {len(ids_NT)} sequences")
    for number, first in enumerate(range(0, n_new, sampler.span)):
        own = [derive_seed(seed, "span", number) for seed in seeds]
        new_NS = _chosen(model, sampler, ids_NT, min(sampler.span, n_new - first), decoding, own)
        ids_NT = torch.cat([ids_NT, new_NS], dim=1)
    return ids_NT


def _chosen(
    model: GPT, sampler: Resampling, ids_NT: Tensor, n_new: int, decoding: Decoding, seeds: list[int]
) -> Tensor:
    """new_NS: of each text's candidates one, drawn with a random number of the text's own."""
    K, at_once = sampler.candidates, side_by_side(model)
    new, scores = [], []
    for part in torch.split(torch.arange(len(seeds) * K), at_once):  # no more prompts than are written at a time
        own = [derive_seed(seeds[m // K], "candidate", m % K) for m in part.tolist()]
        ids_MT = generate(model, ids_NT[part // K], n_new, decoding, own)
        new.append(ids_MT[:, -n_new:])
        # All are read from the same token on, so that evidence of what candidates share adds the same to each. How much
        # that is need not be said, and could not be: spelt anew it may have fewer tokens.
        scores.append(sampler.discriminator.scores(ids_MT[:, -sampler.context :], n_given=0))
    new_NKS, score_NK = (torch.unflatten(torch.cat(parts), 0, (-1, K)) for parts in (new, scores))
    uniform_N1 = uniforms([derive_seed(seed, "choice") for seed in seeds], 1).to(ids_NT.device)
    return new_NKS.take_along_dim(draw(score_NK.double(), uniform_N1).unsqueeze(-1), dim=1).squeeze(1)
