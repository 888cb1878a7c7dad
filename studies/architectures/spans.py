"""Windows of text with parts taken out, as the four objectives need them, and the ids that stand in their place.

Shapes: B windows, T tokens, N spans of L tokens each, V words of the vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SENTINELS = 16


@dataclass(frozen=True)
class Words:
    """The ids of a tokenizer, 0 to `known` - 1, and after them those that only models use."""

    known: int

    @property
    def pad(self) -> int:
        return self.known

    @property
    def mask(self) -> int:
        return self.known + 1

    @property
    def begin(self) -> int:
        return self.known + 2

    @property
    def end(self) -> int:
        return self.known + 3

    @property
    def sentinels(self) -> Tensor:
        """Of T5: the n-th stands for the n-th span."""
        return self.known + 4 + torch.arange(SENTINELS)

    @property
    def all(self) -> int:
        return self.known + 4 + SENTINELS


def draw_spans(ids_BT: Tensor, N: int, L: int, rng: torch.Generator) -> Tensor:
    """start_BN: where N spans of L tokens of each window begin, ascending, with a token at least between two."""
    B, T = ids_BT.shape
    gaps = torch.rand(B, T - N * L + 1, generator=rng).argsort(1)[:, :N].sort(1).values
    return gaps + L * torch.arange(N)


def without_spans(ids_BT: Tensor, start_BN: Tensor, L: int, in_place: Tensor) -> Tensor:
    """(B, T - N L + N): every span replaced by one id, the n-th by `in_place`[n]."""
    inside_BT, first_BT, number_BT = _places(ids_BT, start_BN, L)
    replaced_BT = torch.where(first_BT, in_place[number_BT], ids_BT)
    return replaced_BT[~inside_BT | first_BT].view(len(ids_BT), -1)


def spans_of(ids_BT: Tensor, start_BN: Tensor, L: int) -> Tensor:
    """ids_BNL: what was taken out."""
    B, N = start_BN.shape
    return ids_BT.gather(1, (start_BN[..., None] + torch.arange(L)).flatten(1)).view(B, N, L)


def span_targets(ids_BT: Tensor, start_BN: Tensor, L: int, words: Words) -> Tensor:
    """(B, N (L + 1) + 1): T5's target: every sentinel, then the span that it stands for; at last the end."""
    spans_BNL = spans_of(ids_BT, start_BN, L)
    B, N, _ = spans_BNL.shape
    named = torch.cat([words.sentinels[:N].expand(B, N)[..., None], spans_BNL], dim=2).flatten(1)
    return torch.cat([named, torch.full((B, 1), words.end)], dim=1)


def masked(ids_BT: Tensor, place_BN: Tensor, words: Words, rng: torch.Generator) -> Tensor:
    """BERT's input: of the chosen places 80 % hold the mask, 10 % any word, 10 % what they held."""
    dice_BN = torch.rand(place_BN.shape, generator=rng)
    any_BN = torch.randint(words.known, place_BN.shape, generator=rng)
    new_BN = torch.where(dice_BN < 0.8, words.mask, torch.where(dice_BN < 0.9, any_BN, ids_BT.gather(1, place_BN)))
    return ids_BT.scatter(1, place_BN, new_BN)


def draw_places(ids_BT: Tensor, N: int, rng: torch.Generator) -> Tensor:
    """place_BN: N different places of each window."""
    return torch.rand(ids_BT.shape, generator=rng).argsort(1)[:, :N]


def _places(ids_BT: Tensor, start_BN: Tensor, L: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each token: whether it is in a span, whether it is the first of one, and how many spans begin before it."""
    t_T = torch.arange(ids_BT.size(1))
    after_BNT = t_T - start_BN[..., None]
    inside_BT = ((after_BNT >= 0) & (after_BNT < L)).any(1)
    first_BT = (after_BNT == 0).any(1)
    return inside_BT, first_BT, (after_BNT > 0).sum(1).clamp(max=start_BN.size(1) - 1)
