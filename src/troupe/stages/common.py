"""What every stage does before its own work: read parameters, die with its parent, turn errors into one line."""

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from troupe.errors import TroupeError
from troupe.layout import PARAMS
from troupe.params import Params, load_params, split_overrides

SET_VARIABLE = (
    "TROUPE_SET"  # overrides of params.yaml for this run, e.g. "pretrain.steps=500 data.source=tiny-shakespeare"
)
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def stage_main(name: str, body: Callable[[Params], None]) -> None:
    """Run a stage from the command line: `body(params)`; a TroupeError is printed as one line and exits non-zero.

    `--params FILE` is read as it stands. Without it params.yaml is read, with the overrides in TROUPE_SET laid over it.
    """
    parser = argparse.ArgumentParser(prog=f"python -m troupe.stages.{name}", description=body.__doc__)
    parser.add_argument(
        "--params", type=Path, help=f"a complete parameter file (default: {PARAMS} with ${SET_VARIABLE})"
    )
    file: Path | None = parser.parse_args().params
    die_with_parent()
    try:
        body(load_params(file) if file else load_params(PARAMS, overrides_from_environment()))
    except TroupeError as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def overrides_from_environment() -> list[str]:
    """The overrides in TROUPE_SET, split as a shell would."""
    return split_overrides(os.environ.get(SET_VARIABLE, ""))


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies: `dvc repro`, killed, would leave its stage running."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
