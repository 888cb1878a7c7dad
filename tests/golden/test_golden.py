"""Training as it was when curves.json was written: on any machine within rounding, so it cannot be compared to the bit.

How far rounding carries is measured here: the same batches, their sequences in other orders, add the same numbers in
other orders. What draws text is not in it: there one rounding may turn a draw, and all that follows is another text.
compare.py compares that too, to the bit, with another revision on one machine.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.golden.curves import FILE, FITS, Curves, curves, digests, prepare
from tests.numerics import ORDERS, tolerance
from troupe.layout import CHECKPOINTS

GOLDEN = json.loads(FILE.read_text())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def found(prepared: Path) -> list[Curves]:
    """As they are, then in other orders."""
    several = []
    for order in (None, *range(ORDERS)):
        shutil.rmtree(prepared / CHECKPOINTS, ignore_errors=True)
        several.append(curves(prepared, order))
    return several


def test_the_text_and_its_tokens_are_the_same_to_the_byte(prepared: Path) -> None:
    assert digests(prepared) == GOLDEN["digests"]


@pytest.mark.parametrize("name", FITS)
def test_a_training_is_the_same_within_rounding(name: str, found: list[Curves]) -> None:
    for figure, golden in GOLDEN["curves"][name].items():
        expected_N, *others = (torch.tensor(one[name][figure], dtype=torch.float64) for one in found)
        apart_N = torch.stack([(other_N - expected_N).abs() for other_N in others])
        within = max(tolerance(apart_N, expected_N.float()), 1e-12)
        assert within < 1e-2 * expected_N.abs().max(), "the tolerance would hide a change"
        assert expected_N.tolist() == pytest.approx(golden, rel=0, abs=within), figure
