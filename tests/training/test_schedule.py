"""The trapezoid, worked by hand."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from troupe.training.optim import learning_rate_factor


def test_ten_steps_worked_by_hand(train_params: Any) -> None:
    params = train_params(steps=10, warmup_steps=4, decay_fraction=0.5)
    factors = [learning_rate_factor(step, params) for step in range(10)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_the_step_after_the_last_would_have_rate_zero(train_params: Any) -> None:
    assert learning_rate_factor(10, train_params(steps=10, decay_fraction=0.3)) == 0


def test_without_warm_up_and_decay_it_is_constant(train_params: Any) -> None:
    params = train_params(steps=10, warmup_steps=0, decay_fraction=0.0)
    assert {learning_rate_factor(step, params) for step in range(10)} == {1.0}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 300), st.integers(0, 400), st.floats(0, 1))
def test_it_rises_then_falls_within_zero_and_one(
    train_params: Any, steps: int, warmup_steps: int, decay_fraction: float
) -> None:
    params = train_params(steps=steps, warmup_steps=warmup_steps, decay_fraction=decay_fraction)
    factors = [learning_rate_factor(step, params) for step in range(steps)]
    top = factors.index(max(factors))
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:top] == sorted(factors[:top])
    assert factors[top:] == sorted(factors[top:], reverse=True)
