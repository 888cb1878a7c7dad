"""The alarm rings for figures that are not finite and for explosions that last; never for a healthy run."""

import math

import numpy as np
import pytest

from troupe.training.stops import ENOUGH, IN_A_ROW, TIMES, Watch


def calm(norm: float = 1.0, steps: int = ENOUGH) -> Watch:
    watch = Watch()
    for _ in range(steps):
        assert watch.fault(2.0, norm) is None
    return watch


@pytest.mark.parametrize("figures", [(math.nan, 1.0), (math.inf, 1.0), (2.0, math.nan), (2.0, math.inf)])
def test_one_figure_that_is_not_finite_is_a_fault_from_the_first_step_on(figures: tuple[float, float]) -> None:
    watch = Watch()
    fault = watch.fault(*figures)
    assert fault
    assert any(word in fault for word in ("nan", "inf"))
    assert watch.unhealthy == 1


def test_an_explosion_is_a_fault_when_it_has_lasted() -> None:
    watch = calm()
    faults = [watch.fault(9.0, 1.01 * TIMES) for _ in range(IN_A_ROW)]
    assert faults[:-1] == [None] * (IN_A_ROW - 1)
    assert faults[-1]
    assert str(TIMES) in faults[-1]
    assert watch.unhealthy == IN_A_ROW


def test_a_spike_even_a_huge_one_is_none_and_does_not_count_as_normal() -> None:
    watch = calm()
    for _ in range(3):
        for _ in range(IN_A_ROW - 1):
            assert watch.fault(9.0, 1e6) is None
        assert watch.fault(2.0, 1.0) is None
        assert watch.unhealthy == 0


def test_what_is_normal_moves_with_the_run() -> None:
    """A gradient that grows a thousandfold over many steps is training, not an explosion."""
    watch = Watch()
    assert not any(watch.fault(2.0, norm) for norm in np.geomspace(1e-3, 1.0, 2000))


def test_a_start_has_no_normal_yet() -> None:
    watch = calm(norm=1e-6, steps=ENOUGH - 1)
    assert watch.fault(2.0, 1.0) is None
    assert watch.unhealthy == 0


def test_heavy_tailed_noise_is_healthy() -> None:
    norms = np.random.default_rng(0).lognormal(0.0, 1.5, 20_000)  # the largest is some 300 times the median
    watch = Watch()
    assert norms.max() > TIMES
    assert not any(watch.fault(2.0, norm) for norm in norms)
