"""What `data.source` names, as one text: a built-in source, or a path or glob of the user's own files.

Files are UTF-8 (a byte order mark at the front is dropped, CRLF becomes LF). A document is a .txt or .md file, the
"text" field of a line of a .jsonl file, or a paragraph of the Python reference; documents are joined by a blank line.
Nothing here imports numpy or torch: the `inputs` stage runs on every call and must start fast.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from troupe.data.download import fetch, mirrored
from troupe.errors import CorpusError

PYTHON_DOCS = "python-docs"
TINY_SHAKESPEARE = "tiny-shakespeare"
SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SHAKESPEARE_BYTES = 1_115_394
SUFFIXES = (".txt", ".md", ".jsonl")
LICENCES = {
    PYTHON_DOCS: "PSF-2.0 (the Python language reference, as the running Python carries it in pydoc_data.topics)",
    TINY_SHAKESPEARE: "public domain (plays of William Shakespeare, selected by Andrej Karpathy)",
}
USERS_LICENCE = "as given by the user"
SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Source:
    """What a source holds: `bytes` and `sha256` are those of its text in UTF-8, `files` the user's, if any."""

    kind: str
    files: list[str]
    bytes: int
    sha256: str
    licence: str


def describe(name: str) -> Source:
    """Digest the source called `name`: by reading all of it, but tiny-shakespeare, a download, is known by its digest.

    Raises CorpusError for text that cannot be used, naming file and place.
    """
    if name == TINY_SHAKESPEARE:
        return Source(name, [], SHAKESPEARE_BYTES, SHAKESPEARE_SHA256, LICENCES[name])
    content = read_text(name).encode()
    digest = hashlib.sha256(content).hexdigest()
    if name == PYTHON_DOCS:
        return Source(name, [], len(content), digest, LICENCES[name])
    return Source("files", [path.as_posix() for path in find_files(name)], len(content), digest, USERS_LICENCE)


def read_text(name: str) -> str:
    """The whole text of the source called `name`.

    Raises CorpusError: no such file, unsupported suffix, not UTF-8 (byte offset), bad JSON line (file:line), no text, a
    download that fails or has another digest.
    """
    if name == TINY_SHAKESPEARE:
        return _tiny_shakespeare()
    documents = _python_docs() if name == PYTHON_DOCS else [d for path in find_files(name) for d in _documents(path)]
    text = SEPARATOR.join(document for document in documents if document.strip())
    if not text:
        raise CorpusError(f"data.source {name!r}: there is no text in it")
    return text


def find_files(pattern: str) -> list[Path]:
    """The files that a path or glob (`**` too) names, in the order of their names.

    Raises CorpusError if there is none, or one has another suffix than those in SUFFIXES.
    """
    if Path(pattern).is_dir():
        raise CorpusError(f"data.source {pattern!r} is a folder; name its files, e.g. {pattern.rstrip('/')}/*.txt")
    # Path.glob refuses absolute patterns
    names = [pattern] if Path(pattern).is_file() else glob(pattern, recursive=True)  # noqa: PTH207
    paths = sorted((Path(name) for name in names if Path(name).is_file()), key=Path.as_posix)
    if not paths:
        known = f"{PYTHON_DOCS}, {TINY_SHAKESPEARE}, or a path or glob of {', '.join(SUFFIXES)} files"
        raise CorpusError(f"data.source {pattern!r}: no such file; write {known}")
    for path in paths:
        if path.suffix.lower() not in SUFFIXES:
            raise CorpusError(f"{path}: data.source takes {', '.join(SUFFIXES)} files only; narrow the glob to those")
    return paths


def _python_docs() -> list[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise CorpusError("data.source 'python-docs': this Python has no pydoc_data; name another source") from None
    paragraphs = (paragraph for topic in topics.values() for paragraph in topic.strip().split("\n\n"))
    return list(dict.fromkeys(paragraphs))  # topics repeat each other's: half of the test text would be in training


def _tiny_shakespeare() -> str:
    advice = (
        "connect to the network, or put tiny-shakespeare.txt in a folder and name that in TROUPE_MIRROR, "
        "or set data.source to python-docs or to your own files"
    )
    return fetch(SHAKESPEARE_URL, SHAKESPEARE_SHA256, mirrored("tiny-shakespeare.txt"), advice).decode()


def _documents(path: Path) -> Iterator[str]:
    try:
        text = path.read_bytes().decode().removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 at byte {error.start}; convert it, e.g. with iconv") from None
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror}") from None
    if path.suffix.lower() != ".jsonl":
        yield text
        return
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: JSON strings may hold U+2028
        if line.strip():
            yield _text_field(line, f"{path}:{number}")


def _text_field(line: str, place: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{place}: not JSON: {getattr(error, 'msg', 'nested too deeply')}") from None
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise CorpusError(f'{place}: expected an object with a string field "text"')
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise CorpusError(f'{place}: "text" holds half of a surrogate pair, which is no character')
    return text
