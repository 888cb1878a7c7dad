import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from troupe.adversarial.selection import Look, auc, distinct_2, fault
from troupe.params import load_params

ROOT = Path(__file__).parents[2]
PARAMS = load_params(ROOT / "params.yaml", ["adversarial.max_bpb_rise=0.1", "adversarial.min_distinct=0.5"]).adversarial
START = Look(step=0, bpb=2.0, distinct_2=0.8, auc=0.7, gap=1.0)

scores = st.lists(st.integers(-3, 3), min_size=1, max_size=20)  # few values, so that ties happen


@given(scores, scores)
def test_auc_agrees_with_scikit_learn(real: list[int], fake: list[int]) -> None:
    ours = auc(torch.tensor(real, dtype=torch.float32), torch.tensor(fake, dtype=torch.float32))
    assert ours == pytest.approx(roc_auc_score([1] * len(real) + [0] * len(fake), real + fake))


def test_distinct_pairs_by_hand() -> None:
    """1 2 1 2 has the pairs 12 21 12, and 2 1 3 3 has 21 13 33: four different ones out of six."""
    assert distinct_2(torch.tensor([[1, 2, 1, 2], [2, 1, 3, 3]])) == pytest.approx(4 / 6)
    assert distinct_2(torch.zeros(8, 5, dtype=torch.int64)) == 1 / 32


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({}, None),
        ({"bpb": 2.2, "distinct_2": 0.4}, None),  # on the bounds: 2.0 * 1.1 and 0.8 * 0.5
        ({"bpb": 2.21}, "val/bpb is 2.2100 at step 7, above the bound of 2.2000"),
        ({"distinct_2": 0.39}, "val/distinct_2 is 0.3900 at step 7, below the bound of 0.4000"),
        ({"bpb": math.nan}, "val/bpb is nan at step 7"),
        ({"bpb": math.inf}, "val/bpb is inf at step 7"),
        ({"auc": 0.0, "gap": -9.0}, None),  # what the training discriminator thinks has no say
    ],
)
def test_what_forbids_keeping_a_generator(change: dict[str, float], named: str | None) -> None:
    assert fault(replace(START, step=7, **change), START, PARAMS) == named
