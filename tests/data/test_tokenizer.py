"""Tokenizers: any text round-trips; ids agree with the library that learned them, and with tiktoken's own GPT-2."""

import json
import os
import shutil
from pathlib import Path

import pytest
import tiktoken
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

from troupe.data import bpe
from troupe.data.bpe import make_tokenizer
from troupe.data.source import read_text
from troupe.data.tokenizer import (
    BytePairTokenizer,
    Tokenizer,
    from_printable,
    load_tokenizer,
    printable_bytes,
    to_printable,
)
from troupe.errors import ArtifactError, CorpusError

TRAIN = "The cat sat on the mat; the hat, the rat.\n\n  Größe 42 naïve cafés 😀 don't " * 20
LEARNED = {kind: make_tokenizer(kind, TRAIN, 300) for kind in ("bytes", "chars", "bpe")}
UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
TRICKY = [
    "",
    " ",
    "\n\n \t  x",
    "<|endoftext|>",
    "\x00\ufeff\ufffd",
    "e\u0301é",
    "👩‍👩‍👧",
    "don'T",
    "a" * 5000,
    " " * 5000,
]

gpt2_files = pytest.mark.skipif(
    not Path(os.environ.get("TROUPE_MIRROR", "."), "gpt2/vocab.bpe").is_file(),
    reason="needs GPT-2's vocabulary in the folder that TROUPE_MIRROR names",
)


def assert_round_trip(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


@pytest.mark.parametrize("kind", LEARNED)
@given(text=UNICODE)
def test_any_text_round_trips(kind: str, text: str) -> None:
    assert_round_trip(LEARNED[kind], text)


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("text", TRICKY, ids=lambda text: repr(text[:12]))
def test_tricky_text_round_trips(kind: str, text: str) -> None:
    assert_round_trip(LEARNED[kind], text)


@pytest.mark.parametrize("kind", LEARNED)
def test_any_ids_decode(kind: str) -> None:
    """A model may sample any id, also such as cut a character in two."""
    tokenizer = LEARNED[kind]
    everything = list(range(tokenizer.vocab_size))
    assert tokenizer.decode(everything) == tokenizer.decode_bytes(everything).decode(errors="replace")


@pytest.mark.parametrize("kind", LEARNED)
def test_a_saved_tokenizer_is_the_same_tokenizer(kind: str, tmp_path: Path) -> None:
    LEARNED[kind].save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    loaded.save(tmp_path / "again.json")
    assert loaded.encode(TRAIN + "ß\U0001f431") == LEARNED[kind].encode(TRAIN + "ß\U0001f431")
    assert loaded.vocab_size == LEARNED[kind].vocab_size
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


def test_lone_surrogates_are_replaced() -> None:
    for tokenizer in LEARNED.values():
        assert tokenizer.decode(tokenizer.encode("a\ud800b")) in ("a?b", "a\ufffdb")


def test_bytes_are_bytes() -> None:
    assert LEARNED["bytes"].encode("é!") == [0xC3, 0xA9, 0x21]
    assert LEARNED["bytes"].vocab_size == 256


def test_chars_are_the_sorted_characters_of_the_training_text_then_bytes() -> None:
    """As in nanoGPT's Shakespeare example, "ab" has ids 0 and 1; "é", unseen, is two byte ids beyond the characters."""
    chars = make_tokenizer("chars", "bab", 0)
    assert chars.vocab_size == 2 + 256
    assert chars.encode("abé") == [0, 1, 2 + 0xC3, 2 + 0xA9]


@given(text=UNICODE)
def test_chars_agree_with_their_definition_character_by_character(text: str) -> None:
    known = {character: [i] for i, character in enumerate(sorted(set(TRAIN)))}
    expected = [known.get(character) or [len(known) + byte for byte in character.encode()] for character in text]
    assert LEARNED["chars"].encode(text) == [i for ids in expected for i in ids]


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("text", TRICKY, ids=lambda text: repr(text[:12]))
def test_an_array_holds_the_same_ids_as_a_list(kind: str, text: str) -> None:
    assert LEARNED[kind].encode_array(text).tolist() == LEARNED[kind].encode(text)


def test_bpe_learns_the_most_frequent_pair_first() -> None:
    """In "aab aab ..." each "aab" has one pair "aa" and one "ab": the first merge is one of the two."""
    learned = bpe.learn_tokens(["aab " * 50], 260)
    assert learned[256] in (b"aa", b"ab")
    assert b"aab" in learned[257:]
    assert sorted(learned[:256]) == [bytes([byte]) for byte in range(256)]


def test_bpe_is_no_larger_than_asked_and_smaller_if_the_text_gives_no_more() -> None:
    assert LEARNED["bpe"].vocab_size == 300
    assert make_tokenizer("bpe", "abcdefg", 1000).vocab_size == 256


def library_tokenizer(text: str, vocab_size: int) -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator([text], trainer)
    return library


SMALL_LIBRARY = library_tokenizer(TRAIN, 300)


@given(text=UNICODE | st.text(st.sampled_from(sorted(set(TRAIN)))))
@example(text="don't  \n\n 42's \u3000x")
def test_bpe_gives_the_ids_of_the_library_that_learned_it(text: str) -> None:
    assert LEARNED["bpe"].encode(text) == SMALL_LIBRARY.encode(text).ids


def test_bpe_gives_the_ids_of_the_library_on_a_whole_corpus() -> None:
    text = read_text("python-docs")
    ids = make_tokenizer("bpe", text, 2000).encode(text)
    assert ids == library_tokenizer(text, 2000).encode(text).ids
    assert len(ids) < len(text.encode()) / 3


def test_printable_bytes_are_those_of_the_library() -> None:
    assert sorted(printable_bytes().values()) == sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    assert to_printable([b" the\n"]) == ["ĠtheĊ"]
    assert from_printable(["ĠtheĊ"]) == [b" the\n"]


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        {"kind": "words"},
        {"kind": "chars"},
        {"kind": "bpe", "tokens": ["日"]},
        {"kind": "bpe", "tokens": ["a", "b"]},
        {"kind": "bpe", "tokens": ["a", "a"]},
    ],
    ids=json.dumps,
)
def test_a_broken_tokenizer_is_refused(tmp_path: Path, content: object) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: not a tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_a_text_can_be_ended_where_the_model_can_say_so() -> None:
    """`end_id` is an id that a model of `vocab_size` tokens has, and the last one: 50,256 after GPT-2's own tokens."""
    single = [bytes([byte]) for byte in range(256)]
    gpt2, learned = BytePairTokenizer("gpt2", [*single, b"th"]), BytePairTokenizer("bpe", [*single, b"th"])
    assert (gpt2.end_id, gpt2.vocab_size) == (257, 258)
    assert gpt2.decode([116, 257]) == "t<|endoftext|>"
    assert 257 not in gpt2.encode("th<|endoftext|>")
    assert (learned.end_id, learned.vocab_size) == (None, 257)


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: no such file"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_gpt2_without_its_file_names_the_three_ways(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TROUPE_MIRROR", raising=False)
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(bpe, "GPT2_URL", "http://127.0.0.1:9/vocab.bpe")  # the discard port: nobody listens
    with pytest.raises(CorpusError, match=r"cannot download.*the network.*TROUPE_MIRROR.*TIKTOKEN_CACHE_DIR"):
        bpe.gpt2_tokens()


@gpt2_files
def test_gpt2_agrees_with_tiktokens_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Path(os.environ["TROUPE_MIRROR"], "gpt2")
    shutil.copy(mirror / "vocab.bpe", tmp_path / "6d1cbeee0f20b3d9449abfede4726ed8212e3aee")
    shutil.copy(mirror / "encoder.json", tmp_path / "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TROUPE_MIRROR")
    gpt2, reference = make_tokenizer("gpt2", "", 0), tiktoken.get_encoding("gpt2")
    assert gpt2.vocab_size == reference.n_vocab == 50_257
    assert gpt2.end_id == reference.eot_token == 50_256
    assert gpt2.encode("Hello world") == [15496, 995]
    text = read_text("python-docs")[:50_000] + "".join(TRICKY)
    assert gpt2.encode(text) == reference.encode_ordinary(text)
    assert gpt2.decode([50_256]) == "<|endoftext|>"
    assert 50_256 not in gpt2.encode("<|endoftext|>")
    assert gpt2.encode_array(text).tolist() == gpt2.encode(text)


@pytest.fixture(scope="module")
def saved_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("gpt2") / "tokenizer.json"
    make_tokenizer("gpt2", "", 0).save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TROUPE_MIRROR")
        return load_tokenizer(path)


@gpt2_files
@given(text=UNICODE)
def test_a_saved_gpt2_loads_without_any_download_and_round_trips(saved_gpt2: Tokenizer, text: str) -> None:
    assert_round_trip(saved_gpt2, text)
