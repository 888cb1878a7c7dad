"""The neural judge: a small convolutional network over the bytes of a text (Kim 2014, "Convolutional Neural Networks
for Sentence Classification"), which is also told how much each byte surprises models that count n-grams.

On a few hundred windows a network that sees bytes alone learns little; that the surprises help is in
docs/algorithms/evaluation.md, with figures.

Shapes: M texts, B batch, T bytes of the longest text, N orders of n-grams, C channels, S = 2N.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from troupe.arrays import Floats

PAD = 256  # stands after the end of a text; bytes are 0 to 255
EMBEDDING, CHANNELS, SPAN = 16, 32, 5
SOFT = 0.3  # standard deviation of the embeddings at first: at 1 they drown the surprises, which say more
BITS = 3.0  # a usual surprise, by which surprises are divided
ROUNDS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 20, 32, 1e-3, 0.05
SCORED = 256  # texts that are read together
HELD_BACK = 5  # every fifth text is not learned from but says when enough has been learned


class ByteNetwork(nn.Module):
    """What `batch` makes of texts -> logit_B; every logit is 0 before training.

    Two convolutions, pooled over the text, and beside them the mean and the spread of the surprises themselves.
    """

    def __init__(self, n_orders: int, rng: torch.Generator) -> None:
        super().__init__()
        self.embedding = nn.Embedding(PAD + 1, EMBEDDING)
        self.first = nn.Conv1d(EMBEDDING + n_orders, CHANNELS, SPAN, padding=SPAN // 2)
        self.second = nn.Conv1d(CHANNELS, CHANNELS, SPAN, padding=SPAN // 2)
        self.output = nn.Linear(2 * (CHANNELS + n_orders), 1)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        nn.init.normal_(self.embedding.weight, std=SOFT, generator=rng)
        for layer in (self.first, self.second):
            nn.init.kaiming_normal_(layer.weight, generator=rng)

    def forward(self, byte_BT: Tensor, surprise_BNT: Tensor, overall_BS: Tensor) -> Tensor:
        x_BCT = torch.cat([self.embedding(byte_BT).mT, surprise_BNT], dim=1)
        x_BCT = F.relu(self.second(F.relu(self.first(x_BCT))))
        logit_B1: Tensor = self.output(torch.cat([x_BCT.mean(2), x_BCT.amax(2), overall_BS], dim=1))
        return logit_B1.squeeze(1)

    @torch.no_grad()
    def score(self, texts: Sequence[str], surprises: Sequence[Floats]) -> Floats:
        """logit_M, given surprise_NT of every text. Texts of one length are read together, none with padding."""
        length_M, logit_M = np.array([surprise_NT.shape[1] for surprise_NT in surprises]), np.zeros(len(texts))
        for length in np.unique(length_M):
            of_length = np.flatnonzero(length_M == length)
            for rows in np.split(of_length, range(SCORED, len(of_length), SCORED)):
                logit_M[rows] = self(*batch([texts[row] for row in rows], [surprises[row] for row in rows])).numpy()
        return logit_M


def trained(
    network: ByteNetwork,
    texts: Sequence[str],
    surprises: Sequence[Floats],
    generated_M: NDArray[np.bool_],
    rng: torch.Generator,
) -> None:
    """Train in place, by cross-entropy, and keep the weights that cost the held-back texts least, or the first."""
    *x, y_M = (*batch(texts, surprises), torch.from_numpy(generated_M).float())
    order_M = torch.randperm(len(y_M), generator=rng)
    held = torch.arange(len(y_M)) % HELD_BACK == 0
    held_M, learned_M = order_M[held], order_M[~held]
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def cost(chosen_B: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(network(*(part[chosen_B] for part in x)), y_M[chosen_B])

    least, best = cost(held_M).item(), _copy(network)
    for _ in range(ROUNDS):
        for chosen_B in torch.split(learned_M[torch.randperm(len(learned_M), generator=rng)], BATCH):
            optimizer.zero_grad()
            cost(chosen_B).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if (now := cost(held_M).item()) < least:
            least, best = now, _copy(network)
    network.load_state_dict(best)


def batch(texts: Sequence[str], surprises: Sequence[Floats]) -> tuple[Tensor, Tensor, Tensor]:
    """byte_BT and surprise_BNT, in usual surprises and padded at the end; overall_BS: mean and spread of each order."""
    encoded = [np.frombuffer(text.encode(), np.uint8) for text in texts]
    width = max(1, *map(len, encoded))
    byte_BT = np.full((len(encoded), width), PAD)
    surprise_BNT = np.zeros((len(encoded), len(surprises[0]), width), np.float32)
    for row, (text, surprise_NT) in enumerate(zip(encoded, surprises, strict=True)):
        byte_BT[row, : len(text)] = text
        surprise_BNT[row, :, : len(text)] = surprise_NT
    read_BNT = torch.from_numpy(surprise_BNT) / BITS
    return torch.from_numpy(byte_BT), read_BNT, torch.cat([read_BNT.mean(2), read_BNT.std(2, correction=0)], dim=1)


def _copy(network: ByteNetwork) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}
