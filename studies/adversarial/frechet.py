"""How far generated texts lie from real ones in the features of an independent model: the Fréchet distance.

The model must be none of those that are compared, nor one that a discriminator reads through. The figure depends on how
many texts there are: compare equal numbers, and put that of real text against other real text beside it.

Shapes: M texts, T tokens of one text, D features.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from troupe.data.tokenizer import Tokenizer
from troupe.models.gpt2 import GPT

Floats = NDArray[np.float64]


@torch.no_grad()
def text_features(model: GPT, tokenizer: Tokenizer, texts: Sequence[str]) -> Floats:
    """feature_MD: the mean over a text's tokens of what the model hands its output layer; D is the model's width.

    Of a text longer than the model's context its beginning counts. Raises ValueError for an empty text.
    """
    device, states = next(model.parameters()).device, []
    hook = model.norm.register_forward_hook(lambda _module, _inputs, x_1TD: states.append(x_1TD.mean(dim=1)))
    try:
        for text in texts:
            ids = tokenizer.encode(text)[: model.config.block_size]
            if not ids:
                raise ValueError("an empty text has no features")
            model(torch.tensor([ids], device=device))
    finally:
        hook.remove()
    features_MD: Tensor = torch.cat(states)
    return features_MD.double().cpu().numpy()


def frechet_distance(one_MD: Floats, other_MD: Floats) -> float:
    """The squared Fréchet distance of the Gaussians that fit two sets of features; 0 is equal, lower is better.

        |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))

    m means, S covariances (D. C. Dowson and B. V. Landau 1982, "The Fréchet Distance between Multivariate Normal
    Distributions"; M. Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", who apply it to features).
    With S1 = A'A and S2 = B'B the eigenvalues of S1 S2 are the squared singular values of AB', so that no root of a
    matrix that may be singular is taken. Its unit is that of the features, squared. Raises ValueError for fewer than
    two texts.
    """
    if min(len(one_MD), len(other_MD)) < 2:
        raise ValueError("a covariance needs at least two texts")
    one, other = (_root(features_MD) for features_MD in (one_MD, other_MD))
    root = np.linalg.svd(one @ other.T, compute_uv=False).sum()
    shift_D = one_MD.mean(axis=0) - other_MD.mean(axis=0)
    return max(0.0, float(shift_D @ shift_D + (one**2).sum() + (other**2).sum() - 2 * root))


def _root(features_MD: Floats) -> Floats:
    """A with A'A = S; at most D rows."""
    centred_MD = (features_MD - features_MD.mean(axis=0)) / np.sqrt(len(features_MD) - 1)
    return np.asarray(np.linalg.qr(centred_MD, mode="r"))
