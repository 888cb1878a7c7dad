"""The files that a glob names, each once: by its identity, whatever names and links lead to it.

As the standard library's glob, but `**` enters every folder once, and none that holds the folder where it begins: a
link that points upwards would otherwise name each file many times, and files beside those that were meant.
"""

import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from stat import S_ISREG

from troupe.errors import CorpusError

MAGIC = re.compile(r"[*?[]")


def expand(pattern: str) -> list[Path]:
    """The regular files, in the order of their names; of several names of one file that without links, or the first.

    Raises CorpusError for a folder that cannot be read.
    """
    path, found = Path(pattern), dict[tuple[int, int], str]()
    parts = path.parts[1:] if path.anchor else path.parts
    names = [pattern] if path.is_file() else [*_matches(path.anchor, parts)]
    for name in sorted(names, key=os.path.islink):  # stable: links last
        try:
            status = os.stat(name)  # noqa: PTH116 (a Path for each of 100,000 names takes as long as reading them)
        except OSError:  # a link to nothing
            continue
        if S_ISREG(status.st_mode):
            found.setdefault((status.st_dev, status.st_ino), name)
    return [Path(name) for name in sorted(found.values())]


def _matches(folder: str, parts: Sequence[str]) -> Iterator[str]:
    if not parts:
        yield folder
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        for inner in _folders(folder):
            yield from _matches(inner, rest or ["*"])
    elif MAGIC.search(part):
        for entry in _entries(folder):
            hidden = entry.name.startswith(".") and not part.startswith(".")
            if not hidden and fnmatch(entry.name, part) and (not rest or entry.is_dir()):
                yield from _matches(os.path.join(folder, entry.name), rest)  # noqa: PTH118
    elif os.path.lexists(name := os.path.join(folder, part)):  # noqa: PTH118
        yield from _matches(name, rest)


def _folders(top: str) -> Iterator[str]:
    """`top` and every folder below it that is not hidden, once; what lies behind links comes last."""
    if not Path(top).is_dir():
        return
    start, seen = Path(top).resolve(), set[Path]()
    plain, linked = [top], list[str]()
    while plain or linked:
        folder = plain.pop() if plain else linked.pop()
        real = Path(folder).resolve()
        if real in seen or (folder != top and start.is_relative_to(real)):
            continue
        seen.add(real)
        yield folder
        for entry in reversed(_entries(folder)):
            if entry.is_dir() and not entry.name.startswith("."):
                (linked if entry.is_symlink() else plain).append(os.path.join(folder, entry.name))  # noqa: PTH118


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What a folder holds, links last."""
    try:
        with os.scandir(folder or ".") as entries:
            return sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name))
    except NotADirectoryError:
        return []
    except OSError as error:
        raise CorpusError(f"{folder}: cannot be read: {error.strerror}") from None
