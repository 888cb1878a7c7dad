"""The command `troupe`: generate text, look at and change what is registered, check parameters.

One file for each group of commands. What takes seconds to import (torch, mlflow) is imported by the commands that need
it, so that `troupe --help` is quick.
"""

import sys
from pathlib import Path

from troupe import stopping

if STARTED := stopping.module_started() == __name__ or Path(sys.argv[0]).name == "troupe":
    stopping.end_at_once("troupe")

from troupe import environment
from troupe.cli import launch, models, registry, serve, text  # noqa: F401 - each adds its commands
from troupe.cli.common import app
from troupe.errors import TroupeError


def main() -> None:
    """The entry point: one line on standard error and an exit status for what a user can mend."""
    environment.prepare()
    if STARTED:
        stopping.as_usual("troupe")
    try:
        app()
    except TroupeError as error:
        print(f"troupe: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
