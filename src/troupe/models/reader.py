"""A discriminator with all it needs to read text by itself: its critic, the features beside each token, the spelling.

Axes: B sequences, N of them altogether, T tokens, L tokens as the tokenizer spells them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from troupe.data.tokenizer import Tokenizer
from troupe.models.discriminator import LSTMDiscriminator
from troupe.models.features import Read, ReferenceFeatures


@dataclass(frozen=True)
class Discriminator:
    """A critic, and what it reads: tokens as the tokenizer spells them, and features."""

    critic: LSTMDiscriminator
    features: ReferenceFeatures
    tokenizer: Tokenizer

    def read(self, ids_BT: Tensor) -> Read:
        """Of the last tokens, as many as the reference can read."""
        context = self.features.reference.config.block_size
        return Read.of(canonical(self.tokenizer, ids_BT[:, -context:]), self.features)

    def scores(self, ids_BT: Tensor) -> Tensor:
        """score_B: ln of the odds that a text is real, of a critic that was trained by cross-entropy."""
        return scores(self.critic, self.read(ids_BT))


def canonical(tokenizer: Tokenizer, ids_BT: Tensor) -> Tensor:
    """ids_BL: the same texts as the tokenizer spells them, L = 7/8 T.

    A generator may spell a word with other tokens than the tokenizer would: a tell that no reader of text can see, and
    that teaches a discriminator nothing about text. Spelt anew a text has fewer tokens, so that all are cut to a length
    that nearly all have; the last token of a shorter one is repeated. Real text is spelt so already, and cut alike.
    """
    length = ids_BT.size(1) - ids_BT.size(1) // 8
    rows = [tokenizer.encode(tokenizer.decode(ids))[:length] for ids in ids_BT.tolist()]
    return torch.tensor([row + row[-1:] * (length - len(row)) for row in rows], device=ids_BT.device)


@torch.no_grad()
def scores(critic: LSTMDiscriminator, read: Read, at_once: int = 256) -> Tensor:
    """score_N of sequences that are read already, in the unit of the objective that trained the critic."""
    pieces = torch.split(torch.arange(len(read.ids_NT), device=read.ids_NT.device), at_once)
    return torch.cat([critic.score(critic.embed(*read.rows(rows_B))) for rows_B in pieces])
