"""The calculation behind docs/scale.md."""

import pytest

from tests.conftest import ROOT
from tools import scale
from tools.scale import HARDWARE, PAGE, Plan, figures, flops_per_token, sent
from troupe.inspection.shapes import shapes_wanted


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.slow
def test_the_page_shows_what_is_calculated() -> None:
    """If not: `python -m tools.scale`."""
    assert scale.tables() in PAGE.read_text(encoding="utf-8")


def test_a_ring_sends_each_part_twice_but_once() -> None:
    """By hand, of 12 parameters in float32: among 3, each sends its neighbour 2 x 2 parts of 4."""
    assert sent(12, 3) == 2 * 2 * 4 * 4
    assert sent(12, 1) == 0


@pytest.mark.parametrize(("model", "parameters"), [("124M", 124_439_808), ("1.5B", 1_557_611_200)])
def test_the_models_are_gpt2s(model: str, parameters: int) -> None:
    """6 FLOPs for each parameter but those of positions, norms and biases, and what attention takes on top of that."""
    params = Plan(model, 1, 1).params()
    shape = shapes_wanted(params)["pretrain"]
    matrices = 50257 * params.model.n_embd + 12 * params.model.n_layer * params.model.n_embd**2
    attention = params.model.n_layer * params.model.n_embd * (1024 + 1)
    assert flops_per_token(shape) == 6 * (matrices + attention)
    assert matrices == pytest.approx(parameters, rel=0.01)


def test_a_step_of_two_nodes_by_hand() -> None:
    of = figures(Plan("124M", 16, 1))
    assert of.weights == 4 * 124_439_808
    assert of.exchanging == pytest.approx(2 * 15 / 16 * of.weights / (400e9 * HARDWARE.exchanging))
    assert of.tokens_per_second == pytest.approx(16 * 1024 / (of.computing + of.exchanging))
