"""The adversary of the text loop: an LSTM (Hochreiter & Schmidhuber 1997) that scores how real a sequence looks, and
the evidence of what language models say of its tokens.

Axes: B batch, T tokens, E embedding width, F features of a token, X = E + F, H hidden width.
"""

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn


class LSTMDiscriminator(nn.Module):
    """Raw scores, higher meaning more real: no sigmoid, so that one class is discriminator (GAN) and critic (WGAN).

    It reads embeddings of tokens and, beside them, `n_feature` fixed features of each (models.reader), and adds what
    an LSTM makes of the whole, a linear reading of its mean state, to the evidence of every token: a quadratic form of
    the token's features, summed up as log-odds of independent observations are. On a few thousand sequences it is the
    evidence that tells; an LSTM alone finds little. The first `n_given` tokens, a prompt that both classes share, are
    no evidence. `standardise` says in which unit features come.
    """

    centre_F: Tensor
    spread_F: Tensor

    def __init__(self, vocab_size: int, n_embd: int, n_hidden: int, n_feature: int = 0, n_given: int = 0) -> None:
        super().__init__()
        self.n_given = n_given
        self.embedding = nn.Embedding(vocab_size, n_embd)
        self.lstm = nn.LSTM(n_embd + n_feature, n_hidden, batch_first=True)
        self.head = nn.Linear(n_hidden, 1)
        self.evidence = nn.Linear(n_feature * (n_feature + 3) // 2, 1, bias=False) if n_feature else None
        self.register_buffer("centre_F", torch.zeros(n_feature))
        self.register_buffer("spread_F", torch.ones(n_feature))

    def standardise(self, features_NTF: Tensor) -> None:
        """From here on features are read less the mean of these, in units of their standard deviation."""
        continued_MF = features_NTF[:, self.n_given :].flatten(0, 1)
        self.centre_F.copy_(continued_MF.mean(0))
        self.spread_F.copy_(continued_MF.std(0).clamp_min(1e-6))

    def embed(self, ids_BT: Tensor, features_BTF: Tensor | None = None) -> Tensor:
        """Token ids, and features as the model was built for -> x_BTX: the space in which a gradient penalty
        interpolates real and generated text. All that is learned of features comes after it: the penalty counts it, and
        a critic cannot evade the penalty by scaling a feature."""
        embeddings_BTE: Tensor = self.embedding(ids_BT)
        if features_BTF is None or self.evidence is None:
            return embeddings_BTE
        return torch.cat([embeddings_BTE, (features_BTF - self.centre_F) / self.spread_F], dim=-1)

    def prefix_scores(self, x_BTX: Tensor, n_given: int | None = None) -> Tensor:
        """score_BT: at t what `score` says of the first t + 1 tokens alone. Training on all of them makes the score of
        an unfinished text mean the same as that of a finished one. `n_given`: of these texts, if not the model's."""
        # A gradient penalty differentiates twice, which cuDNN's LSTM cannot; PyTorch's own kernels can. The switch is
        # the whole process's, and threads that turn it together may leave it off: those that only read never touch it.
        with torch.backends.cudnn.flags(enabled=False) if torch.is_grad_enabled() else nullcontext():
            hidden_BTH, _ = self.lstm(x_BTX)
        lengths_T1 = torch.arange(1, x_BTX.size(1) + 1, device=x_BTX.device).unsqueeze(-1)
        scores_BT1: Tensor = self.head(hidden_BTH.cumsum(1) / lengths_T1)
        scores_BT = scores_BT1.squeeze(-1)
        if self.evidence is None:
            return scores_BT
        return scores_BT + self._evidence(x_BTX, self.n_given if n_given is None else n_given).cumsum(1)

    def score(self, x_BTX: Tensor) -> Tensor:
        """(B,): of the whole text."""
        return self.prefix_scores(x_BTX)[:, -1]

    def _evidence(self, x_BTX: Tensor, n_given: int) -> Tensor:
        """(B, T): of each token by itself; none of a token that is given."""
        assert self.evidence is not None
        z_BTF = x_BTX[..., self.embedding.embedding_dim :]
        first, second = torch.triu_indices(z_BTF.size(-1), z_BTF.size(-1), device=z_BTF.device)
        products_BTP = z_BTF[..., first] * z_BTF[..., second]
        evidence_BT1: Tensor = self.evidence(torch.cat([z_BTF, products_BTP], dim=-1))
        continued_T = torch.arange(x_BTX.size(1), device=x_BTX.device) >= n_given
        return evidence_BT1.squeeze(-1) * continued_T


def init_discriminator(model: LSTMDiscriminator, rng: torch.Generator) -> None:
    """Initialise in place: embeddings N(0, 1), no evidence, the rest uniform within 1/sqrt(n_hidden), PyTorch's way.

    Beside features embeddings are N(0, 0.01): at 1 an LSTM reads little else.
    """
    bound = 1 / math.sqrt(model.lstm.hidden_size)
    nn.init.normal_(model.embedding.weight, std=1.0 if model.evidence is None else 0.1, generator=rng)
    for part in (model.lstm, model.head):
        for parameter in part.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=rng)
    if model.evidence is not None:
        nn.init.zeros_(model.evidence.weight)
