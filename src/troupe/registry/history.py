"""The audit file .troupe/history.jsonl: a line for every decision about the release line, and none is ever changed.

The same entries stand as tags `history.<id>` in the registry: on the version that became champion, or on the one that
was refused or mended, or, where nothing of the kind is left, on the registered model. So they outlast the loss of
either.
"""

import getpass
import json
import math
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from troupe.files import writing
from troupe.gate import Figures
from troupe.layout import HISTORY

PROMOTED, REFUSED, ROLLED_BACK = "promoted", "refused", "rolled back"
MOVED, DELETED = "moved by hand", "deleted"  # noticed, not done, by troupe
HEALED, DAMAGED, ADOPTED = "healed", "damaged", "adopted"
TAG = "history."  # what the name of a tag with an entry begins with
SHOWN = ("test_bpb", "judge_accuracy", "judge_standard_error")


@dataclass(frozen=True)
class Entry:
    action: str
    by: str  # who or what
    before: str | None  # the champion's models:/NAME/VERSION before it; None where there was none
    after: str | None  # and after it
    reasons: tuple[str, ...] = ()
    version: str | None = None  # that it is about, if not the champion after it
    figures: Mapping[str, float] = field(default_factory=dict)
    time: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(timespec="seconds"))
    id: str = field(default_factory=lambda: f"{datetime.now().astimezone():%Y%m%d%H%M%S}-{secrets.token_hex(4)}")

    def plain(self) -> dict[str, Any]:
        """The entry as it stands in the file, whose keys are `from` and `to` for the champion before and after it."""
        return {
            "time": self.time,
            "action": self.action,
            "by": self.by,
            "from": self.before,
            "to": self.after,
            "version": self.version,
            "reasons": list(self.reasons),
            "figures": dict(self.figures),
            "id": self.id,
        }

    @classmethod
    def from_plain(cls, plain: Any) -> Self:
        """The entry of which this is the `plain` form. Raises ValueError if it is none."""
        try:
            return cls(
                action=str(plain["action"]),
                by=str(plain["by"]),
                before=plain["from"],
                after=plain["to"],
                reasons=tuple(plain["reasons"]),
                version=plain["version"],
                figures=dict(plain["figures"]),
                time=str(plain["time"]),
                id=str(plain["id"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no entry: {error}") from None

    def says_again(self, other: "Entry") -> bool:
        """Whether this is the same decision about the same versions for the same reasons, at another time."""
        return (self.action, self.version, self.before, self.after, self.reasons) == (
            other.action, other.version, other.before, other.after, other.reasons,
        )  # fmt: skip


def who() -> str:
    """The user and the command of this process."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user that has no name
        user = f"uid {os.getuid()}"
    module = getattr(sys.modules["__main__"], "__spec__", None)  # of `python -m MODULE`
    program = module.name.removesuffix(".__main__") if module else Path(sys.argv[0]).name
    return f"{user}, {program or 'python'}"


def figures_of(candidate: Figures | None, champion: Figures | None) -> dict[str, float]:
    """The figures that an entry keeps: the candidate's by their names, the champion's as champion_<name>."""
    found = {}
    for prefix, figures in (("", candidate), ("champion_", champion)):
        for name in SHOWN if figures else ():
            if math.isfinite(value := getattr(figures, name)):
                found[prefix + name] = value
    return found


def append(entry: Entry) -> None:
    """Add a line, on the disk when this returns; an entry that is there already is not repeated.

    Raises ArtifactError when the disk is full or the folder cannot be written to.
    """
    if any(known.id == entry.id for known in entries()):
        return
    line = json.dumps(entry.plain(), ensure_ascii=False, allow_nan=False)
    with writing(HISTORY):
        HISTORY.parent.mkdir(parents=True, exist_ok=True)
        with HISTORY.open("a+b") as file:
            if file.tell() and not _ends_a_line(file.fileno(), file.tell()):
                line = "\n" + line  # after what a kill has cut short
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def entries() -> list[Entry]:
    """Every entry, oldest first; lines that are none, which a kill or an editor has left, are passed over."""
    if not HISTORY.exists():
        return []
    return [entry for line in HISTORY.read_bytes().splitlines() if (entry := parsed(line))]


def parsed(text: str | bytes) -> Entry | None:
    """The entry in a line of the file or in a tag; None if there is none."""
    try:
        return Entry.from_plain(json.loads(text))
    except ValueError:  # JSON's and Unicode's errors are of that kind
        return None


def _ends_a_line(file: int, size: int) -> bool:
    return os.pread(file, 1, size - 1) == b"\n"
