import math

import pytest
import torch

from studies.gan.mixtures import Mixture, coverage, mixture, sliced_wasserstein
from troupe.seeding import generator

PAIR = Mixture(torch.tensor([[0.0, 0.0], [10.0, 0.0]]), sigma=1.0)


def test_the_ring_and_the_grid_stand_where_the_papers_put_them() -> None:
    ring, grid = mixture("ring"), mixture("grid")
    assert ring.means_KD.norm(dim=1).tolist() == pytest.approx([1.0] * 8)
    assert torch.cdist(ring.means_KD, ring.means_KD).sort(1).values[:, 1].tolist() == pytest.approx(
        [2 * math.sin(math.pi / 8)] * 8, abs=1e-3
    )
    assert {tuple(mean) for mean in grid.means_KD.tolist()} == {
        (x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)
    }
    assert (ring.sigma, grid.sigma) == (0.01, 0.05)


def test_a_mixture_samples_every_mode_alike_and_with_its_spread() -> None:
    """20,000 points of 25 modes: 800 each, standard error 28; sigma within 3 standard errors of sigma / sqrt(4 n)."""
    grid = mixture("grid")
    x_BD = grid.sample(20_000, generator(0, "test"))
    mode_B = torch.cdist(x_BD, grid.means_KD).argmin(1)
    assert (torch.bincount(mode_B) - 800).abs().max() < 5 * 28
    assert (x_BD - grid.means_KD[mode_B]).std().item() == pytest.approx(0.05, abs=3 * 0.05 / math.sqrt(4 * 20_000))


def test_coverage_by_hand() -> None:
    """Four points: on the first mode, 3 sigma from it, just beyond, and on the second mode: 3 of 4 are good, 2 : 1.

    KL((2/3, 1/3) || (1/2, 1/2)) = 2/3 log 4/3 + 1/3 log 2/3.
    """
    found = coverage(torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.01], [10.0, 0.0]]), PAIR)
    assert (found.modes, found.high_quality) == (2, 0.75)
    assert found.reverse_kl == pytest.approx(2 / 3 * math.log(4 / 3) + math.log(2 / 3) / 3, abs=1e-12)


def test_one_mode_alone_is_log_k_from_uniform() -> None:
    found = coverage(torch.zeros(7, 2), PAIR)
    assert (found.modes, found.high_quality) == (1, 1.0)
    assert found.reverse_kl == pytest.approx(math.log(2))


def test_points_near_no_mode_or_not_finite_cover_nothing() -> None:
    found = coverage(torch.tensor([[math.nan, 0.0], [math.inf, 0.0], [5.0, 5.0]]), PAIR)
    assert (found.modes, found.high_quality) == (0, 0.0)
    assert found.reverse_kl == pytest.approx(math.log(2))


def test_real_samples_are_as_good_as_three_sigma_allows() -> None:
    """In the plane a point is within 3 sigma with probability 1 - exp(-9/2) = 0.98889, standard error 0.0007."""
    found = coverage(mixture("grid").sample(20_000, generator(1, "test")), mixture("grid"))
    assert found.modes == 25
    assert found.high_quality == pytest.approx(1 - math.exp(-4.5), abs=0.003)
    assert found.reverse_kl < 0.002


def test_sliced_wasserstein_by_hand() -> None:
    """Two points 5 apart: the mean over directions of 5 |cos| is 10 / pi. The order of the points does not matter."""
    a_BD = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    assert sliced_wasserstein(a_BD, a_BD.flip(0)) == 0
    assert sliced_wasserstein(a_BD, a_BD + torch.tensor([3.0, 4.0])) == pytest.approx(10 / math.pi, rel=2e-3)
    assert sliced_wasserstein(7 * a_BD, 7 * a_BD + torch.tensor([21.0, 28.0])) == pytest.approx(70 / math.pi, rel=2e-3)
