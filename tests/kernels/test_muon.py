"""That stacks of matrices change Muon's speed and nothing else."""

import copy
import math
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Muon, Optimizer

from troupe.kernels.muon import StackedMuon, orthogonalise
from troupe.training.optim import precision_of_muon

TORCHS = (3.4445, -4.775, 2.0315), 5, 1e-7
# Of 5 iterations each makes three products and rounds them to bfloat16: evenly distributed errors of up to 2^-8 of a
# number, whose root mean square is 2^-8 / sqrt(3), in both of two results. Newton-Schulz does not make them larger: a
# small singular value and its error grow alike, and near 1 its slope is below 1. Twice that is what chance leaves out.
APART = 2 * math.sqrt(2 * 15 / 3) * 2**-8
SHAPES = [(24, 8), (8, 8), (24, 8), (8, 40), (8, 8), (8, 40), (24, 8)]  # tall, square and wide, out of order


def weights(rng: torch.Generator) -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(shape, generator=rng)) for shape in SHAPES]


def take_steps(optimizer: Optimizer, parameters: list[nn.Parameter], n: int, rng: torch.Generator) -> None:
    for _ in range(n):
        for weight in parameters:
            weight.grad = torch.randn(weight.shape, generator=rng)
        optimizer.step()


@pytest.mark.parametrize("nesterov", [True, False])
def test_it_takes_the_steps_that_torchs_takes(nesterov: bool) -> None:
    ours = weights(torch.Generator().manual_seed(0))
    theirs = copy.deepcopy(ours)
    began = [weight.detach().clone() for weight in ours]
    for kind, parameters in ((StackedMuon, ours), (Muon, theirs)):
        optimizer = kind(parameters, lr=0.02, weight_decay=0.1, nesterov=nesterov)
        take_steps(optimizer, parameters, 5, torch.Generator().manual_seed(1))
    for mine, its, before in zip(ours, theirs, began, strict=True):
        assert (mine - its).norm() < APART * (its - before).norm()


def test_it_goes_on_from_torchs_state() -> None:
    theirs = weights(torch.Generator().manual_seed(0))
    before = Muon(theirs, lr=0.02)
    take_steps(before, theirs, 3, torch.Generator().manual_seed(1))
    ours = copy.deepcopy(theirs)
    after = StackedMuon(ours, lr=0.02)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    for optimizer, parameters in ((before, theirs), (after, ours)):
        take_steps(optimizer, parameters, 1, torch.Generator().manual_seed(2))
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(after.state[mine], before.state[its])
        assert (mine - its).norm() < APART * 0.02 * math.sqrt(3 * min(its.shape))  # 3: how tall the tallest are


def test_a_matrix_without_a_gradient_stays_as_it_is() -> None:
    first, second = (nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    first.grad = torch.eye(4)
    optimizer = StackedMuon([first, second], lr=0.1)
    optimizer.step()
    assert not first.equal(torch.ones(4, 4))
    assert second.equal(torch.ones(4, 4))


@pytest.mark.parametrize("shape", [(3, 16, 64), (3, 64, 16), (1, 16, 16)])
def test_directions_stay_and_their_lengths_become_equal(shape: tuple[int, ...]) -> None:
    matrices_NRC = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    done_NRC = orthogonalise(matrices_NRC, *TORCHS).float()
    u, _, vh = torch.linalg.svd(matrices_NRC, full_matrices=False)
    lengths: Tensor = torch.einsum("nrk,nrc,nkc->nk", u, done_NRC, vh)
    assert lengths.min() > 0.5  # Jordan's coefficients bring a singular value to 0.7 to 1.2, and do not converge
    assert lengths.max() < 1.4
    assert (u * lengths.unsqueeze(1) @ vh - done_NRC).norm() < APART * done_NRC.norm()


def test_zeros_stay_zeros() -> None:
    assert orthogonalise(torch.zeros(2, 8, 4), *TORCHS).eq(0).all()


@pytest.mark.parametrize("shape", [(3, 16, 64), (3, 64, 16)])
def test_in_float32_it_is_as_exact_as_float32(shape: tuple[int, ...]) -> None:
    """A rounding grows in 5 iterations by at most a^5 = 485, of which each rounds a sum of 64 products or fewer."""
    matrices_NRC = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found_NRC, exact_NRC = orthogonalise(matrices_NRC, *TORCHS), orthogonalise(matrices_NRC.double(), *TORCHS)
    assert found_NRC.dtype == torch.float32
    assert (found_NRC - exact_NRC).abs().max() <= 485 * 64 * torch.finfo(torch.float32).eps


def test_a_run_in_float32_orthogonalises_in_float32_on_a_cpu() -> None:
    autocast = partial(torch.autocast, "cpu", torch.bfloat16)
    assert precision_of_muon(nullcontext, torch.device("cpu")) == torch.float32
    assert precision_of_muon(autocast, torch.device("cpu")) == torch.bfloat16
    assert precision_of_muon(nullcontext, torch.device("cuda")) == torch.bfloat16
    for dtype, digits in ((torch.float32, 1e-4), (torch.bfloat16, 2e-2)):
        weight = nn.Parameter(torch.zeros(16, 16))
        weight.grad = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
        StackedMuon([weight], dtype, lr=1.0, weight_decay=0.0).step()
        exact = orthogonalise(weight.grad.double()[None], *TORCHS)[0]
        error = (weight + exact).norm() / exact.norm()
        assert error < digits
        assert (error > 1e-4) == (dtype == torch.bfloat16)
