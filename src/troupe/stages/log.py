"""The local metric log: the truth of which every tracking server holds a copy."""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from troupe.files import write_atomic, writing

Log = Callable[[int, Mapping[str, float]], None]  # a step, and its figures
MetricsRecord = Mapping[str, float]


class MetricsLog:
    """Appends one JSON line per call: {"step", "time" in unix seconds, **values}; the file is closed between calls.

    A stage that resumes drops what the lost attempt had logged beyond its checkpoint: all but the records `kept`.
    """

    def __init__(self, path: Path, kept: Callable[[MetricsRecord], bool] = lambda record: False) -> None:
        lines = [line for line in _whole_lines(path) if kept(json.loads(line))]
        write_atomic(path, "".join(f"{line}\n" for line in lines).encode())
        self._path = path

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        finite = {name: float(value) if math.isfinite(value) else str(value) for name, value in values.items()}
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n")

    def under(self, prefix: str) -> Log:
        """The same log for figures of one of several methods, each with steps of its own: "gan/val/bpb"."""
        return lambda step, values: self(step, {f"{prefix}/{name}": value for name, value in values.items()})


def up_to(step: int) -> Callable[[MetricsRecord], bool]:
    """The records of a stage that resumes after `step` steps; none for one that begins."""
    return lambda record: 0 < record["step"] <= step


def up_to_each(steps: Mapping[str, int]) -> Callable[[MetricsRecord], bool]:
    """The records under each prefix up to its step, its start at step 0 included; none under others."""

    def kept(record: MetricsRecord) -> bool:
        prefix = next((name.partition("/")[0] for name in record if name not in ("step", "time")), "")
        return record["step"] <= steps.get(prefix, -1)

    return kept


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Every whole record of a metric log; a last line cut short by a kill is left out."""
    return [json.loads(line) for line in _whole_lines(path)]


def _whole_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=False) if line.endswith("}")]
