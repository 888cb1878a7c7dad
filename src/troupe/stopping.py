"""SIGTERM and Ctrl-C: one line and status 128 + n, at whatever moment of a process they come.

Importing torch takes seconds, in which a signal would raise KeyboardInterrupt anywhere in the code of others. An entry
point therefore calls `end_at_once` before it imports anything large; its own work runs in `raised`, or after
`as_usual`. Training, which saves its state first, has its own way meanwhile (training/stops.py).
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

ASKED = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """A signal has asked this process to end. Not an Exception: code at work would take that for a fault of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def module_started() -> str:
    """The module of `python -m MODULE` while the packages around it are imported; "" in every other process."""
    if sys.argv[:1] != ["-m"]:
        return ""
    return next((name for flag, name in zip(sys.orig_argv, sys.orig_argv[1:], strict=False) if flag == "-m"), "python")


def end_at_once(name: str = "") -> None:
    """From now on a signal ends this process without a clean-up, with one line that begins with `name` unless empty."""

    def end(number: int) -> None:
        if name:
            os.write(2, line(name, number).encode() + b"\n")
        os._exit(128 + number)

    _handle(end)


@contextmanager
def raised() -> Iterator[None]:
    """In here the first signal raises Stopped, a second one ends the process; after it, any signal ends it."""

    def stop(number: int) -> None:
        end_at_once()
        raise Stopped(number)

    _handle(stop)
    try:
        yield
    finally:
        end_at_once()


def as_usual(name: str) -> None:
    """SIGTERM ends this process again, SIGINT raises KeyboardInterrupt; where nobody catches that, it is one line."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print(line(name, signal.SIGINT), file=sys.stderr)
        else:
            before(kind, error, trace)

    sys.excepthook = hook


def line(name: str, number: int) -> str:
    """What a process says that a signal has stopped."""
    return f"{name}: stopped by {signal.Signals(number).name}; the same command begins it again"


def _handle(body: Callable[[int], None]) -> None:
    """Have signals that are not ignored do this here, and end processes that are forked from here without a word."""
    pid = os.getpid()

    def handler(number: int, _: FrameType | None) -> None:
        if os.getpid() != pid:
            os._exit(128 + number)
        body(number)

    for number in ASKED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
