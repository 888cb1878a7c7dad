"""The adversary of the text loop: an LSTM (Hochreiter & Schmidhuber 1997) that scores how real a sequence looks.

Axes: B batch, T tokens, E embedding width, F features of a token, X = E + F, H hidden width.
"""

import math

import torch
from torch import Tensor, nn


class LSTMDiscriminator(nn.Module):
    """Raw scores, higher meaning more real: no sigmoid, so that one class is discriminator (GAN) and critic (WGAN).

    It reads embeddings of tokens and, beside them, `n_feature` fixed features of each (models.features). What is
    learned about features, their projection to the width of an embedding, comes after `embed`: a penalty on the slope
    at what `embed` returns counts it, and a critic cannot evade that penalty by scaling a feature.
    """

    def __init__(self, vocab_size: int, n_embd: int, n_hidden: int, n_feature: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, n_embd)
        self.project = nn.Linear(n_feature, n_embd) if n_feature else None
        self.lstm = nn.LSTM(2 * n_embd if n_feature else n_embd, n_hidden, batch_first=True)
        self.head = nn.Linear(n_hidden, 1)

    def dimensions(self) -> dict[str, int]:
        """From which another of the same shape is built, but for `n_feature`, which is its features' own."""
        vocab_size, n_embd = self.embedding.weight.shape
        return {"vocab_size": vocab_size, "n_embd": n_embd, "n_hidden": self.lstm.hidden_size}

    def embed(self, ids_BT: Tensor, features_BTF: Tensor | None = None) -> Tensor:
        """Token ids, and features as the model was built for -> x_BTX: the space in which a gradient penalty
        interpolates real and generated text."""
        embeddings_BTE: Tensor = self.embedding(ids_BT)
        return embeddings_BTE if features_BTF is None else torch.cat([embeddings_BTE, features_BTF], dim=-1)

    def prefix_scores(self, x_BTX: Tensor) -> Tensor:
        """score_BT: at t what `score` says of the first t + 1 tokens alone. Training on all of them makes the score of
        an unfinished text mean the same as that of a finished one."""
        hidden_BTH = self._read(x_BTX)
        lengths_T1 = torch.arange(1, x_BTX.size(1) + 1, device=x_BTX.device).unsqueeze(-1)
        scores_BT1: Tensor = self.head(hidden_BTH.cumsum(1) / lengths_T1)
        return scores_BT1.squeeze(-1)

    def score(self, x_BTX: Tensor) -> Tensor:
        """(B,): a linear reading of the mean hidden state, so that every position counts alike."""
        scores_B1: Tensor = self.head(self._read(x_BTX).mean(1))
        return scores_B1.squeeze(-1)

    def _read(self, x_BTX: Tensor) -> Tensor:
        if self.project is not None:
            E = self.embedding.embedding_dim
            x_BTX = torch.cat([x_BTX[..., :E], self.project(x_BTX[..., E:])], dim=-1)
        # A gradient penalty differentiates twice, which cuDNN's LSTM cannot; PyTorch's own kernels can.
        with torch.backends.cudnn.flags(enabled=False):
            hidden_BTH, _ = self.lstm(x_BTX)
        states_BTH: Tensor = hidden_BTH
        return states_BTH


def init_discriminator(model: LSTMDiscriminator, rng: torch.Generator) -> None:
    """Initialise in place: embeddings N(0, 1), everything else uniform within 1/sqrt(n_hidden), PyTorch's default."""
    bound = 1 / math.sqrt(model.lstm.hidden_size)
    nn.init.normal_(model.embedding.weight, generator=rng)
    for part in (model.lstm, model.head, model.project):
        for parameter in part.parameters() if part is not None else ():
            nn.init.uniform_(parameter, -bound, bound, generator=rng)
