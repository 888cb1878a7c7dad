"""A systemd unit of the user's that keeps `make ui` running: after a crash, and from the start of the machine on."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from troupe.files import write_atomic

# Ctrl-C's signal, to the one process that passes it on: `make ui` ends what it has started, in order.
UNIT = """\
[Unit]
Description=troupe in {described}: Prefect, MLflow, scheduled runs

[Service]
WorkingDirectory={folder}
ExecStart={command}
KillMode=mixed
KillSignal=SIGINT
SuccessExitStatus=130
TimeoutStopSec=60
Restart=always
RestartSec=5

[Install]
WantedBy=default.target
"""


def write_unit(command: Sequence[str]) -> Path:
    """Write the unit of the current folder, in which it runs `command`; return its path. Nothing is started."""
    path = _units() / f"{unit_name(Path.cwd())}.service"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, unit(command, Path.cwd()).encode())
    return path


def next_steps(path: Path) -> list[str]:
    """What to type then."""
    return [
        f"start    systemctl --user daemon-reload && systemctl --user enable --now {path.name}",
        "always   loginctl enable-linger   (also while nobody is logged in)",
        f"look     systemctl --user status {path.name}",
        "open     make address   (with the token that the servers ask for)",
    ]


def unit(command: Sequence[str], folder: Path) -> str:
    """The text of a unit that runs `command` in `folder`, both absolute."""
    plain = _specifiers(str(folder))
    return UNIT.format(described=plain, folder=plain, command=" ".join(map(_word, command)))


def unit_name(folder: Path) -> str:
    """One for each folder, of characters that unit names may have."""
    return "troupe-" + re.sub(r"[^A-Za-z0-9]+", "-", str(folder)).strip("-")


def _word(text: str) -> str:
    """A word of ExecStart: quoted, with nothing in it that systemd would replace."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_specifiers(quoted).replace("$", "$$")}"'


def _specifiers(text: str) -> str:
    return text.replace("%", "%%")


def _units() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd/user"
