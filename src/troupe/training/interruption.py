"""SIGTERM and Ctrl-C while a model trains: noted at once, acted upon between two steps, when a checkpoint is whole."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from troupe.errors import Interrupted

ASKED = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def signals_noted() -> Iterator[Callable[[], int]]:
    """Give a function that returns the number of the last SIGTERM or SIGINT that came in here, 0 for none.

    Works in the main thread only, as every handler of signals in Python.
    """
    noted = 0

    def note(number: int, _: object) -> None:
        nonlocal noted
        noted = number

    before = {number: signal.signal(number, note) for number in ASKED}
    try:
        yield lambda: noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped(done: int, steps: int, number: int) -> Interrupted:
    """What to raise once the state after `done` steps is saved; number 0: the signal came to another process."""
    asked = signal.Signals(number or signal.SIGTERM)
    return Interrupted(f"stopped by {asked.name} after step {done} of {steps}; the same command goes on there", asked)
