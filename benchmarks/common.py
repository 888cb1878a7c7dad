"""What every benchmark does alike. A benchmark is a module that `make bench` runs as `python -m benchmarks.<name>`:

    args = start("generation", "Tokens per second of generation", rounds=5)  # reads --quick, --threads, --rounds
    figures = interleaved({"transformers": theirs, "troupe": ours}, args)    # each: () -> float, one measurement
    finish(args, [comparison("1,000 tokens at 10.7M parameters", figures, "tokens/s", bases=["transformers"])],
           notes=["What the figures leave out."], packages=["torch", "transformers"])

Contestants take turns (A B A B ...), so that a slow minute of the machine hits all of them, and ratios are taken within
a round. In every round the work of other processes is measured; where they used more than a quarter of the machine, no
page is written without --force. `--quick` is for a look and for the tests: tiny sizes, one round, printed but not
written. The checkout of nanoGPT that some benchmarks run is named by the environment variable NANOGPT (`nanogpt()`).
"""

import argparse
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psutil
import torch

from studies.core.command import parser
from studies.core.page import WAITING, bullets, facts, head, table
from troupe import stopping

RESULTS = Path("benchmarks/results")
BUSY = 25.0  # per cent of the machine in use by others above which figures are not to be trusted
COMPILED = "TORCHINDUCTOR_CACHE_DIR"  # where torch.compile keeps what it has generated
Figures = dict[str, list[float]]  # of each contestant, one figure per round


def start(
    name: str,
    title: str,
    rounds: int | None = None,
    extra: Callable[[argparse.ArgumentParser], None] | None = None,
) -> argparse.Namespace:
    """Read the command line, set the number of threads here and for every process started later.

    Without `rounds` there is no option for them. Exits if NANOGPT names what is no checkout of nanoGPT.
    """
    found = parser(f"benchmarks.{name}", title, "tiny sizes, one round", str(RESULTS))
    cores = psutil.cpu_count(logical=False) or 1
    found.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", cores)))
    if rounds:
        found.add_argument("--rounds", type=int, default=rounds)
    found.add_argument("--force", action="store_true", help="write the page though others use the machine")
    if extra:
        extra(found)
    found.set_defaults(name=name, title=title, busy=[], rounds=rounds or 1)
    args = found.parse_args()
    args.rounds = 1 if args.quick else args.rounds
    stopping.as_usual(f"benchmarks.{name}")
    _require_checkout()
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(args.threads))
    torch.set_num_threads(args.threads)
    return args


def nanogpt() -> Path | None:
    """The user's checkout of nanoGPT; None, and a line that says so, without one."""
    if folder := os.environ.get("NANOGPT"):
        return Path(folder)
    print("skipped: nanoGPT, for want of a checkout; name one: make bench NANOGPT=path", flush=True)
    return None


def interleaved(contestants: Mapping[str, Callable[[], float]], args: argparse.Namespace) -> Figures:
    """One figure of each contestant per round, in turns; prints them as they come."""
    figures: Figures = {name: [] for name in contestants}
    for number in range(1, args.rounds + 1):
        with watched(args):
            for name, measure in contestants.items():
                figures[name].append(measure())
                print(f"round {number}/{args.rounds}  {name}: {short(figures[name][-1])}", flush=True)
    return figures


@contextmanager
def watched(args: argparse.Namespace) -> Iterator[None]:
    """Add to `args.busy` what others used of the machine meanwhile, in per cent: all of its work without ours."""
    began, all_before, ours_before = time.monotonic(), _work_of_all(), _work_of_ours()
    yield
    others = _work_of_all() - all_before - (_work_of_ours() - ours_before)
    capacity = (time.monotonic() - began) * (psutil.cpu_count() or 1)
    args.busy.append(max(0.0, 100 * others / capacity))


@contextmanager
def compiling_afresh() -> Iterator[None]:
    """For whole runs: torch.compile of processes started meanwhile finds nothing that an earlier run left."""
    before = os.environ.get(COMPILED)
    with TemporaryDirectory(prefix="compiled-") as folder:
        os.environ[COMPILED] = folder
        try:
            yield
        finally:
            del os.environ[COMPILED]
            os.environ |= {COMPILED: before} if before else {}


def comparison(title: str, figures: Figures, unit: str, bases: Sequence[str] = ()) -> str:
    """A section of a page: median and range of each contestant and, within each round, its ratio to each of `bases`."""

    def cells(values: list[float]) -> Iterator[str]:
        yield from (short(median(values)), f"{short(min(values))}..{short(max(values))}")
        for base in bases:
            ratios = [value / other for value, other in zip(values, figures[base], strict=True)]
            yield f"{median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"

    columns = [unit, "min..max", *(f"times {base}" for base in bases)]
    return f"### {title}\n\n{table('', columns, {name: [*cells(values)] for name, values in figures.items()})}"


def short(value: float) -> str:
    """Four digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def finish(args: argparse.Namespace, sections: Iterable[str], notes: Sequence[str], packages: Sequence[str]) -> None:
    """Print the page and, unless `--quick`, write it to benchmarks/results/<name>.md.

    `sections` may measure as they are asked for: if one exits, the page holds those before it and why it ends there.
    Exits too if others used the machine, without writing.
    """
    found, ended = _until_exit(sections)
    page = "\n\n".join([_head(args, packages), *found, bullets(notes)]) + "\n"
    print(f"\n{page}", flush=True)
    folder = args.out or (None if args.quick else RESULTS)
    if folder and max(args.busy, default=0.0) > BUSY and not (args.force or args.quick):
        raise SystemExit(f"{args.name}: not written: others used {max(args.busy):.0f} % of the machine; or add --force")
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{args.name}.md").write_text(page, encoding="utf-8")
    if ended:
        raise ended


def _until_exit(sections: Iterable[str]) -> tuple[list[str], SystemExit | None]:
    found: list[str] = []
    try:
        for section in sections:
            found.append(section)
    except SystemExit as ended:
        return [*found, f"**The measurement ended here: {ended}**"], ended
    return found, None


def _head(args: argparse.Namespace, packages: Sequence[str]) -> str:
    known = facts(f"benchmarks.{args.name}", packages)
    waiting = ", ".join(f"{name}={os.environ[name]}" for name in WAITING if name in os.environ)
    measured = {
        "machine": known["machine"],
        "threads": f"{args.threads} where a row names no other; all wait alike, {waiting}",
        "others": f"used {', '.join(f'{busy:.0f}' for busy in args.busy)} % of the machine, round by round",
    }
    return head(args.title, measured | known | {"commit": f"{known['commit']}{_nanogpt_commit()}"})


def _work_of_all() -> float:
    """Seconds of work of all CPUs since the machine started."""
    times = psutil.cpu_times()._asdict()
    return float(sum(times.get(kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq")))


def _work_of_ours() -> float:
    """Of this process and of those that it started, whether they have ended or go on."""
    times = os.times()
    work = times.user + times.system + times.children_user + times.children_system
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            work += sum(child.cpu_times()[:4])  # user, system, and the same of children of its own that have ended
    return work


def _require_checkout() -> None:
    folder = os.environ.get("NANOGPT")
    if folder and not Path(folder, "train.py").exists():
        raise SystemExit(f"NANOGPT={folder}: no checkout of nanoGPT, there is no train.py")


def _nanogpt_commit() -> str:
    folder = os.environ.get("NANOGPT")
    if not folder or not shutil.which("git"):
        return ""
    result = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True)
    return f"; nanoGPT {result.stdout.strip() or 'of no known commit'}"
