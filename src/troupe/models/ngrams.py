"""A Kneser-Ney model of tokens as a network: what it says of every token of the vocabulary, on any device.

It is counted, not trained (models/kneser_ney.py), and kept as sorted tables, so that a bundle can hold it.

Shapes: B batch, T tokens, V vocabulary, M = B * T positions, G distinct n-grams and C distinct contexts of an order.
"""

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from troupe.data.dataset import Ids
from troupe.models.kneser_ney import UNSEEN, kneser_ney

COUNTED = 2**22  # tokens, from the beginning: bounds memory, at order 5 some 50 bytes for each, 200 while counting


class GramTable(nn.Module):
    """One order's tables: G n-grams in ascending order of their keys, context * V + token, and C contexts."""

    key_G: Tensor
    frequency_G: Tensor
    backoff_C: Tensor

    def __init__(self, n_grams: int, n_contexts: int) -> None:
        super().__init__()
        self.register_buffer("key_G", torch.zeros(n_grams, dtype=torch.int64))
        self.register_buffer("frequency_G", torch.zeros(n_grams))
        self.register_buffer("backoff_C", torch.zeros(n_contexts))

    def find(self, context_M: Tensor, ids_M: Tensor, vocab_size: int) -> Tensor:
        """gram_M: the number of each n-gram, given the number of its context; UNSEEN where it was never counted."""
        wanted_M = torch.where(context_M == UNSEEN, UNSEEN, context_M * vocab_size + ids_M)
        place_M = torch.searchsorted(self.key_G, wanted_M).clamp_max(len(self.key_G) - 1)
        return torch.where(self.key_G[place_M] == wanted_M, place_M, UNSEEN)

    def left(self, context_M: Tensor) -> Tensor:
        """(M,): the share that each context leaves to the lower order."""
        return torch.where(context_M == UNSEEN, 1.0, self.backoff_C[context_M])

    def dense(self, vocab_size: int) -> Tensor:
        """(V,): what the lowest order, which has one context, says of every token."""
        return self.frequency_G.new_zeros(vocab_size).index_copy_(0, self.key_G, self.frequency_G)

    def add_to(self, p_MV: Tensor, context_M: Tensor, weight_M: Tensor) -> None:
        """Add what this order itself says of the tokens that follow each context, times `weight_M`; in place.

        The n-grams of a context stand side by side in the tables: only what was counted after it is looked at.
        """
        V = p_MV.size(1)
        bounds_2M = torch.stack([context_M, context_M + 1]) * V
        first_M, end_M = torch.searchsorted(self.key_G, torch.where(context_M == UNSEEN, 0, bounds_2M))
        length_M = end_M - first_M
        row_R = torch.repeat_interleave(length_M)  # R: all n-grams of all contexts, one after the other
        gram_R = torch.arange(len(row_R), device=row_R.device) + (first_M - length_M.cumsum(0) + length_M)[row_R]
        p_MV.view(-1).index_add_(0, row_R * V + self.key_G[gram_R] % V, self.frequency_G[gram_R] * weight_M[row_R])


class NGrams(nn.Module):
    """`ngrams(ids_BT) -> logp_BTV`: the log-probability of every token after each of `ids_BT`, in nats.

    `sizes` holds the number of n-grams and of contexts of each order, from 1 to the highest.
    """

    def __init__(self, vocab_size: int, sizes: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.orders = nn.ModuleList(GramTable(*of_order) for of_order in sizes)

    @classmethod
    def counted(cls, ids_N: Ids, order: int, vocab_size: int) -> Self:
        """The interpolated Kneser-Ney model of a text of tokens, or of its first `COUNTED`."""
        ids_N = ids_N[:COUNTED]
        found = kneser_ney(ids_N, min(order, len(ids_N)), vocab_size).orders
        parts = [one.highest if one is found[-1] else one.lower for one in found]
        model = cls(vocab_size, [(len(one.key), len(part.backoff) - 1) for one, part in zip(found, parts, strict=True)])
        for grams, one, part in zip(model.grams(), found, parts, strict=True):
            grams.key_G.copy_(torch.from_numpy(one.key))
            grams.frequency_G.copy_(torch.from_numpy(part.frequency[:UNSEEN]))
            grams.backoff_C.copy_(torch.from_numpy(part.backoff[:UNSEEN]))
        return model

    def grams(self) -> list[GramTable]:
        return [one for one in self.orders if isinstance(one, GramTable)]

    def sizes(self) -> list[tuple[int, int]]:
        return [(len(one.key_G), len(one.backoff_C)) for one in self.grams()]

    @property
    def reach(self) -> int:
        """How many tokens before the next one are read."""
        return len(self.orders) - 1

    @torch.no_grad()
    def forward(self, ids_BT: Tensor) -> Tensor:
        contexts = self._contexts(ids_BT)
        weight_M, weights = torch.ones_like(contexts[0], dtype=torch.float32), []
        for grams, context_M in zip(reversed(self.grams()), reversed(contexts), strict=True):
            weights.append(weight_M)
            weight_M = weight_M * grams.left(context_M)
        first, *higher = zip(self.grams(), contexts, reversed(weights), strict=True)
        p_MV = first[0].dense(self.vocab_size) * first[2].unsqueeze(-1)
        p_MV += (weight_M / self.vocab_size).unsqueeze(-1)
        for grams, context_M, share_M in higher:
            grams.add_to(p_MV, context_M, share_M)
        return p_MV.log_().view(*ids_BT.shape, self.vocab_size)

    def _contexts(self, ids_BT: Tensor) -> list[Tensor]:
        """context_M of every order: the number of the n-gram that ends at each token, of no token for the first."""
        found_BT = torch.zeros_like(ids_BT)
        contexts = [found_BT]
        for n, grams in enumerate(self.grams()[:-1]):
            before_BT = F.pad(found_BT[:, :-1], (1, 0), value=UNSEEN) if n else found_BT
            found_BT = grams.find(before_BT, ids_BT, self.vocab_size)
            contexts.append(found_BT)
        return [context_BT.flatten() for context_BT in contexts]
