"""What is drawn among candidates, by hand."""

import pytest
import torch

from troupe.resampling import effective_candidates, resample


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_score_far_above_the_others_decides() -> None:
    ids_NKT = torch.arange(6).reshape(2, 3, 1)
    assert resample(ids_NKT, torch.tensor([[0.0, 90.0, 0.0], [0.0, 0.0, 90.0]]), rng()).tolist() == [[1], [5]]


def test_effective_candidates_by_hand() -> None:
    """Even weights: all 4. Weights 1/2, 1/2, 0, 0: 2. The mean of the two rows: 3."""
    score_NK = torch.tensor([[7.0, 7.0, 7.0, 7.0], [1.0, 1.0, -90.0, -90.0]])
    assert effective_candidates(score_NK) == pytest.approx(3)
