"""A discriminator with all it needs to read text by itself: its critic, the features beside each token, the spelling.

The features are what frozen language models say of each token. Text sampled at temperature 1 has the right words in
nearly the right order; what gives it away is how it sits in the distribution it should come from, which a small LSTM
cannot learn from a few thousand sequences and a language model knows. Two references that learned differently say more
than one: to the one that the generator resembles, generated text is less surprising than to the other, and real text is
not.

Axes: B sequences, N of them altogether, T tokens, L tokens as the tokenizer spells them, V vocabulary, F = 3 features
of every reference.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from troupe.data.tokenizer import Tokenizer, whole_characters
from troupe.models.discriminator import LSTMDiscriminator
from troupe.models.gpt2 import GPT, evaluating

Features = Callable[[Tensor], Tensor]  # ids_BT -> features_BTF
PER_REFERENCE = 3
AT_ONCE = 256  # sequences whose states are held at a time
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


@dataclass(frozen=True)
class Discriminator:
    """A critic, and what it reads: tokens as the tokenizer spells them, and features."""

    critic: LSTMDiscriminator
    features: ReferenceFeatures
    tokenizer: Tokenizer

    def read(self, ids_BT: Tensor) -> Read:
        """To learn from: of the last tokens, as many as the references can read, cut where nearly all texts end."""
        return Read.of(canonical(self.tokenizer, ids_BT[:, -self.features.context :]), self.features)

    @torch.no_grad()
    def scores(self, ids_BT: Tensor, n_given: int | None = None) -> Tensor:
        """score_B of each text to its last whole character: ln of the odds that it is real, of a critic that was
        trained by cross-entropy. The first `n_given` tokens, spelt anew, are no evidence; by default as many as in
        training. Of a text whose spelling is longer than the context, the end is not read."""
        context = self.features.context
        ids_BL, length_B = spelt(self.tokenizer, ids_BT[:, -context:])
        read = Read.of(ids_BL[:, :context], self.features)
        parts = torch.split(torch.arange(len(ids_BT), device=ids_BT.device), AT_ONCE)
        texts = (self.critic.embed(*read.rows(rows_B)) for rows_B in parts)
        scores_BL = torch.cat([self.critic.prefix_scores(x_BTX, n_given) for x_BTX in texts])
        return scores_BL.gather(1, length_B.clamp_max(context).unsqueeze(1) - 1).squeeze(1)


def spelt(tokenizer: Tokenizer, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
    """The same texts as the tokenizer spells them: (ids_BL, length_B), shorter ones filled up with their last token.

    Half a character at either end, where a text was cut between two tokens, is left out: read as U+FFFD it would pass
    for a fault of its writer. Of a text that is no more than that the first token stays.
    """
    rows = [tokenizer.encode(whole_characters(tokenizer.decode_bytes(ids))) or ids[:1] for ids in ids_BT.tolist()]
    longest = max(map(len, rows))
    filled = [row + row[-1:] * (longest - len(row)) for row in rows]
    device = ids_BT.device
    return torch.tensor(filled, device=device), torch.tensor([len(row) for row in rows], device=device)


def canonical(tokenizer: Tokenizer, ids_BT: Tensor) -> Tensor:
    """ids_BL: the same texts as the tokenizer spells them, L = 7/8 T.

    A generator may spell a word with other tokens than the tokenizer would: a tell that no reader of text can see, and
    that teaches a discriminator nothing about text. Spelt anew a text has fewer tokens, so that all are cut to a length
    that nearly all have; the last token of a shorter one is repeated. Real text is spelt so already, and cut alike.
    """
    length = ids_BT.size(1) - ids_BT.size(1) // 8
    ids_BL, _ = spelt(tokenizer, ids_BT)
    return torch.cat([ids_BL, ids_BL[:, -1:].expand(-1, length)], dim=1)[:, :length]


@torch.no_grad()
def scores(critic: LSTMDiscriminator, read: Read, at_once: int = AT_ONCE) -> Tensor:
    """score_N of sequences that are read already, in the unit of the objective that trained the critic."""
    pieces = torch.split(torch.arange(len(read.ids_NT), device=read.ids_NT.device), at_once)
    return torch.cat([critic.score(critic.embed(*read.rows(rows_B))) for rows_B in pieces])
