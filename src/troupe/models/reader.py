"""A discriminator with all it needs to read text by itself: its critic, the features beside each token, the spelling.

Axes: B sequences, N of them altogether, T tokens, L tokens as the tokenizer spells them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from troupe.data.tokenizer import Tokenizer, whole_characters
from troupe.models.discriminator import LSTMDiscriminator
from troupe.models.features import Read, ReferenceFeatures

AT_ONCE = 256  # sequences whose states are held at a time


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
