"""From logits to text: filters that compose, and the one sampler that pipeline, judge, server and command line share.

Axes: B batch, T tokens so far, V vocabulary, K of its tokens, N new tokens. A filter is a pure function on the logits
of the next token; one that it rules out gets minus infinity, but `likeliest` hands on those it keeps, with their ids.
docs/algorithms/decoding.md tells the order, the seeds and the window.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from troupe.errors import ArtifactError, ParamsError
from troupe.kernels.layers import calling_directly
from troupe.models.config import ONLY_FIELDS
from troupe.models.gpt2 import GPT, evaluating
from troupe.models.layers import KVCache

FLOATS = 2**28  # 1 GB of keys, values and logits


def penalise_repetition(logits_BV: Tensor, seen_BT: Tensor, penalty: float) -> Tensor:
    """Divide the positive logits of tokens seen before by `penalty`, multiply the negative ones (CTRL, 1909.05858)."""
    seen = logits_BV.gather(-1, seen_BT)
    return logits_BV.scatter(-1, seen_BT, torch.where(seen > 0, seen / penalty, seen * penalty))


def apply_temperature(logits_BV: Tensor, temperature: float) -> Tensor:
    """Below 1 sharper, above 1 flatter; towards 0 the likeliest token takes all.

    The highest logit becomes 0, so that under a tiny temperature the others overflow to minus infinity, none to plus.
    """
    return (logits_BV - logits_BV.amax(-1, keepdim=True)) / temperature


def likeliest(logits_BV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(B, k) each: the logits of the k likeliest tokens (Fan et al. 2018, 1805.04833) and their ids, in the order of
    the ids; of equals at the limit, any. What follows deals with k tokens instead of V."""
    ids_BK = logits_BV.topk(min(k, logits_BV.size(-1)), dim=-1, sorted=False).indices.sort(dim=-1).values
    return logits_BV.gather(-1, ids_BK), ids_BK


def keep_top_p(logits_BV: Tensor, p: float) -> Tensor:
    """Keep the smallest set of likeliest tokens with a probability of at least p together, of equals the first.

    The nucleus of Holtzman et al. 2020, 1904.09751.
    """
    if p >= 1:
        return logits_BV  # a running sum may round up to 1 before the last token
    values, indices = logits_BV.sort(dim=-1, descending=True, stable=True)
    probabilities = values.softmax(-1)
    mass_before = probabilities.cumsum(-1) - probabilities
    kept = values.masked_fill(mass_before >= max(p, torch.finfo(mass_before.dtype).tiny), -torch.inf)  # never none
    return torch.full_like(logits_BV, -torch.inf).scatter(-1, indices, kept)


def keep_min_p(logits_BV: Tensor, p: float) -> Tensor:
    """Keep the tokens at least p times as likely as the likeliest (min-p: Nguyen et al. 2024, 2407.01082).

    A ratio of probabilities is a difference of logits, so nothing is normalised and nothing sorted.
    """
    if p <= 0:
        return logits_BV
    return torch.where(logits_BV >= logits_BV.amax(-1, keepdim=True) + math.log(p), logits_BV, -torch.inf)


def draw(logits_BV: Tensor, uniform_B1: Tensor) -> Tensor:
    """(B, 1): the first token up to which the probabilities add up to more than `uniform`, which is from [0, 1).

    The inverse of the cumulative distribution: one number draws one token, and a token of probability 0 is never drawn.
    Raises ArtifactError for logits that are no distribution: a NaN, an infinity, or all minus infinity.
    """
    cumulative_BV = logits_BV.softmax(-1).cumsum(-1, dtype=torch.float64)
    _refuse(bool(cumulative_BV[:, -1].isnan().any()))
    return torch.searchsorted(cumulative_BV, uniform_B1 * cumulative_BV[:, -1:], right=True)


def take_likeliest(logits_BV: Tensor) -> Tensor:
    """(B, 1): the likeliest token, of equals the first. Raises ArtifactError as `draw` does."""
    highest_B1, ids_B1 = logits_BV.max(-1, keepdim=True)
    _refuse(not highest_B1.isfinite().all())
    return ids_B1


def _refuse(not_finite: bool) -> None:
    if not_finite:
        raise ArtifactError("the model gives no probabilities: its logits are not finite, so its weights are damaged")


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen. Filters apply in the order of the fields; `greedy` takes the likeliest token left.

    Raises ParamsError for a value out of range.
    """

    __pydantic_config__ = ONLY_FIELDS

    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    greedy: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.repetition_penalty < math.inf:
            raise ParamsError(f"repetition_penalty must be above 0, got {self.repetition_penalty}; 1 turns it off")
        if not torch.finfo(torch.float32).tiny < self.temperature < math.inf:
            raise ParamsError(
                f"temperature must be above 0, got {self.temperature}; use greedy for the likeliest token"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ParamsError(f"top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ParamsError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ParamsError(f"min_p must be from 0 to 1, got {self.min_p}; 0 turns it off")

    def choose(self, logits_BV: Tensor, seen_BT: Tensor, uniform_B1: Tensor) -> Tensor:
        """(B, 1): the next token of each sequence, drawn with its own number from [0, 1); greedy needs none."""
        logits_BV = self._reweigh(logits_BV.float(), seen_BT)
        if self.top_k is None:
            return self._take(logits_BV, uniform_B1)
        logits_BK, ids_BK = likeliest(logits_BV, self.top_k)
        return ids_BK.gather(-1, self._take(logits_BK, uniform_B1))

    def _reweigh(self, logits_BV: Tensor, seen_BT: Tensor) -> Tensor:
        if self.repetition_penalty != 1:
            logits_BV = penalise_repetition(logits_BV, seen_BT, self.repetition_penalty)
        if self.temperature != 1:
            logits_BV = apply_temperature(logits_BV, self.temperature)
        return logits_BV

    def _take(self, logits_BV: Tensor, uniform_B1: Tensor) -> Tensor:
        if self.top_p is not None:
            logits_BV = keep_top_p(logits_BV, self.top_p)
        if self.min_p is not None:
            logits_BV = keep_min_p(logits_BV, self.min_p)
        return take_likeliest(logits_BV) if self.greedy else draw(logits_BV, uniform_B1)


def uniforms(seeds: Sequence[int], n_new: int) -> Tensor:
    """u_BN from [0, 1): the random numbers of every sequence come from its own seed alone, always on the CPU."""
    rng = torch.Generator()
    return torch.stack([torch.rand(n_new, generator=rng.manual_seed(seed), dtype=torch.float64) for seed in seeds])


@torch.inference_mode()
def stream(
    model: GPT, ids_BT: Tensor, n_new: int, decoding: Decoding, seeds: Sequence[int], stop_id: int | None = None
) -> Iterator[Tensor]:
    """Yield the next token of every sequence, (B,), `n_new` times, or until each of them has drawn `stop_id`.

    A sequence that has drawn `stop_id` goes on with nothing else. `seeds` holds one seed per sequence: its text depends
    on the model, its prompt and its seed, not on the sequences beside it. What that leaves open: a matrix product may
    round differently for another number of sequences, and a draw that falls within such an error (about 1e-6 in single
    precision) of the border between two tokens then takes the other one.

    The model sees at most its last block_size tokens. When its context is full it starts again from the last half of
    it: every token is predicted from at least block_size/2 tokens, and the cache is rebuilt once in block_size/2 tokens
    instead of at every one. Learned positions cannot slide; rotary ones could, but what is cached in later layers would
    still know of the tokens let go, which training never showed: one rule for both, as trained. The repetition penalty
    remembers as far back as the model does.

    Raises ParamsError for an empty prompt, ValueError if seeds and sequences differ in number.
    """
    B, T = ids_BT.shape
    if T == 0:
        raise ParamsError("the prompt is empty; give at least one token to continue")
    if len(seeds) != B:
        raise ValueError(f"{len(seeds)} seeds for {B} sequences")
    block_size = model.config.block_size
    uniform_BN = uniforms(seeds, n_new).to(ids_BT.device)
    ids_BT = F.pad(ids_BT, (0, n_new))  # room for all, so that a new token copies no old ones
    running_B1 = torch.ones_like(ids_BT[:, :1], dtype=torch.bool)
    start, capacity = max(0, T - block_size), min(block_size, T + n_new)
    cache = KVCache(model.config.n_layer, capacity)
    with evaluating(model), calling_directly(model):
        for end in range(T, T + n_new):
            if end - start > block_size:
                start, cache = end - max(1, block_size // 2), KVCache(model.config.n_layer, capacity)
            logits_BV = model(ids_BT[:, start + cache.length : end], cache)[:, -1]
            next_B1 = decoding.choose(logits_BV, ids_BT[:, start:end], uniform_BN[:, end - T, None])
            if stop_id is not None:
                next_B1 = next_B1.where(running_B1, stop_id)
                running_B1 = next_B1 != stop_id
            ids_BT[:, end : end + 1] = next_B1
            yield next_B1.squeeze(-1)
            if stop_id is not None and not running_B1.any():
                return


def generate(
    model: GPT, ids_BT: Tensor, n_new: int, decoding: Decoding, seeds: Sequence[int], stop_id: int | None = None
) -> Tensor:
    """The prompts and what `stream` yields after them, (B, T + n_new), or less where all have drawn `stop_id`."""
    new_B = stream(model, ids_BT, n_new, decoding, seeds, stop_id)
    return torch.cat([ids_BT, *(next_B.unsqueeze(-1) for next_B in new_B)], dim=1)


def side_by_side(model: GPT) -> int:
    """How many sequences may be written at a time: as many as find room in a gigabyte (`FLOATS`)."""
    config = model.config
    return max(1, FLOATS // (config.block_size * (2 * config.n_layer * model.cache_width + config.vocab_size)))
