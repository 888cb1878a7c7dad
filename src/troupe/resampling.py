"""Better text than a model's own, from the model and a discriminator: of several candidates one is drawn.

Shapes: N prompts, K candidates of each, T tokens (prompt and continuation).
"""

import torch
from torch import Tensor


def resample(ids_NKT: Tensor, score_NK: Tensor, rng: torch.Generator) -> Tensor:
    """ids_NT: of each row one candidate, drawn in proportion to exp(score)."""
    weight_NK = score_NK.double().softmax(-1).to(rng.device)
    drawn_N1 = torch.multinomial(weight_NK, 1, generator=rng).to(ids_NKT.device)
    return ids_NKT.take_along_dim(drawn_N1.unsqueeze(-1), dim=1).squeeze(1)


def effective_candidates(score_NK: Tensor) -> float:
    """1 / sum of squared weights (Kish 1965), mean over prompts: from 1 (one candidate has all the weight) to K."""
    return (1 / score_NK.double().softmax(-1).square().sum(-1)).mean().item()
