"""The pages of studies and benchmarks: where their figures are from, tables, and files.

publish(args, sections, draw, records, packages=["torch"])  # <out>/<config>.md, .svg and .jsonl
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib
import psutil
import torch
from matplotlib.figure import Figure

from studies.core.html import body_of
from troupe.environment import DEFAULTS
from troupe.evaluation.pages import write_page
from troupe.evaluation.plots import STYLE, svg_of
from troupe.evaluation.provenance import git_commit
from troupe.files import write_atomic
from troupe.layout import STUDIES

VARIABLES = ("NANOGPT", "TROUPE_MIRROR")  # of the environment, that decide what is measured
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # how threads wait, as troupe.environment sets it or the user
LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")  # by which a machine does as if it had fewer instructions
CAPABILITIES = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "sve")  # as torch.cpu names them; those that matter


def facts(module: str, packages: Sequence[str]) -> dict[str, str]:
    """Where the figures of a page are from: machine, versions, the command `python -m <module> ...`, commit, date."""
    given = [f"{name}=path" for name in VARIABLES if os.environ.get(name)]
    waiting = {name: os.environ.get(name, DEFAULTS[name]) for name in WAITING}
    given += [f"{name}={value}" for name, value in waiting.items() if value != DEFAULTS[name]]
    given += [f"{name}={os.environ[name]}" for name in LIMITS if os.environ.get(name)]
    return {
        "machine": _machine(),
        "versions": ", ".join([f"python {platform.python_version()}", *(f"{one} {version(one)}" for one in packages)]),
        "command": f"`{' '.join([*given, 'python -m', module, *sys.argv[1:]])}`",
        "commit": git_commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }


def head(title: str, facts: Mapping[str, str]) -> str:
    """How a page begins."""
    return "\n".join([f"# {title}", "", *(f"- {name}: {fact}" for name, fact in facts.items())])


def table(first: str, columns: Sequence[str], rows: Mapping[str, Sequence[object]]) -> str:
    """A Markdown table; the column `first` holds the keys of `rows`, the others are aligned to the right."""
    lines = [row(first, columns), f"|---|{'---:|' * len(columns)}"]
    return "\n".join([*lines, *(row(name, cells) for name, cells in rows.items())])


def row(first: str, cells: Sequence[object]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(map(str, [first, *cells]))} |"


def bullets(lines: Iterable[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {line}" for line in lines)


def bar(what: str, found: float | None, at_most: float, form: str) -> str:
    """A line of a verdict: the bar is kept by what is at most as high; by None, what never happened, it is missed."""
    kept = found is not None and found <= at_most
    shown = "never" if found is None else f"{found:{form}}"
    return f"{what}: {shown}; the bar is {at_most:{form}}: {'kept' if kept else 'missed'}"


def sections_of(
    name: str, verdict: Iterable[str], picture: str, parts: Mapping[str, str], notes: Iterable[str]
) -> Iterator[str]:
    """A page below its head: the verdict line by line, <name>.svg described as `picture`, `parts` by title, notes."""
    yield f"### Verdict\n\n{bullets(verdict)}"
    yield f"![{picture}]({name}.svg)"
    yield from (f"### {title}\n\n{part}" for title, part in parts.items())
    yield bullets(notes)


def publish(
    args: argparse.Namespace,
    sections: Iterable[str],
    draw: Callable[[], Figure],
    records: Iterable[Mapping[str, Any]],
    packages: Sequence[str],
) -> None:
    """Print the page of a study and write it to `args.out`, if that is a folder, with picture and records beside it;
    and all of it as one page of HTML to reports/studies.

    `records` are the jobs' figures, a line of JSON each.
    """
    page = "\n\n".join([head(args.title, facts(f"studies.{args.study}", packages)), *sections]) + "\n"
    print(f"\n{page}", flush=True)
    lines = "".join(json.dumps(record, sort_keys=True) + "\n" for record in records)
    with styled():
        svg = svg_of(draw())
    html = STUDIES / f"{args.name}.html"
    write_page(html, args.title, body_of(page, svg, lines, Path(f"{args.name}.jsonl")))
    print(f"the same in a browser: {html}", flush=True)
    if args.out is None:
        return
    write_atomic(args.out / f"{args.name}.jsonl", lines.encode())
    write_atomic(args.out / f"{args.name}.svg", svg.encode())
    write_atomic(args.out / f"{args.name}.md", page.encode())


def styled() -> Any:
    """A context in which matplotlib draws as the report's pictures are drawn."""
    return matplotlib.rc_context(STYLE)


def _machine() -> str:
    known = torch.cpu.get_capabilities()
    able = " ".join(one for one in CAPABILITIES if known.get(one))
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join([f"{known['cpu_name']} with {able}", f"{psutil.cpu_count()} logical CPUs", memory, *gpus])
