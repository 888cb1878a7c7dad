"""From logits to text: filters that compose, and the one sampler that pipeline, judge, server and command line share.

Axes: B batch, T tokens so far, V vocabulary. A filter is a pure function on the logits of the next token; a token that
it rules out gets minus infinity.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from troupe.errors import ParamsError
from troupe.models.gpt2 import GPT
from troupe.models.layers import KVCache


def penalise_repetition(logits_BV: Tensor, seen_BT: Tensor, penalty: float) -> Tensor:
    """Divide the positive logits of tokens seen before by `penalty`, multiply the negative ones (CTRL, 1909.05858)."""
    seen = logits_BV.gather(-1, seen_BT)
    return logits_BV.scatter(-1, seen_BT, torch.where(seen > 0, seen / penalty, seen * penalty))


def apply_temperature(logits_BV: Tensor, temperature: float) -> Tensor:
    """Below 1 sharper, above 1 flatter; towards 0 the likeliest token takes all."""
    return logits_BV / temperature


def keep_top_k(logits_BV: Tensor, k: int) -> Tensor:
    """Keep the k likeliest tokens (Fan et al. 2018)."""
    values, indices = logits_BV.topk(min(k, logits_BV.size(-1)), dim=-1)
    return torch.full_like(logits_BV, -torch.inf).scatter(-1, indices, values)


def keep_top_p(logits_BV: Tensor, p: float) -> Tensor:
    """Keep the smallest set of likeliest tokens with a probability of at least p together (Holtzman et al. 2020)."""
    if p >= 1:
        return logits_BV  # a running sum may round up to 1 before the last token
    values, indices = logits_BV.sort(dim=-1, descending=True)
    probabilities = values.softmax(-1)
    mass_before = probabilities.cumsum(-1) - probabilities
    return logits_BV.scatter(-1, indices, values.masked_fill(mass_before >= p, -torch.inf))


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen. Filters apply in the order of the fields; `greedy` takes the likeliest token left.

    Raises ParamsError for a value out of range.
    """

    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    greedy: bool = False

    def __post_init__(self) -> None:
        if not self.repetition_penalty > 0:
            raise ParamsError(f"repetition_penalty must be above 0, got {self.repetition_penalty}; 1 turns it off")
        if not self.temperature > 0:
            raise ParamsError(
                f"temperature must be above 0, got {self.temperature}; use greedy for the likeliest token"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ParamsError(f"top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ParamsError(f"top_p must be above 0 and at most 1, got {self.top_p}")

    def filter(self, logits_BV: Tensor, seen_BT: Tensor) -> Tensor:
        """The logits that the next token is drawn from."""
        if self.repetition_penalty != 1:
            logits_BV = penalise_repetition(logits_BV, seen_BT, self.repetition_penalty)
        logits_BV = apply_temperature(logits_BV, self.temperature)
        if self.top_k is not None:
            logits_BV = keep_top_k(logits_BV, self.top_k)
        if self.top_p is not None:
            logits_BV = keep_top_p(logits_BV, self.top_p)
        return logits_BV

    def choose(self, logits_BV: Tensor, seen_BT: Tensor, rng: torch.Generator) -> Tensor:
        """(B, 1): the next token of each sequence."""
        logits_BV = self.filter(logits_BV.float(), seen_BT)
        if self.greedy:
            return logits_BV.argmax(-1, keepdim=True)
        probabilities_BV = logits_BV.softmax(-1).to(rng.device)
        return torch.multinomial(probabilities_BV, 1, generator=rng).to(logits_BV.device)


def stream(model: GPT, ids_BT: Tensor, n_new: int, decoding: Decoding, rng: torch.Generator) -> Iterator[Tensor]:
    """Yield the next token of every sequence, (B,), `n_new` times. Fastest with `rng` on the model's device.

    The model sees at most its last block_size tokens. GPT-2's learned positions cannot slide, so when its context is
    full the model starts again from the last half of it: every token is predicted from at least block_size/2 tokens,
    and the cache is rebuilt once in block_size/2 tokens instead of at every one. The repetition penalty remembers as
    far back as the model does. Raises ParamsError for an empty prompt.
    """
    if ids_BT.size(1) == 0:
        raise ParamsError("the prompt is empty; give at least one token to continue")
    block_size = model.config.block_size
    context_BT = new_BT = ids_BT[:, -block_size:]
    cache = KVCache(model.config.n_layer, block_size)
    with evaluating(model):
        for _ in range(n_new):
            next_B1 = _next(model, new_BT, context_BT, cache, decoding, rng)
            yield next_B1.squeeze(-1)
            context_BT, new_BT = torch.cat([context_BT, next_B1], dim=1), next_B1
            if context_BT.size(1) > block_size:
                context_BT = new_BT = context_BT[:, -(block_size // 2) :]
                cache = KVCache(model.config.n_layer, block_size)


def generate(model: GPT, ids_BT: Tensor, n_new: int, decoding: Decoding, rng: torch.Generator) -> Tensor:
    """The prompt and `n_new` tokens after it, (B, T + n_new), windowed as in `stream`."""
    new_B = stream(model, ids_BT, n_new, decoding, rng)
    return torch.cat([ids_BT, *(next_B.unsqueeze(-1) for next_B in new_B)], dim=1)


@torch.inference_mode()
def _next(
    model: GPT, new_BT: Tensor, context_BT: Tensor, cache: KVCache, decoding: Decoding, rng: torch.Generator
) -> Tensor:
    return decoding.choose(model(new_BT, cache)[:, -1], context_BT, rng)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode (no dropout) inside, whatever it was before outside."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
