"""The user's own text under DVC's control: a note for each tree of files that lies inside the workspace.

A folder that holds nothing but the source's files gets one note, beside it, and so does a file that lies among others;
if that were more than MOST_NOTES, a line says what to do instead. Notes that exist are kept up to date, and what the
cache has lost is put there again. Nothing but the files of the source comes into DVC's cache: a folder with a note into
which other files have come gets a line instead, and the user decides.
"""

import hashlib
import os
import re
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from shutil import which

from pipelines import cache
from pipelines.cache import SEEN  # {what has a note: a digest of its files' sizes and times, and one of the note}
from troupe.files import read_json, write_json
from troupe.layout import SOURCE

HOME = "data"  # the workspace's folder for text: notes lie in it, so it is none's as a whole
MOST_NOTES = 100
AT_ONCE = 500  # files named to one command
OF_DVC = re.compile(r"/\.dvc/|/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")  # where links lead with `cache.type` symlink
Add = Callable[[list[str]], None]


def version_source(add: Add) -> None:
    """Have DVC keep what has changed of the source's files, but those outside the workspace or kept by git.

    `add` puts paths under DVC's control.
    """
    files = _inside(read_json(SOURCE)["files"] if SOURCE.exists() else [])
    files -= _kept_by_git() if files else set()
    by_target = _by_target(files)
    seen = read_json(SEEN) if SEEN.exists() else {}
    states = {path: _state(own) for path, own in by_target.items()}  # before `add`: what changes meanwhile is seen
    kept = {path for path in by_target if _kept(path, states[path], seen)}
    kept |= {path for path in by_target.keys() - kept if Path(path).is_dir() and _listed(path, by_target[path])}
    changed = _without_strangers([path for path in by_target if path not in kept], by_target)
    changed = _without_ignored(_without_too_many(changed, len(files)))
    for first in range(0, len(changed), AT_ONCE):
        some = changed[first : first + AT_ONCE]
        print(f"data.source: into DVC's cache with {sum(len(by_target[path]) for path in some):,} files", flush=True)
        add(some)
    if now := {path: f"{states[path]} {_digest_of_note(path)}" for path in (*kept, *changed)}:
        write_json(SEEN, now)


def _inside(named: Iterable[str]) -> set[str]:
    """Where the files really lie, as paths from the workspace; those outside are left out.

    A link that DVC has put in a file's place is the file.
    """
    here, real_of = f"{Path.cwd()}{os.sep}", dict[str, str]()
    inside = set()
    for name in named:
        folder, file = os.path.split(name)
        if folder not in real_of:
            real_of[folder] = os.path.realpath(folder)
        path = os.path.join(real_of[folder], file)  # noqa: PTH118
        if os.path.islink(path) and not OF_DVC.search(real := os.path.realpath(path)):  # noqa: PTH114
            path = real
        if path.startswith(here):
            inside.add(path.removeprefix(here))
    return inside


def _kept_by_git() -> set[str]:
    if not which("git"):
        return set()
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True).stdout
    return set(os.fsdecode(listed).split("\0"))


def _by_target(files: Collection[str]) -> dict[str, list[str]]:
    """{file or folder that has or gets a note: its files}"""
    if not files:
        return {}
    noted = {folder for folder in _above(files) if _note(folder).exists()}
    found = {folder: list[str]() for folder in noted}
    rest = set()
    for file in files:
        if folder := next((folder for folder in _parents(file) if folder in noted), None):
            found[folder].append(file)
        else:
            rest.add(file)
    top = os.path.commonpath([os.path.dirname(file) for file in rest]) if rest else ""  # noqa: PTH120
    return found | _whole_folders(top, rest, _above(rest))


def _whole_folders(folder: str, files: Collection[str], above: Collection[str]) -> dict[str, list[str]]:
    """{folder: its files} if there is nothing else in it, else the same of what is in it, and {file: [file]}."""
    found, whole = dict[str, list[str]](), bool(folder) and folder != HOME
    with os.scandir(folder or ".") as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = os.path.join(folder, entry.name)  # noqa: PTH118
            if path in files:
                found[path] = [path]
            elif path in above and not entry.is_symlink():
                inner = _whole_folders(path, files, above)
                whole &= list(inner) == [path]
                found |= inner
            else:
                whole = False
    return {folder: [file for own in found.values() for file in own]} if whole and found else found


def _above(files: Iterable[str]) -> set[str]:
    """Every folder that holds one of the files, at whatever depth."""
    parents = {os.path.dirname(file) for file in files}  # noqa: PTH120
    return {folder for parent in parents for folder in [parent, *_parents(parent)]} - {""}


def _parents(path: str) -> Iterator[str]:
    while path := os.path.dirname(path):  # noqa: PTH120
        yield path


def _note(path: str) -> Path:
    return Path(f"{path}.dvc")


def _kept(path: str, state: str, seen: Mapping[str, str]) -> bool:
    """Whether the cache holds what its note names, and that is its content.

    The content is known as nothing has changed since it was seen, or by the digest of a single file.
    """
    note = _note(path)
    if not note.exists() or not cache.holds(cache.named_in(note)):
        return False
    if seen.get(path) == f"{state} {_digest_of_note(path)}":
        return True
    if Path(path).is_dir():
        return False
    with Path(path).open("rb") as file:
        return f"md5: {hashlib.file_digest(file, 'md5').hexdigest()}\n" in note.read_text(encoding="utf-8")


def _listed(folder: str, files: Collection[str]) -> bool:
    """Whether a folder in which other files lie too is kept nevertheless, as it is after `dvc add` by hand."""
    if not _note(folder).exists() or not _stranger(folder, files):
        return False
    listed = cache.listing(_note(folder))
    return all(_held(file, listed.get(os.path.relpath(file, folder))) for file in files)


def _held(path: str, digest: str | None) -> bool:
    if digest is None or not cache.holds([digest]):
        return False
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest() == digest


def _stranger(folder: str, files: Collection[str]) -> str | None:
    """A file in a folder, at whatever depth, that is none of these."""
    own = set(files)
    for parent, folders, names in os.walk(folder):
        paths = [os.path.join(parent, name) for name in sorted([*names, *folders])]  # noqa: PTH118
        for path in paths:
            if path not in own and (os.path.islink(path) or not os.path.isdir(path)):  # noqa: PTH112, PTH114
                return path
    return None


def _digest_of_note(path: str) -> str:
    return hashlib.sha256(_note(path).read_bytes()).hexdigest()


def _state(files: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        status = os.stat(file)  # noqa: PTH116 (there may be 100,000)
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _without_strangers(targets: list[str], by_target: Mapping[str, Collection[str]]) -> list[str]:
    """Without folders that hold more than the source's files, which DVC would keep, and push, with them."""
    strange = {path: found for path in targets if Path(path).is_dir() and (found := _stranger(path, by_target[path]))}
    for path, found in strange.items():
        print(
            f"data.source: {path} is not put into DVC's cache as it is now, since {found} lies there too, which is "
            f"not of the source: move that file, or run `dvc add {path}` to have the whole folder kept",
            flush=True,
        )
    return [path for path in targets if path not in strange]


def _without_too_many(targets: list[str], n_files: int) -> list[str]:
    new = [path for path in targets if not _note(path).exists()]
    if len(new) <= MOST_NOTES:
        return targets
    print(
        f"data.source: {n_files:,} files lie among others, e.g. {new[0]}: DVC keeps their text, in the corpus, but not "
        "the files; for one note for all of them put them into a folder of their own, e.g. data/mine",
        flush=True,
    )
    return [path for path in targets if path not in set(new)]


def _without_ignored(targets: list[str]) -> list[str]:
    """Without those whose notes git is to ignore, which DVC refuses to write."""
    if not targets or not which("git") or not Path(".git").exists():
        return targets
    names = b"\0".join(os.fsencode(_note(path)) for path in targets)
    result = subprocess.run(["git", "check-ignore", "-z", "--stdin"], input=names, capture_output=True)
    ignored = set(os.fsdecode(result.stdout).split("\0"))
    if skipped := [path for path in targets if str(_note(path)) in ignored]:
        print(
            f"data.source: git ignores {_note(skipped[0])}: DVC keeps the text, in the corpus, but not its files; "
            f"to have them kept, let .gitignore say !*.dvc, or put them into {HOME}/",
            flush=True,
        )
    return [path for path in targets if path not in skipped]
