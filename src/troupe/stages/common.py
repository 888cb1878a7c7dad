"""What every stage does before its own work: read parameters, die with its parent, turn errors into one line."""

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from troupe import stopping
from troupe.errors import TroupeError
from troupe.files import DISK_FAULTS, disk_fault
from troupe.layout import PARAMS
from troupe.overlay import split_overrides
from troupe.params import Params, load_params

SET_VARIABLE = (
    "TROUPE_SET"  # overrides of params.yaml for this run, e.g. "pretrain.steps=500 data.source=tiny-shakespeare"
)
PROFILE_VARIABLE = "TROUPE_PROFILE"  # the profile between params.yaml and the overrides, e.g. "cpu-hours"
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def stage_main(name: str, body: Callable[[Params], None]) -> None:
    """Run a stage from the command line: `body(params)`; a TroupeError is printed as one line and exits non-zero.

    So does a disk that is full or read-only. SIGTERM and Ctrl-C end a stage with one line, whenever they come; training
    saves its state first (fit.py).

    `--params FILE` is read as it stands. Without it params.yaml is read, the profile in TROUPE_PROFILE laid over
    it, and over both the overrides in TROUPE_SET.
    """
    parser = argparse.ArgumentParser(prog=f"python -m troupe.stages.{name}", description=body.__doc__)
    default = f"{PARAMS} with ${PROFILE_VARIABLE} and ${SET_VARIABLE}"
    parser.add_argument("--params", type=Path, help=f"a complete parameter file (default: {default})")
    file: Path | None = parser.parse_args().params
    die_with_parent()
    try:
        with stopping.raised():
            _run(name, body, file)
    except stopping.Stopped as stop:
        print(stopping.line(name, stop.number), file=sys.stderr)
        raise SystemExit(128 + stop.number) from None


def _run(name: str, body: Callable[[Params], None], file: Path | None) -> None:
    try:
        overrides, profile = overrides_from_environment(), profile_from_environment()
        body(load_params(file) if file else load_params(PARAMS, overrides, profile))
    except TroupeError as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        print(f"{name}: {error.filename or 'a file'}: {disk_fault(error)}", file=sys.stderr)
        raise SystemExit(TroupeError.exit_code) from None


def overrides_from_environment() -> list[str]:
    """The overrides in TROUPE_SET, split as a shell would."""
    return split_overrides(os.environ.get(SET_VARIABLE, ""))


def profile_from_environment() -> str:
    """The profile in TROUPE_PROFILE; "" for none."""
    return os.environ.get(PROFILE_VARIABLE, "")


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies: `dvc repro`, killed, would leave its stage running."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
