"""What frozen language models say of each token: features that a discriminator reads beside the token.

Text sampled at temperature 1 has the right words in nearly the right order; what gives it away is how it sits in the
distribution it should come from, which a small LSTM cannot learn from a few thousand sequences and a language model
knows. Two references that learned differently say more than one: to the one that the generator resembles, generated
text is less surprising than to the other, and real text is not. Axes: N or B sequences, T tokens, V vocabulary, F = 3
features of every reference.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import Tensor

from troupe.models.gpt2 import GPT, evaluating

Features = Callable[[Tensor], Tensor]  # ids_BT -> features_BTF
PER_REFERENCE = 3
FLOATS = 2**28  # 1 GB of what is computed of all tokens of the vocabulary


class ReferenceFeatures:
    """features_BTF of each token: under each reference's prediction from the tokens before it, the token's surprisal
    -ln p, the entropy of that prediction and ln(1 + tokens that were likelier), in nats.

    The first token is predicted from nothing: its features are those of the uniform distribution, with the rank in the
    middle. All are bounded: the surprisal is cut at 2 ln V (an even guess is ln V).

    References must have been trained on text *disjoint* from the real class of the discriminator: text that they
    remember is more probable to them than any other, and the discriminator would tell memory, not quality. The
    generator under training is no reference either: it changes.
    """

    def __init__(self, *references: GPT) -> None:
        self.references = references
        self.width = PER_REFERENCE * len(references)
        self.context = min(reference.config.block_size for reference in references)

    @torch.no_grad()
    def __call__(self, ids_BT: Tensor) -> Tensor:
        """Raises ValueError if the sequences are longer than the context of a reference."""
        parts = torch.split(ids_BT, self.at_once(ids_BT.size(1)))
        parts_of_all = [
            torch.cat([features_of(reference, part_BT) for reference in self.references], dim=-1) for part_BT in parts
        ]
        return torch.cat(parts_of_all)

    def at_once(self, length: int) -> int:
        """How many sequences of `length` tokens are read at a time: as many as find room in a gigabyte (`FLOATS`)."""
        of_all_tokens = 4  # tensors as large as the logits, at the same time
        largest = max(reference.config.vocab_size for reference in self.references)
        return max(1, FLOATS // (of_all_tokens * length * largest))


def features_of(reference: GPT, ids_BT: Tensor) -> Tensor:
    """(B, T, 3): the features of one reference."""
    with evaluating(reference):
        logp_BTV = reference(ids_BT).float().log_softmax(-1)
    logp_BTV = torch.cat([torch.full_like(logp_BTV[:, :1], -math.log(logp_BTV.size(-1))), logp_BTV[:, :-1]], dim=1)
    logp_BT1 = logp_BTV.gather(-1, ids_BT.unsqueeze(-1))
    entropy_BT1 = torch.special.entr(logp_BTV.exp()).sum(-1, keepdim=True)
    # Equals count half, so that the first token's rank is in the middle.
    above, equal = (logp_BTV > logp_BT1).sum(-1, keepdim=True), (logp_BTV == logp_BT1).sum(-1, keepdim=True)
    rank_BT1 = (above + (equal - 1) / 2).log1p()
    surprisal_BT1 = (-logp_BT1).clamp_max(2 * math.log(logp_BTV.size(-1)))
    return torch.cat([surprisal_BT1, entropy_BT1, rank_BT1], dim=-1)


def no_features(ids_BT: Tensor) -> Tensor:
    """(B, T, 0): for a discriminator that reads tokens alone."""
    return torch.empty(*ids_BT.shape, 0, device=ids_BT.device)


class Read(NamedTuple):
    """Sequences as a discriminator reads them, with features that were computed once: `critic.embed(*read)`."""

    ids_NT: Tensor
    features_NTF: Tensor

    @classmethod
    def of(cls, ids_NT: Tensor, features: Features, at_once: int = 32) -> Self:
        """Sequences are read `at_once` at a time, or fewer where the vocabulary is large (ReferenceFeatures)."""
        return cls(ids_NT, torch.cat([features(ids_BT) for ids_BT in torch.split(ids_NT, at_once)]))

    def rows(self, rows_B: Tensor) -> Self:
        return type(self)(self.ids_NT[rows_B], self.features_NTF[rows_B])
