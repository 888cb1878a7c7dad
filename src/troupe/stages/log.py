"""The local metric log: the truth of which every tracking server holds a copy."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from troupe.files import write_atomic, writing

Log = Callable[[int, Mapping[str, float]], None]  # a step, and its figures


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
