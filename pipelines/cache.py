"""DVC's cache as the pipeline looks after it: damaged objects are found and moved out, lost ones written again.

DVC takes an object that is write-protected, as all of its own are, for what its name says, and would restore damaged
bytes from it. An object is therefore hashed once, when something has changed its file since the last look.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from troupe.errors import TroupeError
from troupe.files import DISK_FAULTS, disk_fault
from troupe.layout import EFFECTIVE_PARAMS, MODEL_STAGES, STATE
from troupe.params import load_params
from troupe.training.made_from import note_of, require_made_from_this

DVC = (sys.executable, "-m", "dvc")
OBJECTS = Path(".dvc/cache/files/md5")  # <2 hex digits>/<30 hex digits>[.dir]; a cache elsewhere is other people's too
DAMAGED = STATE / "damaged"
LOOKED = STATE / "cache-checked"  # was written when the last look that came to its end began
SEEN = STATE / "source.json"  # which of the user's text the cache holds (pipelines/versioning.py)
OBJECT_OF_NOTE = re.compile(r"^[- ] md5: (?P<name>[0-9a-f]{32}(?:\.dir)?)$", re.MULTILINE)
OF_THE_SYSTEM = re.compile(r"ERROR: .*\[Errno (?P<number>\d+)\] [^:]*(?::.*'(?P<file>[^']+)')?")
LOST = "not in cache"  # in `dvc status`


def dvc(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `dvc ARGUMENTS...` to its end, without input."""
    return subprocess.run([*DVC, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)


def status(stages: Iterable[str]) -> dict[str, Any]:
    """What has changed, by stage, as `dvc status --json` says it. Raises TroupeError with DVC's reason if it fails."""
    result = dvc("status", "--json", *stages)
    if result.returncode:
        raise TroupeError(f"dvc status: {last_line(result.stderr)}")
    return dict(json.loads(result.stdout))


def drop_damaged() -> list[Path]:
    """Move objects whose bytes are not those that their names say out of the cache; return where they were.

    Prints which and where to. Reads only files that have changed since the last call, by the time of change that the
    system keeps. With `cache.type` symlink nothing is moved: the objects are then the workspace's only copies. Raises
    TroupeError where an object cannot be read or moved.
    """
    since = LOOKED.stat().st_mtime if LOOKED.exists() else 0.0
    STATE.mkdir(exist_ok=True)
    begun = LOOKED.with_suffix(".new")
    begun.touch()  # before the look, by the clock of the disk: what changes meanwhile is looked at next time
    damaged = [path for path in _changed_since(since) if _digest(path) != path.parent.name + path.stem]
    if damaged and "symlink" in _option("type"):
        return []
    if damaged:
        SEEN.unlink(missing_ok=True)  # first, so that the user's text is kept again even after a kill
        _set_aside(damaged)
    begun.replace(LOOKED)
    return damaged


def named_in(note: Path) -> list[str]:
    """The objects that a `.dvc` note names, by their MD5, with `.dir` after that of a folder's list of files."""
    return OBJECT_OF_NOTE.findall(note.read_text(encoding="utf-8").rpartition("outs:")[2])


def holds(names: Iterable[str]) -> bool:
    """Whether `.dvc/cache` has objects of these names; of a cache that lies elsewhere it is assumed."""
    return all((OBJECTS / name[:2] / name[2:]).exists() for name in names) or bool(_option("dir"))


def listing(note: Path) -> dict[str, str]:
    """{file: MD5} as the cache has it of the folder of a `.dvc` note; {} if it has none."""
    folder = _folder() / "files/md5" if _option("dir") else OBJECTS
    lists = [path for name in named_in(note) if (path := folder / name[:2] / name[2:]).suffix and path.exists()]
    return {entry["relpath"]: entry["md5"] for path in lists for entry in json.loads(path.read_bytes())}


def commit_lost(changes: Mapping[str, Any]) -> list[str]:
    """Write outputs that the cache has lost into it again, from the workspace; return the stages this was done for.

    `changes` is what `status` returned. DVC refuses a stage, which then has to run, unless the digests of all that it
    reads and writes are those in dvc.lock. Raises TroupeError where the cache cannot be written.
    """
    lost = [stage for stage, changed in changes.items() if _only_lost(changed)]
    return [stage for stage in lost if _committed(stage)]


def take_trained_elsewhere(changes: Mapping[str, Any]) -> list[str]:
    """Have DVC take what another engine has trained for the results of stages; return which. Prints a line for each.

    `changes` is what `status` returned. Raises ArtifactError, and nothing is deleted, for a result that was made from
    other parameters, inputs or code than lie here now, also where somebody has committed it by hand.
    """
    there = [stage for stage in MODEL_STAGES if note_of(stage).exists()]
    new = [stage for stage in there if _has_new_outputs(changes.get(stage, ()))]
    if there:
        params = load_params(EFFECTIVE_PARAMS)
        for stage in there:
            if stage in new or stage not in changes:
                require_made_from_this(stage, params)
    for stage in new:
        result = dvc("commit", "--force", stage)
        fault = disk_fault_in(result.stderr.splitlines())  # with which DVC may exit with 0
        if result.returncode or fault:
            raise TroupeError(f"{stage}: not taken: {fault or last_line(result.stderr)}")
        print(f"{stage}: taken as it was trained elsewhere", flush=True)
    return new


def disk_fault_in(lines: Iterable[str]) -> str | None:
    """What keeps DVC from writing its cache or the outputs, by what it says, and what to do; None if nothing does."""
    faults = [match for line in lines if (match := OF_THE_SYSTEM.match(line)) and int(match["number"]) in DISK_FAULTS]
    if not faults:
        return None
    number, file, folder = int(faults[0]["number"]), faults[0]["file"], _folder()
    fault = disk_fault(OSError(number, os.strerror(number)))
    if file and folder not in Path(file).absolute().parents:
        return f"{os.path.relpath(file)}: {fault}"
    return f"DVC's cache {folder}: {fault}; `dvc gc --workspace` removes what only earlier runs have needed"


def last_line(text: str) -> str:
    """The last line of a text that is not blank."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no reason given")


def _committed(stage: str) -> bool:
    result = dvc("commit", stage)
    if fault := disk_fault_in(result.stderr.splitlines()):  # where only some files of a folder fail, DVC exits with 0
        raise TroupeError(fault)
    return result.returncode == 0


def _folder() -> Path:
    result = dvc("cache", "dir")
    return Path(result.stdout.strip()) if result.returncode == 0 else OBJECTS.parents[1]


def _option(name: str) -> str:
    """An option of section `cache`, from whichever of DVC's configurations has it; "" if none has."""
    return _configured(name, Path.cwd())


@lru_cache
def _configured(name: str, workspace: Path) -> str:
    """Asked once: a second each, and there may be a hundred notes."""
    result = dvc("config", f"cache.{name}")
    return result.stdout.strip() if result.returncode == 0 else ""


def _set_aside(damaged: list[Path]) -> None:
    folder = DAMAGED / time.strftime("%Y%m%d-%H%M%S")
    for path in damaged:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.move(path, folder / (path.parent.name + path.name))  # the cache may lie on another disk
        except OSError as error:
            raise TroupeError(f"{path}: damaged, and not moved to {folder}: {error.strerror}") from None
    names = ", ".join(map(str, damaged[:3])) + (f" and {len(damaged) - 3:,} more" if len(damaged) > 3 else "")
    print(f"DVC's cache: damaged, moved to {folder}: {names}", flush=True)


def _changed_since(moment: float) -> Iterator[Path]:
    """Finished objects; those within two seconds before the moment too, for clocks that are coarse."""
    for path in OBJECTS.glob("[0-9a-f][0-9a-f]/[0-9a-f]*"):
        if path.is_file() and path.stat().st_ctime > moment - 2:
            yield path


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise TroupeError(f"{path}: not read: {error.strerror}; remove it, the pipeline writes it again") from None


def _has_new_outputs(changes: Any) -> bool:
    """Whether a stage's outputs are others than those in dvc.lock; they may be, too, where the cache lacks those, of
    which DVC says nothing else."""
    outputs = [change["changed outs"] for change in changes if isinstance(change, dict) and "changed outs" in change]
    return any({"modified", LOST} & {*how.values()} for how in outputs)


def _only_lost(changed: Any) -> bool:
    """Of a stage's list of changes, each {"changed outs" | "changed deps": {path: how}} or a word."""
    return bool(changed) and all(
        isinstance(change, dict) and set(change) == {"changed outs"} and set(change["changed outs"].values()) == {LOST}
        for change in changed
    )
