"""Progress of long work: a live line in a terminal, at most one plain line a second elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console

Update = Callable[[int, Mapping[str, float]], None]
SECONDS_BETWEEN_LINES = 1.0


@contextmanager
def track(stage: str, total: int, start: int = 0) -> Iterator[Update]:
    """Give a function `update(step, {"loss": 2.31, ...})` that shows stage, step, figures and the time left."""
    began, shown = time.monotonic(), 0.0
    console = Console(highlight=False)
    with console.status("") if console.is_terminal else _nothing() as live:

        def update(step: int, figures: Mapping[str, float]) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown < SECONDS_BETWEEN_LINES and step < total:
                return
            shown = now
            line = _line(stage, step, total, figures, (now - began) / max(1, step - start) * (total - step))
            if live is not None and step < total:
                live.update(line)
            else:
                print(f"{line}\n", end="", flush=True, file=sys.stdout)  # one write: lines of two processes never mix

        yield update


def with_progress(stage: str, pieces: Iterable[str], n_bytes: int) -> Iterator[str]:
    """Hand a text of `n_bytes` in UTF-8 on, piece by piece; after a second, show how much of it has gone through."""
    began, done = time.monotonic(), 0
    with track(stage, n_bytes) as show:
        for piece in pieces:
            yield piece
            done += len(piece.encode())
            if (seconds := time.monotonic() - began) > SECONDS_BETWEEN_LINES:
                show(done, {"MB/s": done / 1e6 / seconds})


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


def _line(stage: str, step: int, total: int, figures: Mapping[str, float], seconds_left: float) -> str:
    minutes, seconds = divmod(round(seconds_left), 60)
    shown = "  ".join(f"{name} {_short(value)}" for name, value in figures.items())
    return f"{stage:<12} {step:>{len(str(total))}}/{total}  {shown}  {minutes}:{seconds:02d} left"


def _short(value: float) -> str:
    return f"{value / 1000:.1f}k" if abs(value) >= 10_000 else f"{value:.4g}"
