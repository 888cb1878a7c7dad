"""Small files, written whole or not at all."""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from troupe.errors import ArtifactError

ROOM, LEAVE = "make room on the disk", "make the folder writable"
DISK_FAULTS = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: "raise the limit on the size of a file",
    errno.EROFS: LEAVE,
    errno.EACCES: LEAVE,
    errno.EPERM: LEAVE,
}


def write_atomic(path: Path, content: bytes) -> None:
    """Write `path` as `atomic_file` does."""
    with atomic_file(path) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path`, flushed to disk and renamed over it at the end: a kill leaves the old file or the new one.

    Nothing is left of it when the body raises.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # not by tempfile, which overrides the umask
        try:
            with new.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises ArtifactError, naming `path`, when the disk is full or the folder cannot be written to."""
    try:
        yield
    except OSError as error:
        named = Path(error.filename or path).absolute()
        ours = named.parent in path.absolute().parents  # not a file that was read meanwhile
        if not ours or error.errno not in DISK_FAULTS:
            raise
        raise ArtifactError(f"{path}: {disk_fault(error)}") from None


def disk_fault(error: OSError) -> str:
    """What is wrong with the disk, and what to do."""
    return f"not written: {error.strerror}; {DISK_FAULTS[error.errno or 0]}, then run the same command again"


def write_json(path: Path, content: Any) -> None:
    """Write JSON with sorted keys, so that equal content gives equal bytes. Raises ValueError for NaN and infinity."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON. Raises ArtifactError, naming file and line, if the file is missing, broken or cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; run the stage that writes it, or `make pipeline`") from None
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in brackets
        raise ArtifactError(f"{path}: not JSON that can be read: {str(error).partition(';')[0]}") from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from None


def digest_of(path: Path, but: Path | None = None) -> str:
    """The hex sha256 of a file's bytes, or of the names and digests of all files in a folder, `but` that one.

    Raises ArtifactError if it is missing or cannot be read.
    """
    if not path.is_dir():
        return sha256_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file != but)
    parts = {file.relative_to(path).as_posix(): sha256_file(file) for file in files}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """The hex sha256 of a file's bytes. Raises ArtifactError if it is missing or cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; run the stage that writes it, or `make pipeline`") from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from None
