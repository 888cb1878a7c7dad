"""Better text than a model's own, from the model and a discriminator: of several candidates one is drawn.

The residual energy-based model of Deng et al. 2020 (arXiv:2004.11714) is p(x) proportional to q(x) exp(score(x)): q the
generator, score a discriminator trained by cross-entropy (objectives.GAN), which at its best is ln p_data(x) / q(x).
Sampling-importance-resampling (Rubin 1987) draws from it: exactly as the number of candidates grows; with one
candidate, from the generator. docs/algorithms/resampling.md tells what that costs, and what it leaves as it is.

Shapes: N texts, K candidates of each, M = N * K, T tokens so far, S tokens of a span.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from troupe.decoding import Decoding, draw, generate, side_by_side, uniforms
from troupe.decoding import stream as token_by_token
from troupe.models.bundle import Bundle, Resampling
from troupe.models.gpt2 import GPT
from troupe.seeding import derive_seed

NO_TOKEN = -1  # ends no text


def resample(ids_NKT: Tensor, score_NK: Tensor, rng: torch.Generator) -> Tensor:
    """ids_NT: of each row one candidate, drawn in proportion to exp(score)."""
    weight_NK = score_NK.double().softmax(-1).to(rng.device)
    drawn_N1 = torch.multinomial(weight_NK, 1, generator=rng).to(ids_NKT.device)
    return ids_NKT.take_along_dim(drawn_N1.unsqueeze(-1), dim=1).squeeze(1)


def effective_candidates(score_NK: Tensor) -> float:
    """1 / sum of squared weights (Kish 1965), mean over prompts: from 1 (one candidate has all the weight) to K."""
    return (1 / score_NK.double().softmax(-1).square().sum(-1)).mean().item()


def write(
    bundle: Bundle,
    ids_NT: Tensor,
    n_new: int,
    decoding: Decoding,
    seeds: Sequence[int],
    stop_id: int | None = None,
) -> Tensor:
    """As `decoding.generate`, but the way the bundle writes: the prompts and what `stream` yields after them."""
    new_N = stream(bundle, ids_NT, n_new, decoding, seeds, stop_id)
    return torch.cat([ids_NT, *(next_N.unsqueeze(-1) for next_N in new_N)], dim=1)


def stream(
    bundle: Bundle,
    ids_NT: Tensor,
    n_new: int,
    decoding: Decoding,
    seeds: Sequence[int],
    stop_id: int | None = None,
) -> Iterator[Tensor]:
    """As `decoding.stream`, but the way the bundle writes: with a sampler, tokens arrive a span at a time.

    `decoding` says how candidates are written; the sampler's choice among them is the same under any. A text depends
    on its prompt and its seed, not on the texts beside it. Errors are those of `decoding.stream`.
    """
    sampler = bundle.resampling
    if sampler is None or sampler.candidates == 1 or decoding.greedy:  # greedy candidates are all the same text
        yield from token_by_token(bundle.model, ids_NT, n_new, decoding, seeds, stop_id)
        return
    if len(seeds) != len(ids_NT):
        raise ValueError(f"{len(seeds)} seeds for {len(ids_NT)} sequences")
    stop = NO_TOKEN if stop_id is None else stop_id
    running_N = torch.ones(len(ids_NT), dtype=torch.bool, device=ids_NT.device)
    for number, first in enumerate(range(0, n_new, sampler.span)):
        rows = running_N.nonzero().squeeze(1)
        own = [derive_seed(seeds[row], "span", number) for row in rows.tolist()]
        new_NS = ids_NT.new_full((len(ids_NT), min(sampler.span, n_new - first)), stop)
        new_NS[rows] = _chosen(bundle.model, sampler, ids_NT[rows], new_NS.size(1), decoding, own, stop)
        for next_N in new_NS.unbind(1):
            yield next_N
            running_N &= next_N != stop
            if not running_N.any():
                return
        ids_NT = torch.cat([ids_NT, new_NS], dim=1)


def _chosen(
    model: GPT, sampler: Resampling, ids_NT: Tensor, n_new: int, decoding: Decoding, seeds: list[int], stop: int
) -> Tensor:
    """new_NS: of each text's candidates one, drawn with a random number of the text's own."""
    K, at_once = sampler.candidates, side_by_side(model.config)
    new, scores = [], []
    for part in torch.split(torch.arange(len(seeds) * K), at_once):  # no more prompts than are written at a time
        own = [derive_seed(seeds[m // K], "candidate", m % K) for m in part.tolist()]
        ids_MT = generate(model, ids_NT[part // K], n_new, decoding, own, stop)
        ids_MT = F.pad(ids_MT, (0, ids_NT.size(1) + n_new - ids_MT.size(1)), value=stop)  # where all have ended
        new.append(ids_MT[:, -n_new:])
        scores.append(_scores(sampler, ids_MT, n_new, stop))
    new_NKS, score_NK = (torch.unflatten(torch.cat(parts), 0, (-1, K)) for parts in (new, scores))
    uniform_N1 = uniforms([derive_seed(seed, "choice") for seed in seeds], 1).to(ids_NT.device)
    return new_NKS.take_along_dim(draw(score_NK.double(), uniform_N1).unsqueeze(-1), dim=1).squeeze(1)


def _scores(sampler: Resampling, ids_MT: Tensor, n_new: int, stop: int) -> Tensor:
    """score_M of each text up to its end. The discriminator reads `context` tokens, or as many as there are of them.

    All are read from the same token on, so that evidence of what candidates share adds the same to each. How much that
    is need not be said, and could not be: spelt anew it may have fewer tokens.
    """
    first = max(0, ids_MT.size(1) - sampler.context)
    ends_M = ids_MT.size(1) - (ids_MT[:, -n_new:] == stop).sum(1)
    score_M = torch.empty(len(ids_MT), device=ids_MT.device)
    for end in torch.unique(ends_M).tolist():  # texts of one length together: none is read with padding of others
        rows_M = ends_M == end
        score_M[rows_M] = sampler.discriminator.scores(ids_MT[rows_M, first:end], n_given=0)
    return score_M
