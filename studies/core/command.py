"""The command line of studies and benchmarks.

args = start("moe", "What attention experts are worth")  # --config --seeds --workers --quick --out --work
"""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from troupe import stopping
from troupe.errors import TroupeError
from troupe.layout import STATE

STUDIES = Path(__file__).parents[1]
WORK = STATE / "studies"


def parser(module: str, title: str, quick: str, results: str) -> argparse.ArgumentParser:
    """Of `python -m MODULE`, with --quick, which does what `quick` says, and --out (default: `results`)."""
    found = argparse.ArgumentParser(prog=f"python -m {module}", description=title)
    found.add_argument("--quick", action="store_true", help=f"{quick}; only printed")
    found.add_argument("--out", type=Path, help=f"folder of the page (default: {results}, with --quick none)")
    return found


def start(
    study: str,
    title: str,
    arguments: Sequence[str] | None = None,
    extra: Callable[[argparse.ArgumentParser], None] | None = None,
) -> argparse.Namespace:
    """Read the command line of a study, to which `extra` may add. `args.name` is that of the configuration, and of the
    page; `args.study` that of the package."""
    found = parser(f"studies.{study}", title, "tiny sizes", f"studies/{study}/results")
    found.add_argument("--config", default=study, help=f"a name in studies/{study} or a path (default: {study})")
    found.add_argument("--seeds", type=_count, help="how many (default: as the configuration says)")
    found.add_argument("--workers", type=_count, help="processes at once (default: physical cores)")
    found.add_argument("--work", type=Path, default=WORK, help=f"folder of finished jobs (default: {WORK})")
    if extra:
        extra(found)
    args = found.parse_args(arguments, argparse.Namespace(study=study, title=title))
    args.config = Path(args.config) if args.config.endswith(".yaml") else STUDIES / study / f"{args.config}.yaml"
    args.name = args.config.stem
    args.out = args.out or (None if args.quick else STUDIES / study / "results")
    return args


@contextmanager
def faults_in_one_line() -> Iterator[None]:
    """What a benchmark or a study runs in: a TroupeError is printed without a traceback and ends it with its exit
    status, Ctrl-C ends it with one line."""
    script = Path(sys.argv[0])
    name = script.parent.name if script.stem == "__main__" else script.stem
    stopping.as_usual(name)
    try:
        yield
    except TroupeError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print(stopping.line(name, signal.SIGINT), file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number
