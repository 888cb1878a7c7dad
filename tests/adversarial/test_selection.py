import math
from dataclasses import replace

import pytest
import torch

from troupe.adversarial.selection import Bounds, Look, better, distinct_2, fault, no_signal

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
        ({"auc": 1.0, "gap": 9.0, "kl": 5.0, "judge": 1.0}, None),  # looked at, but not bounded
    ],
)
def test_what_forbids_keeping_a_generator(change: dict[str, float], named: str | None) -> None:
    assert fault(replace(START, step=7, **change), START, BOUNDS) == named


@pytest.mark.parametrize(
    ("found", "kept", "takes_its_place"), [(0.6, 0.7, True), (0.7, 0.7, False), (0.8, 0.7, False), (None, None, True)]
)
def test_the_judge_chooses_and_of_equals_the_earlier(
    found: float | None, kept: float | None, takes_its_place: bool
) -> None:
    assert better(replace(START, step=9, judge=found), replace(START, judge=kept)) == takes_its_place


def test_a_look_is_stored_and_read_back() -> None:
    look = replace(START, kl=0.1, judge=0.6)
    assert Look(**look.facts()) == look
    assert look.figures()["val/judge"] == 0.6
    assert "val/judge" not in START.figures()


def test_a_bar_is_cleared_by_the_lower_limit() -> None:
    assert no_signal(START, BOUNDS) is None
    assert no_signal(START, replace(BOUNDS, min_auc=0.64)) is None
    assert no_signal(START, replace(BOUNDS, min_auc=0.66)) == (
        "no signal: critic/auc is 0.700, at least 0.650, against a bar of 0.660"
    )
