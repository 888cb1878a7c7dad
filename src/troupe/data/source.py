"""What `data.source` names, as one text: a built-in source, or a path or glob of the user's own files.

Files are UTF-8 (a byte order mark at the front is dropped, CRLF becomes LF). A document is a .txt or .md file, the
"text" field of a line of a .jsonl file, or a paragraph of the Python reference; documents are joined by a blank line.
A file is read once, however many names and links lead to it, and of documents with one text the first: a copy may lie
in another split, where the test would ask for what was learned.
All is read piece by piece, so that a text may be larger than memory; only a line of a .jsonl file may not. Of every
document 16 bytes are remembered, by which its copies are found.
Nothing here imports numpy or torch: the `inputs` stage runs on every call and must start fast.
"""

import codecs
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from troupe.data.corpus import Source
from troupe.data.download import fetch, mirrored
from troupe.data.files import expand
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
PIECE = 2**20  # bytes of a file at a time
BEGINNING = 2**16  # characters, no more than a piece holds, by which a long document is suspected to be a copy
Document = Callable[[], Iterable[str]]  # its text in pieces; it can be asked again
Progress = Callable[[Iterable[str], int], Iterable[str]]  # hands on the pieces of a text of about so many bytes


@dataclass
class Repeats:
    """How many documents repeat an earlier one, found by digests of all that have gone through `first`."""

    documents: int = 0
    size: int = 0  # bytes
    _whole: set[bytes] = field(default_factory=set)
    _beginnings: set[bytes] = field(default_factory=set)  # of documents of at least BEGINNING characters

    def first(self, document: Document) -> Iterator[str]:
        """The document in pieces, or nothing if it repeats an earlier one or holds nothing visible.

        One of more than a piece is read twice if it begins as an earlier one does.
        """
        pieces = _unless_blank(iter(document()))
        begun, next_piece = next(pieces, ""), next(pieces, "")
        if not begun:
            return
        suspected = self._begins_as_another(begun) or not next_piece
        if suspected and self._repeats([begun] if not next_piece else _unless_blank(iter(document()))):
            return
        digest = hashlib.blake2b(digest_size=16)
        for piece in _chained(begun, next_piece, pieces):
            if not suspected:
                digest.update(piece.encode())
            yield piece
        if not suspected:
            self._whole.add(digest.digest())

    def _begins_as_another(self, begun: str) -> bool:
        if len(begun) < BEGINNING:
            return True
        digest = hashlib.blake2b(begun[:BEGINNING].encode(), digest_size=16).digest()
        known = digest in self._beginnings
        self._beginnings.add(digest)
        return known

    def _repeats(self, pieces: Iterable[str]) -> bool:
        digest, size = hashlib.blake2b(digest_size=16), 0
        for piece in pieces:
            content = piece.encode()
            digest.update(content)
            size += len(content)
        known = digest.digest() in self._whole
        self._whole.add(digest.digest())
        self.documents += known
        self.size += known * size
        return known


def describe(name: str, show_progress: Progress = lambda pieces, _: pieces) -> Source:
    """Digest the source called `name`: by reading all of it, but tiny-shakespeare, a download, is known by its digest.

    `show_progress` shows how far it is. Raises CorpusError for text that cannot be used, naming file and place.
    """
    if name == TINY_SHAKESPEARE:
        return Source(name, [], SHAKESPEARE_BYTES, SHAKESPEARE_SHA256, LICENCES[name])
    files = [] if name == PYTHON_DOCS else find_files(name)
    copies, digest, size = Repeats(), hashlib.sha256(), 0
    for piece in show_progress(_joined(name, files, copies), sum(file.stat().st_size for file in files)):
        content = piece.encode()
        digest.update(content)
        size += len(content)
    kind, licence = (name, LICENCES[name]) if name == PYTHON_DOCS else ("files", USERS_LICENCE)
    names = [path.as_posix() for path in files]
    return Source(kind, names, size, digest.hexdigest(), licence, copies.documents, copies.size)


def read_text(name: str) -> str:
    """The whole text of the source called `name`. Raises CorpusError as `read_pieces` does."""
    return "".join(read_pieces(name))


def read_pieces(name: str) -> Iterator[str]:
    """The text of the source called `name`, piece by piece.

    Raises CorpusError: no such file, unsupported suffix, not UTF-8 (byte offset), bad JSON line (file:line), no text, a
    download that fails or has another digest.
    """
    return _joined(name, [] if name in LICENCES else find_files(name), Repeats())


def find_files(pattern: str) -> list[Path]:
    """The files that a path or glob (`**` too) names, each once, in the order of their names.

    Raises CorpusError if there is none, a folder cannot be read, or one has another suffix than those in SUFFIXES or a
    name that is not UTF-8.
    """
    if Path(pattern).is_dir():
        raise CorpusError(f"data.source {pattern!r} is a folder; name its files, e.g. {pattern.rstrip('/')}/*.txt")
    if not (paths := expand(pattern)):
        known = f"{PYTHON_DOCS}, {TINY_SHAKESPEARE}, or a path or glob of {', '.join(SUFFIXES)} files"
        raise CorpusError(f"data.source {pattern!r}: no such file; write {known}")
    for path in paths:
        if not _is_utf8(str(path)):
            raise CorpusError(f"{str(path)!r}: the name is not UTF-8 and cannot be recorded; rename the file or folder")
        if path.suffix.lower() not in SUFFIXES:
            raise CorpusError(f"{path}: data.source takes {', '.join(SUFFIXES)} files only; narrow the glob to those")
    return paths


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # it holds bytes that Python has escaped as halves of surrogate pairs
        return False
    return True


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


def _joined(name: str, files: Sequence[Path], copies: Repeats) -> Iterator[str]:
    before = ""
    for document in _documents(name, files):
        for place, piece in enumerate(copies.first(document)):
            yield piece if place else before + piece
            before = SEPARATOR
    if not before:
        raise CorpusError(f"data.source {name!r}: there is no text in it")


def _documents(name: str, files: Sequence[Path]) -> Iterator[Document]:
    if name == TINY_SHAKESPEARE:
        text = _tiny_shakespeare()
        yield lambda: [text]
    if name == PYTHON_DOCS:
        yield from (partial(list, [paragraph]) for paragraph in _python_docs())
    for path in files:
        if path.suffix.lower() != ".jsonl":
            yield partial(_text_of, path)
            continue
        for number, line in enumerate(_lines(_text_of(path)), start=1):
            if line.strip():
                yield partial(list, [_text_field(line, f"{path}:{number}")])


def _text_of(path: Path) -> Iterator[str]:
    return _unix_newlines(_decoded(path))


def _decoded(path: Path) -> Iterator[str]:
    decoder, start = codecs.getincrementaldecoder("utf-8")(), 0
    try:
        with path.open("rb") as file:
            if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
                file.seek(0)
            content = b"first"
            while content:
                start = file.tell() - len(decoder.getstate()[0])  # it may hold the beginning of a character back
                content = file.read(PIECE)
                yield decoder.decode(content, final=not content)
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 at byte {start + error.start}; convert it, e.g. with iconv") from None
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror}") from None


def _unix_newlines(pieces: Iterable[str]) -> Iterator[str]:
    held = ""
    for piece in pieces:
        text = held + piece
        held = "\r" if text.endswith("\r") else ""  # its "\n" may come with the next piece
        yield text.removesuffix(held).replace("\r\n", "\n")
    yield held


def _lines(pieces: Iterable[str]) -> Iterator[str]:
    rest = ""
    for piece in pieces:
        *whole, rest = (rest + piece).split("\n")  # not splitlines: JSON strings may hold U+2028
        yield from whole
    yield rest


def _unless_blank(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces of a document, or nothing if they hold nothing visible."""
    leading = ""
    for piece in pieces:
        leading += piece
        if leading.strip():
            yield leading
            yield from filter(None, pieces)


def _chained(begun: str, next_piece: str, pieces: Iterator[str]) -> Iterator[str]:
    yield begun
    if next_piece:
        yield next_piece
    yield from pieces


def _text_field(line: str, place: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{place}: not JSON: {getattr(error, 'msg', 'nested too deeply')}") from None
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise CorpusError(f'{place}: expected an object with a string field "text"')
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CorpusError(f'{place}: "text" holds half of a surrogate pair, which is no character') from None
    return text
