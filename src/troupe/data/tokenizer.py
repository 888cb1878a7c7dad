"""Text to token ids and back, without loss: any text round-trips in every kind of tokenizer.

A tokenizer.json is complete in itself: an artifact that holds it loads anywhere, without a download.
Lone surrogates, which no UTF-8 text contains, become replacement characters. Nothing in a text is ever taken for a
special token: "<|endoftext|>" in a document is thirteen plain characters.
"""

import codecs
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
import tiktoken
from numpy.typing import NDArray
from tiktoken_ext.openai_public import r50k_pat_str as gpt2_pieces  # type: ignore[import-untyped]
from tokenizers import Tokenizer as LibraryTokenizer

from troupe.data.stretches import cut_stretches
from troupe.errors import ArtifactError
from troupe.files import read_json, write_json

FILE = "tokenizer.json"  # its name in a folder of tokens, and in a model's
Kind = Literal["bytes", "chars", "bpe", "gpt2", "pretrained"]
GPT2_SPECIAL = {"<|endoftext|>": 50_256}
CONTINUATION = bytes(range(0x80, 0xC0))  # the bytes that stand inside a UTF-8 character, never at its beginning
UNKNOWN = np.uint32(2**32 - 1)  # no id
UTF8_WIDER = (0x0, 0x80, 0x800, 0x10000)  # the code points from which on UTF-8 takes one byte, one more, ...


class Tokenizer(Protocol):
    """What every tokenizer can do; ids run from 0 to `vocab_size` - 1."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def end_id(self) -> int | None:
        """The id by which a model ends a text; no text is encoded to it. None where there is none."""

    def encode(self, text: str) -> list[int]: ...

    def encode_array(self, text: str) -> NDArray[np.unsignedinteger]:
        """The same ids, without a Python object for each: many times faster for a long text."""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of `ids`; they may begin or end within a character."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, with a replacement character where their bytes are no UTF-8."""

    def save(self, path: Path) -> None: ...


class ByteTokenizer:
    """An id is a byte of UTF-8."""

    vocab_size = 256
    end_id = None

    def encode(self, text: str) -> list[int]:
        return list(_utf8(text))

    def encode_array(self, text: str) -> NDArray[np.uint8]:
        return np.frombuffer(_utf8(text), np.uint8)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return bytes(ids)

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode(errors="replace")

    def save(self, path: Path) -> None:
        write_json(path, {"kind": "bytes"})


class CharTokenizer:
    """An id is a character of the training text, by code point; 256 more ids spell any other character in UTF-8.

    Shapes: N characters of a text, I ids (more than N where characters are spelled).
    """

    end_id = None

    def __init__(self, characters: str) -> None:
        self.characters = characters
        self._pieces = [_utf8(character) for character in characters] + [bytes([byte]) for byte in range(256)]
        self._ids = np.full(sys.maxunicode + 1, UNKNOWN)  # by code point
        self._ids[_code_points(characters)] = np.arange(len(characters))

    @classmethod
    def of(cls, pieces: Iterable[str]) -> Self:
        """That of the characters of a text."""
        seen = np.zeros(sys.maxunicode + 1, bool)
        for piece in pieces:
            seen[_code_points(piece)] = True
        return cls("".join(map(chr, np.flatnonzero(seen))))

    @property
    def vocab_size(self) -> int:
        return len(self._pieces)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        code_N = _code_points(text)
        id_N = self._ids[code_N]
        unknown_N = id_N == UNKNOWN
        if not unknown_N.any():
            return id_N
        width_N = np.where(unknown_N, sum((code_N >= first).astype(int) for first in UTF8_WIDER), 1)
        id_I, spelled_I = np.repeat(id_N, width_N), np.repeat(unknown_N, width_N)
        spelling = code_N[unknown_N].tobytes().decode("utf-32-le").encode()
        id_I[spelled_I] = np.frombuffer(spelling, np.uint8).astype(np.uint32) + len(self.characters)
        return id_I

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(self._pieces[i] for i in ids)

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode(errors="replace")

    def save(self, path: Path) -> None:
        write_json(path, {"kind": "chars", "characters": self.characters})


class BytePairTokenizer:
    """An id is a byte or a merge of bytes, learned from the training text (`bpe`) or GPT-2's own (`gpt2`).

    Nothing is merged across the cuts of a very long stretch without a blank (data/stretches.py).
    """

    def __init__(self, kind: Literal["bpe", "gpt2"], tokens: list[bytes]) -> None:
        # The library that learns the merges cuts text into the same pieces, so that both give the same ids.
        ranks = {token: i for i, token in enumerate(tokens)}
        if len(ranks) < len(tokens) or not all(bytes([byte]) in ranks for byte in range(256)):
            raise ValueError("tokens must be distinct and include every single byte")
        self.kind, self.tokens = kind, tokens
        self.end_id = len(tokens) if kind == "gpt2" else None  # after all bytes and merges, as GPT-2's 50,256 is
        self.vocab_size = len(tokens) + (self.end_id is not None)
        # encode_to_numpy looks for special tokens even though none is allowed, and is slow where there is none at all.
        special = dict.fromkeys(GPT2_SPECIAL if kind == "gpt2" else ["<|unused|>"], len(tokens))
        self._encoding = tiktoken.Encoding(kind, pat_str=gpt2_pieces, mergeable_ranks=ranks, special_tokens=special)

    def encode(self, text: str) -> list[int]:
        return [i for part in cut_stretches(text) for i in self._encoding.encode_ordinary(part)]

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        # encode_to_numpy lets other threads run meanwhile
        parts = [self._encoding.encode_to_numpy(part, disallowed_special=()) for part in cut_stretches(text)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return self._encoding.decode_bytes(list(ids))

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode(errors="replace")

    def save(self, path: Path) -> None:
        write_json(path, {"kind": self.kind, "tokens": to_printable(self.tokens)})


class PretrainedTokenizer:
    """That of public weights: byte-pair encoding by the library `tokenizers`, as data/public.py prepares it.

    `library` is the content of a tokenizer.json of Hugging Face's without its `special` tokens and their ids, so that
    none is found in a text. `tokens` are the bytes of every id, none for an id that stands for no text. What matches
    `spelt`, a regular expression for single characters, is encoded byte by byte. Raises ValueError for a `library` that
    is no tokenizer.
    """

    def __init__(
        self,
        library: Mapping[str, Any],
        tokens: list[bytes],
        special: Mapping[str, int],
        end_id: int | None,
        spelt: str | None = None,
    ) -> None:
        if end_id is not None and not 0 <= end_id < len(tokens):
            raise ValueError(f"end_id is {end_id}, of {len(tokens)} tokens")
        self.library, self.tokens, self.special, self.end_id, self.spelt = library, tokens, special, end_id, spelt
        self.vocab_size = len(tokens)
        try:
            self._encoding = LibraryTokenizer.from_str(json.dumps(library))
        except Exception as error:  # the library has no class of its own for it
            raise ValueError(f"no tokenizer of the library's: {error}") from None
        self._id_of_byte = {token: i for i, token in enumerate(tokens) if len(token) == 1}

    def encode(self, text: str) -> list[int]:
        whole = _utf8(text).decode()
        return [i for stretch in cut_stretches(whole) for i in self._ids(stretch)]

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        return np.array(self.encode(text), np.uint32)

    def _ids(self, text: str) -> Iterator[int]:
        parts = re.split(f"({self.spelt})", text) if self.spelt else [text]
        for number, part in enumerate(parts):
            if number % 2:
                yield from (self._id_of_byte[bytes([byte])] for byte in part.encode())
            elif part:
                yield from self._encoding.encode(part, add_special_tokens=False).ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(self.tokens[i] for i in ids)

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode(errors="replace")

    def save(self, path: Path) -> None:
        tokens = [token.decode("latin-1") for token in self.tokens]  # a byte is a character up to U+00FF
        rest = {"tokens": tokens, "special": self.special, "end_id": self.end_id, "spelt": self.spelt}
        write_json(path, {"kind": "pretrained", "library": self.library, **rest})


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json. Raises ArtifactError if it is missing or is no tokenizer."""
    content = read_json(path)
    try:
        return _from_json(content)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: not a tokenizer ({error!r}); run the stage that writes it again") from None


def whole_characters(content: bytes) -> str:
    """The text of bytes that were cut anywhere, less half a character at either end.

    Bytes inside that are not UTF-8 are a fault of their writer and become U+FFFD.
    """
    begun = content[:3].lstrip(CONTINUATION) + content[3:]
    return codecs.getincrementaldecoder("utf-8")(errors="replace").decode(begun)


def printable_bytes() -> dict[int, str]:
    """GPT-2's way to write any byte as one visible character: itself if printable in Latin-1, else from U+0100 on.

    In the order of GPT-2's ids: the printable bytes come first.
    """
    printable = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(rest)}


def to_printable(tokens: Iterable[bytes]) -> list[str]:
    """Tokens as visible text: b" the" is "Ġthe"."""
    character_of = printable_bytes()
    return ["".join(character_of[byte] for byte in token) for token in tokens]


def from_printable(texts: Iterable[str]) -> list[bytes]:
    """Tokens from visible text. Raises KeyError for a character that stands for no byte."""
    byte_of = {character: byte for byte, character in printable_bytes().items()}
    return [bytes(byte_of[character] for character in text) for text in texts]


def _from_json(content: Mapping[str, Any]) -> Tokenizer:
    kind = content["kind"]
    if kind == "bytes":
        return ByteTokenizer()
    if kind == "chars":
        return CharTokenizer(content["characters"])
    if kind in ("bpe", "gpt2"):
        return BytePairTokenizer(kind, from_printable(content["tokens"]))
    if kind == "pretrained":
        tokens = [token.encode("latin-1") for token in content["tokens"]]
        special, end_id, spelt = (content[name] for name in ("special", "end_id", "spelt"))
        return PretrainedTokenizer(content["library"], tokens, special, end_id, spelt)
    raise ValueError(f"unknown kind {kind!r}")


def _utf8(text: str) -> bytes:
    return text.encode(errors="replace")


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", errors="replace"), "<u4")
