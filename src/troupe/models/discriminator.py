"""The adversary of the text loop: an LSTM (Hochreiter & Schmidhuber 1997) that scores how real a sequence looks.

Axes: B batch, T tokens, D embedding width, H hidden width.
"""

import math

import torch
from torch import Tensor, nn


class LSTMDiscriminator(nn.Module):
    """Raw scores, higher meaning more real: no sigmoid, so that one class is discriminator (GAN) and critic (WGAN)."""

    def __init__(self, vocab_size: int, n_embd: int, n_hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, n_embd)
        self.lstm = nn.LSTM(n_embd, n_hidden, batch_first=True)
        self.head = nn.Linear(n_hidden, 1)

    def embed(self, ids_BT: Tensor) -> Tensor:
        """Token ids -> (B, T, D): the space in which a gradient penalty interpolates real and generated text."""
        embeddings_BTD: Tensor = self.embedding(ids_BT)
        return embeddings_BTD

    def score(self, embeddings_BTD: Tensor) -> Tensor:
        """(B,): a linear reading of the mean hidden state, so that every position counts alike."""
        # A gradient penalty differentiates twice, which cuDNN's LSTM cannot; PyTorch's own kernels can.
        with torch.backends.cudnn.flags(enabled=False):
            hidden_BTH, _ = self.lstm(embeddings_BTD)
        scores_B1: Tensor = self.head(hidden_BTH.mean(1))
        return scores_B1.squeeze(-1)


def init_discriminator(model: LSTMDiscriminator, rng: torch.Generator) -> None:
    """Initialise in place: embeddings N(0, 1), everything else uniform within 1/sqrt(n_hidden), PyTorch's default."""
    bound = 1 / math.sqrt(model.lstm.hidden_size)
    nn.init.normal_(model.embedding.weight, generator=rng)
    for parameter in (*model.lstm.parameters(), *model.head.parameters()):
        nn.init.uniform_(parameter, -bound, bound, generator=rng)
