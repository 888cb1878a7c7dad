import math
from dataclasses import replace

import pytest
import torch

from troupe.adversarial.game import Bounds, Look, distinct_2, fault, no_signal

BOUNDS = Bounds(max_bpb_rise=0.1, min_distinct=0.5)
START = Look(step=0, bpb=2.0, distinct_2=0.8, auc=0.7, auc_low=0.65, gap=1.0)


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
        ({"auc": 1.0, "gap": 9.0, "kl": 5.0}, None),  # looked at, but not bounded
    ],
)
def test_what_forbids_keeping_a_generator(change: dict[str, float], named: str | None) -> None:
    assert fault(replace(START, step=7, **change), START, BOUNDS) == named


def test_a_look_is_stored_and_read_back() -> None:
    look = replace(START, kl=0.1)
    assert Look(**look.facts()) == look
    assert look.figures()["critic/auc"] == 0.7


def test_without_a_discriminator_there_is_no_signal_to_ask_for() -> None:
    alone = Look(step=0, bpb=2.0, distinct_2=0.8)
    assert no_signal(alone, replace(BOUNDS, min_auc=0.9)) is None
    assert not {"critic/auc", "critic/gap"} & alone.figures().keys()


def test_a_bar_is_cleared_by_the_lower_limit() -> None:
    assert no_signal(START, BOUNDS) is None
    assert no_signal(START, replace(BOUNDS, min_auc=0.64)) is None
    assert no_signal(START, replace(BOUNDS, min_auc=0.66)) == (
        "no signal: critic/auc is 0.700, at least 0.650, against a bar of 0.660"
    )
