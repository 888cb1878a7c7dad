"""Why training stops before its last step: a signal, or figures that have diverged.

SIGTERM and Ctrl-C are noted at once and acted upon between two steps, when a checkpoint is whole. Distillation, which
is short, saves none: it is told that it begins anew. In the first step after a start, which may take a minute to
compile, there is nothing to save: it ends at once.

A run has diverged with a figure that is not finite, or a gradient that has exploded and stays so. A single large
gradient is no alarm: it is clipped, and the next step is as before. An explosion is a gradient norm above `TIMES` the
median of the `HISTORY` steps before it, for `IN_A_ROW` steps in a row; in 16 healthy runs (dense and with experts, both
corpora, 78 to 600 steps) no step passed 2.01 times that median.
"""

import math
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median

from troupe.errors import Diverged, Interrupted

ADVICE = "lower learning_rate or adamw_learning_rate, or raise warmup_steps"
TIMES = 100
IN_A_ROW = 10
HISTORY, ENOUGH = 100, 20  # steps that the median is taken of, at most and at least
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


class Watch:
    """Follows loss and gradient norm (before clipping) from step to step; after a resumption it begins anew."""

    def __init__(self) -> None:
        self._healthy: deque[float] = deque(maxlen=HISTORY)
        self.unhealthy = 0  # steps in a row, the last one included

    def fault(self, loss: float, grad_norm: float) -> str | None:
        """What is wrong after this step, in words; None while the run may go on."""
        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        if finite and not self._exploded(grad_norm):
            self._healthy.append(grad_norm)
            self.unhealthy = 0
            return None
        self.unhealthy += 1
        if not finite:
            return f"loss {loss:.4g}, gradient norm {grad_norm:.4g}"
        if self.unhealthy < IN_A_ROW:
            return None
        return f"the gradient norm, now {grad_norm:.4g}, was over {TIMES} times its median for {IN_A_ROW} steps"

    def _exploded(self, grad_norm: float) -> bool:
        return len(self._healthy) >= ENOUGH and grad_norm > TIMES * median(self._healthy)


def require_health(watch: Watch, done: int, figures: Mapping[str, float], steps: int) -> None:
    """Raise Diverged if the figures of step `done` of `steps` are at fault, as `watch` sees it.

    Called before the optimisers step, so that a gradient that is not finite never reaches weights or checkpoint.
    """
    if fault := watch.fault(figures["train/loss"], figures["train/grad_norm"]):
        raise Diverged(
            f"training diverged at step {done} of {steps}, learning rate {figures['train/lr']:.4g}: {fault}; {ADVICE}",
            since=done - watch.unhealthy,
        )


def require_progress(error: float, done: int, steps: int) -> None:
    """Raise Diverged if the error of a distillation at step `done` is no number, or in the last one not below that of
    attention that puts out nothing.
    """
    if not math.isfinite(error) or (done == steps and error >= 1):
        raise Diverged(
            f"distillation diverged at step {done} of {steps}: its error is {error:.4g}, that of no attention 1; "
            "lower moe.distil_learning_rate or moe.distil_adamw_learning_rate, or raise moe.distil_steps",
            since=0,
        )


def require_finite(seen: Mapping[str, float], done: int, steps: int) -> None:
    """Raise Diverged if a figure of the look at validation after step `done` is no number."""
    if odd := {name: value for name, value in seen.items() if not math.isfinite(value)}:
        found = ", ".join(f"{name} {value}" for name, value in odd.items())
        raise Diverged(
            f"training diverged at step {done} of {steps}: {found} at the look at validation; {ADVICE}", done
        )
