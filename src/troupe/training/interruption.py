"""SIGTERM and Ctrl-C while a model trains: noted at once, acted upon between two steps, when a checkpoint is whole.
Distillation, which is short, saves none: it is told that it begins anew.

In the first step after a start, which may take a minute to compile, there is nothing to save: it ends at once.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from troupe.errors import Interrupted

ASKED = (signal.SIGTERM, signal.SIGINT)


class _AtOnce(BaseException):
    """Not an Exception, which a compiler at work would take for a fault of its own."""


@contextmanager
def signals_noted(doing: str = "in its first step, with nothing new to save") -> Iterator[Callable[[], int]]:
    """Give a function that returns the number of the last SIGTERM or SIGINT that came in here, 0 for none.

    Until it is called for the first time a signal raises Interrupted, which says what the process was `doing`. Works
    in the main thread only, as every handler of signals in Python.
    """
    noted, asked = 0, False

    def note(number: int, _: object) -> None:
        nonlocal noted, asked
        noted = number
        if not asked:
            asked = True  # a second signal is not to disturb the end
            raise _AtOnce

    def last() -> int:
        nonlocal asked
        asked = True
        return noted

    before = {number: signal.getsignal(number) for number in ASKED}
    try:
        for number in ASKED:
            signal.signal(number, note)
        yield last
    except _AtOnce:
        name = signal.Signals(noted).name
        raise Interrupted(f"stopped by {name} {doing}; the same command begins it again", noted) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def given_up(done: int, steps: int, number: int) -> Interrupted:
    """What to raise after `done` steps of a distillation; `number` as in `stopped`."""
    asked = signal.Signals(number or signal.SIGTERM)
    return Interrupted(
        f"stopped by {asked.name} after step {done} of {steps} of the distillation; the same command begins it anew",
        asked,
    )


def stopped(done: int, steps: int, number: int) -> Interrupted:
    """What to raise once the state after `done` steps is saved; number 0: the signal came to another process."""
    asked = signal.Signals(number or signal.SIGTERM)
    return Interrupted(f"stopped by {asked.name} after step {done} of {steps}; the same command goes on there", asked)
