"""Points of the plane with known modes, and how well samples cover them: a world where mode collapse can be counted.

Shapes: B points, K modes, D = 2 coordinates, P directions.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

DIRECTIONS = 32  # of the half circle, evenly: the mean |cos| over them is within 0.1 % of 2 / pi


@dataclass(frozen=True)
class Mixture:
    """Gaussians of one spread, all equally likely."""

    means_KD: Tensor
    sigma: float

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """x_BD: n points, float32."""
        mode_B = torch.randint(len(self.means_KD), (n,), generator=rng)
        return self.means_KD[mode_B] + self.sigma * torch.randn(n, 2, generator=rng)


@dataclass(frozen=True)
class Coverage:
    """Of a sample, as VEEGAN (Srivastava et al. 2017, section 4.1) and PacGAN (Lin et al. 2018, section 4.1) count.

    modes        with at least one high-quality sample nearest to them
    high_quality share of the samples within three sigma of their nearest mode
    reverse_kl   KL(share of high-quality samples per mode || uniform), nats: 0 if all modes are equally frequent, log K
                 if there is one; log K, too, of a sample without a high-quality point, which covers nothing
    """

    modes: int
    high_quality: float
    reverse_kl: float


def mixture(name: Literal["ring", "grid"]) -> Mixture:
    """The ring of 8 (radius 1, sigma 0.01) or the 5 x 5 grid of 25 (2 apart, sigma 0.05), as PacGAN's code has them."""
    if name == "ring":
        angles_K = torch.arange(8) * (2 * math.pi / 8)
        return Mixture(torch.stack([angles_K.cos(), angles_K.sin()], 1), 0.01)
    line = torch.arange(-4.0, 5.0, 2.0)
    return Mixture(torch.cartesian_prod(line, line), 0.05)


def coverage(x_BD: Tensor, target: Mixture) -> Coverage:
    """Raises nothing for points that are not finite: they are near no mode."""
    distance_B, mode_B = torch.cdist(x_BD, target.means_KD).nan_to_num(math.inf).min(1)
    good_B = distance_B <= 3 * target.sigma
    total = len(target.means_KD)
    counts_K = torch.bincount(mode_B[good_B], minlength=total).double()
    good = counts_K.sum().item()
    if not good:
        return Coverage(0, 0.0, math.log(total))
    share_K = counts_K / good
    reverse_kl = torch.special.xlogy(share_K, share_K * total).sum().item()
    return Coverage(int(counts_K.count_nonzero()), good / len(x_BD), reverse_kl)


def sliced_wasserstein(a_BD: Tensor, b_BD: Tensor) -> float:
    """The Wasserstein-1 distance of equally many points, mean over projections onto `DIRECTIONS` directions.

    In the plane's unit: two single points at a distance d are 2 d / pi apart. On a line, W1 is the mean distance
    between points of equal rank. Bonneel et al. 2015, "Sliced and Radon Wasserstein barycenters of measures".
    """
    angles_P = torch.arange(DIRECTIONS) * (math.pi / DIRECTIONS)
    directions_DP = torch.stack([angles_P.cos(), angles_P.sin()]).to(a_BD)
    ranked_a_BP, ranked_b_BP = ((x_BD @ directions_DP).sort(0).values for x_BD in (a_BD, b_BD))
    return (ranked_a_BP - ranked_b_BP).abs().mean().item()
