"""Dropout by a hash must look like dropout by chance: rate, scale, gradient, and no pattern in what is dropped."""

import pytest
import torch

from troupe.kernels.layers import dropout

ROWS, COLUMNS = 1024, 1024
N = ROWS * COLUMNS


def dropped(p: float, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return (dropout(torch.ones(ROWS, COLUMNS), p, training=True) == 0).double()


def z_score(values: torch.Tensor, mean: float, variance: float) -> float:
    """How many standard errors the mean of independent values is off."""
    return abs(values.mean().item() - mean) / (variance / values.numel()) ** 0.5


@pytest.mark.parametrize("p", [0.01, 0.1, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_share_dropped_is_p(p: float, seed: int) -> None:
    assert z_score(dropped(p, seed), p, p * (1 - p)) < 4.5


def test_no_row_and_no_column_is_favoured() -> None:
    p = 0.2
    deviations = torch.stack([dropped(p).mean(0) - p, dropped(p, seed=1).mean(1) - p])
    z_scores = deviations / (p * (1 - p) / ROWS) ** 0.5
    assert z_scores.abs().max() < 5.5  # of 2,048
    assert 0.9 < z_scores.var() < 1.1


@pytest.mark.parametrize("lag", [1, 2, 3, 16, 64, 384, 1024, 4096, 2**16, 2**19])
def test_elements_at_any_distance_are_dropped_independently(lag: int) -> None:
    p = 0.3
    flat = dropped(p).flatten() - p
    assert z_score(flat[lag:] * flat[:-lag], 0, (p * (1 - p)) ** 2) < 4.5


def test_calls_and_seeds_are_independent_at_any_offset() -> None:
    p = 0.3
    torch.manual_seed(0)
    ones = torch.ones(N)
    first, second = ((dropout(ones, p, training=True) == 0).double() for _ in range(2))
    for other in (second, dropped(p, seed=1).flatten()):
        for offset in (0, 1, 17, 1000, N // 2):
            assert z_score(first * other.roll(offset), p * p, p * p * (1 - p * p)) < 4.5


def test_what_is_kept_grows_by_the_share_that_is_dropped_and_the_gradient_passes_where_the_value_did() -> None:
    x = torch.randn(64, 64, requires_grad=True)
    y = dropout(x, 0.25, training=True)
    y.sum().backward()
    kept = y != 0
    assert 0 < kept.sum() < kept.numel()
    assert torch.equal(y[kept], (x * (1 / 0.75))[kept])
    assert x.grad is not None
    assert torch.equal(x.grad, torch.where(kept, 1 / 0.75, 0.0))


def test_the_same_seed_drops_the_same_in_any_precision_and_another_seed_others() -> None:
    masks = []
    for seed, dtype in [(0, torch.float32), (0, torch.bfloat16), (1, torch.float32)]:
        torch.manual_seed(seed)
        masks.append(dropout(torch.ones(1000, dtype=dtype), 0.5, training=True) == 0)
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_without_training_or_without_a_rate_nothing_happens_and_no_random_number_is_spent() -> None:
    x, before = torch.randn(8), torch.get_rng_state()
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
    assert torch.equal(torch.get_rng_state(), before)
