"""What every study does alike: its command line, means with their intervals, and the page.

    args = start("moe", "What attention experts are worth")    # --config --seeds --workers --quick --out --work
    estimate([3.1, 3.0, 3.2])                                  # 3.100 ± 0.248: mean and 95 % interval over the seeds
    publish(args, sections, figure, records, packages=["torch"])  # <out>/<config>.md, .svg and .jsonl

The training runs themselves are jobs (jobs.py).
"""

import argparse
import json
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
import psutil
from matplotlib.figure import Figure
from scipy.stats import t

from benchmarks.common import facts, head
from studies.jobs import WORK
from troupe import stopping
from troupe.errors import TroupeError
from troupe.evaluation.plots import STYLE, write_svg
from troupe.files import write_atomic

FOLDER = Path(__file__).parent
CONFIGS, RESULTS = FOLDER / "configs", FOLDER / "results"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and the half width of its 95 % interval, by Student's t; None for a single seed."""

    mean: float
    half: float | None

    def __format__(self, spec: str) -> str:
        return f"{self.mean:{spec}}" + ("" if self.half is None else f" ± {self.half:{spec.lstrip('+')}}")


def estimate(values: Sequence[float]) -> Estimate:
    """Of one figure per seed. Taken of differences within a seed, it pairs them."""
    if len(values) == 1:
        return Estimate(values[0], None)
    factor = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return Estimate(mean(values), factor * stdev(values) / len(values) ** 0.5)


def start(name: str, title: str, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line. `args.name` is the configuration's, and the page's; `args.study` the module's."""
    parser = argparse.ArgumentParser(prog=f"python -m studies.{name}", description=title)
    parser.add_argument("--config", default=name, help=f"a name in studies/configs or a path (default: {name})")
    parser.add_argument("--seeds", type=_count, help="how many (default: as the configuration says)")
    parser.add_argument("--workers", type=_count, help="processes at once (default: physical cores)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; only printed")
    parser.add_argument("--out", type=Path, help="folder of the page (default: studies/results, with --quick none)")
    parser.add_argument("--work", type=Path, default=WORK, help=f"folder of finished jobs (default: {WORK})")
    args = parser.parse_args(arguments, argparse.Namespace(study=name, title=title))
    args.config = Path(args.config) if args.config.endswith(".yaml") else CONFIGS / f"{args.config}.yaml"
    args.name = args.config.stem
    args.out = args.out or (None if args.quick else RESULTS)
    return args


@contextmanager
def faults_told() -> Iterator[None]:
    """What a study runs in: a TroupeError is printed without a traceback and ends it, Ctrl-C too."""
    stopping.as_usual("study")
    try:
        yield
    except TroupeError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print(stopping.line("study", signal.SIGINT), file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


def physical_cores() -> int:
    return psutil.cpu_count(logical=False) or 1


def table(first: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A Markdown table; the column `first` holds the keys of `rows`, the others are aligned to the right."""
    lines = [f"| {' | '.join([first, *columns])} |", f"|---|{'---:|' * len(columns)}"]
    return "\n".join([*lines, *(f"| {' | '.join([name, *cells])} |" for name, cells in rows.items())])


def sections_of(
    name: str, verdict: Iterable[str], picture: str, parts: Mapping[str, str], notes: Iterable[str]
) -> Iterator[str]:
    """A page below its head: the verdict line by line, <name>.svg described as `picture`, `parts` by title, notes."""
    yield f"### Verdict\n\n{_bullets(verdict)}"
    yield f"![{picture}]({name}.svg)"
    yield from (f"### {title}\n\n{part}" for title, part in parts.items())
    yield _bullets(notes)


def publish(
    args: argparse.Namespace,
    sections: Iterable[str],
    figure: Figure | None,
    records: Iterable[Mapping[str, Any]],
    packages: Sequence[str],
) -> None:
    """Print the page and write it to `args.out`, if that is a folder, with the figure and all records beside it.

    `figure` is drawn inside `styled()`; `records` are the jobs' figures, a line of JSON each.
    """
    page = "\n\n".join([head(args.title, facts(f"studies.{args.study}", packages)), *sections]) + "\n"
    print(f"\n{page}", flush=True)
    if args.out is None:
        return
    lines = "".join(json.dumps(record, sort_keys=True) + "\n" for record in records)
    write_atomic(args.out / f"{args.name}.jsonl", lines.encode())
    if figure:
        with styled():
            write_svg(args.out / f"{args.name}.svg", figure)
    write_atomic(args.out / f"{args.name}.md", page.encode())


def styled() -> Any:
    """A context in which matplotlib draws as the report's pictures are drawn."""
    return matplotlib.rc_context(STYLE)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number
