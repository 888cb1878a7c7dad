"""Signals while a model trains: at once as long as there is nothing to save, noted from then on."""

import os
import signal

import pytest

from troupe.errors import Interrupted
from troupe.training.stops import signals_noted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_the_first_step_a_signal_ends_the_run_at_once(number: signal.Signals) -> None:
    def first_step() -> None:
        try:
            os.kill(os.getpid(), number)
            pytest.fail("it went on")
        except Exception as swallowed:  # as a compiler would that guards itself against its own faults
            pytest.fail(f"taken for a fault: {swallowed!r}")
        finally:
            os.kill(os.getpid(), number)  # an impatient second one

    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"stopped by {number.name} in its first step") as error, signals_noted():
        first_step()
    assert error.value.exit_code == 128 + number
    assert signal.getsignal(number) is before


def test_after_it_a_signal_is_noted_and_nothing_else() -> None:
    with signals_noted() as interrupted:
        assert interrupted() == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupted() == signal.SIGTERM
