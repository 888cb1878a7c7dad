"""Encoding in pieces: the ids of the pieces, joined, are the ids of the whole text, whatever it holds."""

import os
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from troupe.data import bpe, stretches
from troupe.data.bpe import make_tokenizer
from troupe.data.encoding import cut_pieces, encode_pieces
from troupe.data.tokenizer import ByteTokenizer, Tokenizer

TRAIN = "The cat's hat, the rat.\n\n  Größe 42 naïve cafés 😀 don't\t \r\nwe'll  " * 20
LEARNED = {kind: make_tokenizer(kind, TRAIN, 300) for kind in ("bytes", "chars", "bpe")}
if Path(os.environ.get("TROUPE_MIRROR", "."), "gpt2/vocab.bpe").is_file():
    LEARNED["gpt2"] = make_tokenizer("gpt2", "", 0)

# Everything that GPT-2's expression tells apart: letters, digits, marks, contractions, and white space of every sort,
# also such as Python and Unicode disagree on (\x1c), as does not break (\xa0) and as is none (\u200b).
MORSELS = ["a", "é", "日", "e\u0301", "1", "²", "!", "😀", "'", "'s", "'ll", " ", "  ", "\n", "\r\n", "\t", "\x0b"]
MORSELS += ["\x1c", "\x85", "\xa0", "\u2028", "\u200b", "\ufeff", "\x00", "<|endoftext|>", "<|unused|>"]
TEXTS = st.lists(st.sampled_from(MORSELS)).map("".join) | st.text(st.characters(exclude_categories=["Cs"]))


def chunks(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


@pytest.mark.parametrize("kind", LEARNED)
@given(text=TEXTS, n=st.integers(1, 9), size=st.integers(1, 9))
@example(text="a  \n b's\n\n\n c \u3000\n", n=1, size=1)
def test_the_ids_of_the_pieces_are_the_ids_of_the_text(kind: str, text: str, n: int, size: int) -> None:
    tokenizer = LEARNED[kind]
    found = [ids.tolist() for ids in encode_pieces(tokenizer, cut_pieces(chunks(text, size), n), threads=1)]
    assert [i for ids in found for i in ids] == tokenizer.encode(text)


@pytest.mark.parametrize("kind", LEARNED)
@given(text=TEXTS | st.text(st.sampled_from("ab \n\x0b")), n=st.integers(1, 9), size=st.integers(1, 9))
@example(text="aaaaaa   \n\n\n\n  b", n=1, size=3)
def test_pieces_are_cut_where_the_text_is_cut_within_long_stretches(kind: str, text: str, n: int, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stretches, "LONGEST", 3)
        found = [ids.tolist() for ids in encode_pieces(LEARNED[kind], cut_pieces(chunks(text, size), n), threads=1)]
        assert [i for ids in found for i in ids] == LEARNED[kind].encode(text)
        assert LEARNED[kind].decode_bytes([i for ids in found for i in ids]) == text.encode()


def test_only_longer_stretches_are_cut() -> None:
    words = " ".join("x" * 100 for _ in range(1000))
    assert [*stretches.cut_stretches(words)] == [words]
    assert [len(part) for part in stretches.cut_stretches(f"ab {'x' * 25} y", 10)] == [13, 10, 7]


@given(text=st.text(st.sampled_from("ab \n")), longest=st.integers(1, 5))
def test_stretches_are_cut_after_every_so_many_characters(text: str, longest: int) -> None:
    """As the definition has it, character by character."""
    parts, run = [""], 0
    for before, character in pairwise(f" {text}" if text[:1].strip() else f"a{text}"):
        same = before.isspace() == character.isspace()
        run = run % longest + 1 if same else 1
        parts[-1] += character
        if run == longest:
            parts.append("")
    assert [*stretches.cut_stretches(text, longest)] == (parts if parts[-1] or len(parts) == 1 else parts[:-1])


@pytest.mark.parametrize("character", ["x", "日"])
def test_a_text_without_any_blank_takes_time_in_proportion(character: str) -> None:
    """A quadratic method takes a hundred times as long for ten times the text, a linear one ten times."""
    tokenizer, seconds = LEARNED["bpe"], []
    for n in (2**16, 10 * 2**16):
        began = time.process_time()
        pieces = cut_pieces([character * n])
        tokens = make_tokenizer("bpe", list(cut_pieces([character * n])), 300)
        assert sum(map(len, encode_pieces(tokenizer, pieces, threads=1))) == len(tokenizer.encode(character * n))
        assert tokens.decode(tokens.encode(character * n)) == character * n
        seconds.append(time.process_time() - began)
    assert seconds[1] < 30 * seconds[0]


@given(text=TEXTS, n=st.integers(1, 9), size=st.integers(1, 9))
def test_a_cut_stands_between_a_visible_character_and_white_space(text: str, n: int, size: int) -> None:
    pieces = list(cut_pieces(chunks(text, size), n))
    assert "".join(pieces) == text
    assert all(not before[-1].isspace() for before in pieces[:-1])
    assert all(after[0] in " \t\r\n" for after in pieces[1:])


def test_pieces_of_prose_have_the_size_that_was_asked_for() -> None:
    pieces = list(cut_pieces(chunks("some words and\nlines " * 1000, 40), n=100))
    assert all(90 < len(piece) < 150 for piece in pieces[:-1])


def test_a_stretch_without_any_cut_stays_whole_and_what_follows_is_cut_again() -> None:
    pieces = list(cut_pieces(["x" * 10] * 1000 + [" word"] * 1000, n=20))
    assert len(pieces[0]) >= 10_000
    assert all(len(piece) < 50 for piece in pieces[1:])
    assert "".join(pieces) == "x" * 10_000 + " word" * 1000


@given(n=st.integers(1, 400), size=st.integers(1, 400))
def test_tokens_learned_from_pieces_are_those_learned_from_the_text(n: int, size: int) -> None:
    assert bpe.learn_tokens(cut_pieces(chunks(TRAIN, size), n), 300) == LEARNED["bpe"].tokens  # type: ignore[attr-defined]


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_pieces_come_back_in_order_whatever_the_number_of_threads(threads: int | None) -> None:
    pieces = [f"{number}," * 50 for number in range(100)]
    found = np.concatenate(list(encode_pieces(LEARNED["bpe"], pieces, threads)))
    assert LEARNED["bpe"].decode(found.tolist()) == "".join(pieces)


def test_pieces_are_read_as_they_are_needed() -> None:
    """So that a text larger than memory goes through."""
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "piece"

    encoded = encode_pieces(ByteTokenizer(), endless(), threads=2)
    for taken in range(1, 20):
        next(encoded)
        assert read - taken <= 4
    encoded.close()


def test_an_error_in_the_text_reaches_the_caller() -> None:
    def broken() -> Iterator[str]:
        yield "fine"
        raise OSError("disk")

    tokenizer: Tokenizer = LEARNED["bytes"]
    with pytest.raises(OSError, match="disk"):
        list(encode_pieces(tokenizer, broken()))
