"""What every benchmark does alike. A benchmark is a module that `make bench` runs as `python -m benchmarks.<name>`:

    args = start("generation", "Tokens per second of generation", rounds=5)     # reads --quick, --threads, --rounds
    figures = interleaved({"transformers": theirs, "troupe": ours}, args.rounds)  # each: () -> float, one measurement
    finish(args, [table("1,000 tokens at 10.7M parameters", figures, "tokens/s", base="transformers")],
           notes=["What the figures leave out."], packages=["torch", "transformers"])

Contestants take turns (A B A B ...), so that a slow minute of the machine hits all of them, and ratios are taken within
a round. `--quick` is for a look and for the tests: tiny sizes, one round, printed but not written. The checkout of
nanoGPT that some benchmarks run is named by the environment variable NANOGPT (`nanogpt()`).
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

import psutil
import torch

from troupe.evaluation.provenance import git_commit

RESULTS = Path("benchmarks/results")
BUSY = 10.0  # per cent of the machine in use by others above which figures are not to be trusted
CAPABILITIES = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "sve")  # as torch.cpu names them; those that matter
Figures = dict[str, list[float]]  # of each contestant, one figure per round


def start(
    name: str, title: str, rounds: int, extra: Callable[[argparse.ArgumentParser], None] | None = None
) -> argparse.Namespace:
    """Read the command line, set the number of threads here and for every process started later, look at the load."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=title)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round; only printed")
    cores = psutil.cpu_count(logical=False) or 1
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", cores)))
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--out", type=Path, help=f"folder of the page (default: {RESULTS}, with --quick none)")
    if extra:
        extra(parser)
    args = parser.parse_args(namespace=argparse.Namespace(name=name, title=title))
    args.rounds = 1 if args.quick else args.rounds
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(args.threads))
    torch.set_num_threads(args.threads)
    args.busy = psutil.cpu_percent(interval=0.1 if args.quick else 1.0)
    if args.busy > BUSY:
        print(f"{name}: others use {args.busy:.0f} % of this machine; figures will be too low", file=sys.stderr)
    return args


def nanogpt() -> Path | None:
    """The user's checkout of nanoGPT; None, and a line that says so, without one. Exits if it is none."""
    folder = os.environ.get("NANOGPT")
    if not folder:
        print("skipped: nanoGPT, for want of a checkout; name one: make bench NANOGPT=path", flush=True)
        return None
    if not (Path(folder) / "train.py").exists():
        raise SystemExit(f"NANOGPT={folder}: no checkout of nanoGPT, there is no train.py")
    return Path(folder)


def interleaved(contestants: Mapping[str, Callable[[], float]], rounds: int) -> Figures:
    """One figure of each contestant per round, in turns; prints them as they come."""
    figures: Figures = {name: [] for name in contestants}
    for number in range(1, rounds + 1):
        for name, measure in contestants.items():
            figures[name].append(measure())
            print(f"round {number}/{rounds}  {name}: {short(figures[name][-1])}", flush=True)
    return figures


def table(title: str, figures: Figures, unit: str, base: str | None = None) -> str:
    """A Markdown table: median and range of each contestant and, within each round, its ratio to `base`."""
    ratio = f" times {base} |" if base else ""
    lines = [f"### {title}", "", f"| | {unit} | min..max |{ratio}", f"|---|---:|---:|{'---:|' if base else ''}"]
    for name, values in figures.items():
        row = f"| {name} | {short(median(values))} | {short(min(values))}..{short(max(values))} |"
        if base:
            ratios = [value / other for value, other in zip(values, figures[base], strict=True)]
            row += f" {median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f}) |"
        lines.append(row)
    return "\n".join(lines)


def short(value: float) -> str:
    """Four digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def finish(args: argparse.Namespace, sections: Sequence[str], notes: Sequence[str], packages: Sequence[str]) -> None:
    """Print the page and, unless `--quick`, write it to benchmarks/results/<name>.md."""
    facts = {
        "machine": _machine(),
        "threads": f"{args.threads}; others used {args.busy:.0f} % of the machine at the start",
        "versions": ", ".join([f"python {platform.python_version()}", *(f"{one} {version(one)}" for one in packages)]),
        "command": f"`python -m benchmarks.{args.name} {' '.join(sys.argv[1:])}`".replace(" `", "`"),
        "commit": f"{git_commit()}{_nanogpt_commit()}",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    head = [f"# {args.title}", "", *(f"- {name}: {fact}" for name, fact in facts.items())]
    page = "\n\n".join(["\n".join(head), *sections, "\n".join(f"- {note}" for note in notes)]) + "\n"
    print(f"\n{page}", flush=True)
    if folder := args.out or (None if args.quick else RESULTS):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{args.name}.md").write_text(page, encoding="utf-8")


def _machine() -> str:
    known = torch.cpu.get_capabilities()
    able = " ".join(one for one in CAPABILITIES if known.get(one))
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join([f"{known['cpu_name']} with {able}", f"{psutil.cpu_count()} cores", memory, *gpus])


def _nanogpt_commit() -> str:
    folder = os.environ.get("NANOGPT")
    if not folder or not shutil.which("git"):
        return ""
    result = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True)
    return f"; nanoGPT {result.stdout.strip() or 'of no known commit'}"
