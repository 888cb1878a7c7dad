"""The local metric log: the truth of which every tracking server holds a copy."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

from troupe.files import write_atomic, writing


class MetricsLog:
    """Appends one JSON line per call: {"step", "time" in unix seconds, **values}; the file is closed between calls.

    A stage that resumes after `resume_step` steps drops what the lost attempt had logged beyond them.
    """

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= resume_step] if resume_step else []
        write_atomic(path, "".join(f"{line}\n" for line in kept).encode())
        self._path = path

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        finite = {name: float(value) if math.isfinite(value) else str(value) for name, value in values.items()}
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n")


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Every whole record of a metric log; a last line cut short by a kill is left out."""
    return [json.loads(line) for line in _whole_lines(path)]


def _whole_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=False) if line.endswith("}")]
