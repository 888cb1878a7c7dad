"""What a flow run does that finds the workspace busy: it waits, is skipped, or fails.

The lock of the workspace (troupe/lock.py) decides, not Prefect, whose lease can end before the run that holds it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Literal, TypeVar

from troupe.errors import TroupeError, WorkspaceBusy

WhenBusy = Literal["wait", "skip", "fail"]
SECONDS_BETWEEN_TRIES = 1.0
T = TypeVar("T")


class Skipped(TroupeError):
    """This run is not to be: nothing has been done, and nothing went wrong."""


def once_free(attempt: Callable[[], T], when_busy: WhenBusy, show: Callable[[str], None]) -> T:
    """What `attempt` returns, as soon as it does not raise WorkspaceBusy.

    `show` receives the reason once for each holder that is waited for, and "" when the wait is over. Raises Skipped or
    WorkspaceBusy, at once, where `when_busy` says so.
    """
    reason = ""
    while True:
        try:
            result = attempt()
        except WorkspaceBusy as busy:
            if when_busy == "fail":
                raise
            if when_busy == "skip":
                raise Skipped(f"skipped: {busy}") from None
            if str(busy) != reason:
                reason = str(busy)
                show(reason)
            time.sleep(SECONDS_BETWEEN_TRIES)
        else:
            if reason:
                show("")
            return result


@contextmanager
def entered_once_free(
    manager: Callable[[], AbstractContextManager[T]], when_busy: WhenBusy, show: Callable[[str], None]
) -> Iterator[T]:
    """A context, such as `claim`, entered as soon as the workspace is free; see `once_free`."""
    with ExitStack() as stack:
        yield once_free(lambda: stack.enter_context(manager()), when_busy, show)
