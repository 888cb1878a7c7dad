"""Progress of long work: shown, as a live line in a terminal and at most one plain line a second elsewhere; and logged,
in a file that is the truth of which every tracking server holds a copy."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from troupe.files import write_atomic, writing

Log = Callable[[int, Mapping[str, float]], None]  # a step, and its figures
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


class MetricsLog:
    """Appends one JSON line per call: {"step", "time" in unix seconds, **values}; the file is closed between calls.

    It begins with `lines`: a stage that resumes keeps those up to its checkpoint, and drops what the lost attempt had
    logged beyond it.
    """

    def __init__(self, path: Path, lines: Sequence[str] = ()) -> None:
        write_atomic(path, "".join(f"{line}\n" for line in lines).encode())
        self._path = path

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        finite = {name: float(value) if math.isfinite(value) else str(value) for name, value in values.items()}
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n")

    def under(self, prefix: str) -> Log:
        """The same log for figures of one of several methods, each with steps of its own: "gan/val/bpb"."""
        return lambda step, values: self(step, {f"{prefix}/{name}": value for name, value in values.items()})


def lines_up_to(path: Path, step: int) -> list[str]:
    """Those of a log that a stage keeps which resumes after `step` steps; none for one that begins."""
    return [line for line in _whole_lines(path) if 0 < json.loads(line)["step"] <= step]


def lines_under(path: Path, prefix: str, step: int) -> list[str]:
    """Those of one method, up to a step, its start at step 0 included."""
    records = ((line, json.loads(line)) for line in _whole_lines(path))
    return [line for line, record in records if record["step"] <= step and _prefix(record) == prefix]


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Every whole record of a metric log; a last line cut short by a kill is left out."""
    return [json.loads(line) for line in _whole_lines(path)]


def _whole_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=False) if line.endswith("}")]


def _prefix(record: Mapping[str, object]) -> str:
    return next((name.partition("/")[0] for name in record if name not in ("step", "time")), "")
