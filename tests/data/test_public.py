"""Tokenizers of public weights: every text comes back, ids are those of the library, nothing lossy is taken."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from troupe.bundles.huggingface_tokenizer import write_tokenizer
from troupe.data.encoding import UP_TO_LAST_BLANK, cut_pieces
from troupe.data.public import PIECES, UTF8, _beginning_with, tokenizer_of
from troupe.data.tokenizer import CONTINUATION, PretrainedTokenizer, load_tokenizer
from troupe.errors import ArtifactError

TRAIN = "The cat sat on the mat; the hat, the rat.\n\n  def f(x):\n\treturn 1234  # Größe naïve 😀 don't\r\n" * 20
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
KINDS = ["smollm", "qwen2", "sentencepiece"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def byte_level(pre: str) -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer(models.BPE())
    content = json.loads(library.to_str()) | {"pre_tokenizer": PIECES[pre]}
    library = tokenizers.Tokenizer.from_str(json.dumps(content))
    if pre == "qwen2":
        library.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator([TRAIN], trainer)
    library.decoder = decoders.ByteLevel()
    return library


def sentencepiece() -> tokenizers.Tokenizer:
    """As TinyLlama's tokenizer.json has it."""
    library = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")  # for learning: no merges across words
    bytes_of = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", "<s>", "</s>", *bytes_of], limit_alphabet=20, show_progress=False
    )
    library.train_from_iterator([TRAIN], trainer)
    content = json.loads(library.to_str())
    content["pre_tokenizer"] = None
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["content"].startswith("<0x")]
    return tokenizers.Tokenizer.from_str(json.dumps(content))


LIBRARY = {"smollm": byte_level("smollm"), "qwen2": byte_level("qwen2"), "sentencepiece": sentencepiece()}
MODEL = json.loads(LIBRARY["smollm"].to_str())["model"]


def folder_of(folder: Path, content: dict[str, Any], vocab_size: int, **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": vocab_size, **config}))
    return folder


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PretrainedTokenizer]:
    """Of a model that has some ids more than its tokenizer, as Qwen3 has, read once more from what was saved of it."""
    found = {}
    for kind, library in LIBRARY.items():
        folder = tmp_path_factory.mktemp(kind)
        tokenizer = tokenizer_of(folder_of(folder, json.loads(library.to_str()), 512, eos_token_id=[2, 0]))
        tokenizer.save(folder / "saved.json")
        again = load_tokenizer(folder / "saved.json")
        assert isinstance(again, PretrainedTokenizer)
        assert again.__dict__.keys() == tokenizer.__dict__.keys()
        found[kind] = again
    return found


@every_kind
@given(text=UNICODE)
@example(text="<|im_end|> <s> ▁▁ x\u2581y e\u0301 ﬁ \x00\x04 \U00040001  ")
@example(text=" leading, and trailing \n\n")
def test_every_text_comes_back(kind: str, read: dict[str, PretrainedTokenizer], text: str) -> None:
    tokenizer = read[kind]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_array(text).tolist() == ids
    assert tokenizer.end_id == 2
    assert tokenizer.end_id not in ids
    assert tokenizer.vocab_size == 512


@pytest.mark.parametrize("kind", ["smollm", "qwen2"])
@pytest.mark.parametrize("text", [TRAIN, "x = 12345;\n\n\n  y", "a  b\t\tc", "It's I'LL don't", "…\r\n\r\n -  "])
def test_ids_are_those_of_the_library(kind: str, read: dict[str, PretrainedTokenizer], text: str) -> None:
    assert read[kind].encode(text) == LIBRARY[kind].encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("text", [TRAIN.replace("Größe naïve 😀", ""), "the  hat\n the mat "])
def test_ids_of_sentencepiece_are_the_librarys_after_the_blank_that_it_puts_first(
    read: dict[str, PretrainedTokenizer], text: str
) -> None:
    expected = LIBRARY["sentencepiece"].encode(text, add_special_tokens=False).ids
    assert read["sentencepiece"].encode(f" {text}") == expected


@every_kind
@given(text=st.text(st.sampled_from("ab1 .\n\r\t;😀's")), n=st.integers(1, 12))
def test_pieces_have_the_ids_of_the_whole(kind: str, read: dict[str, PretrainedTokenizer], text: str, n: int) -> None:
    """Qwen's expression takes line breaks to the sign before them: there no text is cut."""
    pieces = list(cut_pieces([text[i : i + 3] for i in range(0, len(text), 3)], n, UP_TO_LAST_BLANK))
    assert "".join(pieces) == text
    assert [i for piece in pieces for i in read[kind].encode(piece)] == read[kind].encode(text)


def test_a_byte_without_a_token_is_written_as_a_special_one(tmp_path: Path) -> None:
    """As in SmolLM2; the library leaves it out."""
    content = json.loads(LIBRARY["smollm"].to_str())
    for character in ("Ą", "ñ"):  # bytes 0x04 and, of characters beyond all that are assigned, 0xF1
        number = content["model"]["vocab"].pop(character)
        content["model"]["vocab"][f"{character}{character}"] = number
    tokenizer = tokenizer_of(folder_of(tmp_path / "given", content, 400, eos_token_id=2))
    text = "the \x04cat\x04 \U00040001 sat"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert {0, 1} < {*tokenizer.encode(text)}
    content["added_tokens"] = content["added_tokens"][2:]
    with pytest.raises(ArtifactError, match="has no token for the byte 0x04"):
        tokenizer_of(folder_of(tmp_path / "given", content, 400, eos_token_id=2))


@pytest.mark.parametrize("within", [False, True], ids=["beside the vocabulary", "in it"])
def test_a_special_token_of_one_byte_does_not_write_that_byte(within: bool, tmp_path: Path) -> None:
    """A text is encoded without special tokens: the library would leave the line break out."""
    content = json.loads(LIBRARY["smollm"].to_str())
    vocabulary = content["model"]["vocab"]
    number = vocabulary.pop("Ċ")
    content["model"]["merges"] = [pair for pair in content["model"]["merges"] if "Ċ" not in "".join(pair)]
    content["added_tokens"].append({**content["added_tokens"][0], "content": "\n", "id": number})
    if within:
        vocabulary["\n"] = number
    tokenizer = tokenizer_of(folder_of(tmp_path / "given", content, 400, eos_token_id=2))
    assert tokenizer.decode(tokenizer.encode("a\nb")) == "a\nb"
    content["added_tokens"] = []
    with pytest.raises(ArtifactError, match="has no token for the byte 0x0a"):
        tokenizer_of(folder_of(tmp_path / "given", content, 400, eos_token_id=2))


def test_a_token_of_the_vocabulary_that_is_special_too_stands_for_its_bytes(tmp_path: Path) -> None:
    content = json.loads(LIBRARY["smollm"].to_str())
    content["added_tokens"].append({**content["added_tokens"][0], "content": "Ċ", "id": content["model"]["vocab"]["Ċ"]})
    tokenizer = tokenizer_of(folder_of(tmp_path / "given", content, 400, eos_token_id=2))
    ids = tokenizer.encode("a\nb")
    assert ids == LIBRARY["smollm"].encode("a\nb", add_special_tokens=False).ids
    assert tokenizer.decode(ids) == "a\nb"


@pytest.mark.parametrize("byte", [byte for byte in UTF8 if byte[0] not in CONTINUATION])
def test_characters_that_begin_with_a_byte_are_a_range(byte: bytes) -> None:
    low, high = (int(end.removeprefix("\\U"), 16) for end in _beginning_with(byte[0]).split("-"))
    codes = [code for code in (low - 1, low, high, high + 1) if 0 <= code <= sys.maxunicode]
    assert {code for code in codes if chr(code).encode(errors="surrogatepass")[:1] == byte} == {low, high}


@every_kind
def test_what_is_written_for_transformers_gives_the_same_ids(
    kind: str, read: dict[str, PretrainedTokenizer], tmp_path: Path
) -> None:
    write_tokenizer(tmp_path, read[kind], 64)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in (TRAIN, " x", "日本語 \t\r\n  ½ don'T e\u0301"):
        assert theirs.encode(text) == read[kind].encode(text)
        assert theirs.decode(theirs.encode(text)) == text
    assert theirs.eos_token_id == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": {"type": "WordPiece", "vocab": {}}}, "its model is WordPiece; BPE is read"),
        ({"normalizer": {"type": "Lowercase"}}, "its normalizer Lowercase changes a text"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "its pre_tokenizer Whitespace is not read"),
        ({"pre_tokenizer": None}, r"neither over bytes \(ByteLevel\) nor over characters"),
        ({"pre_tokenizer": PIECES["gpt-2"] | {"add_prefix_space": True}}, "its pre_tokenizer ByteLevel is not read"),
        ({"model": None}, "not a tokenizer"),
        ({"model": {**MODEL, "continuing_subword_prefix": "##"}}, "its model has continuing_subword_prefix '##'"),
        ({"model": {**MODEL, "end_of_word_suffix": "</w>"}}, "its model has end_of_word_suffix '</w>'"),
        ({"added_tokens": [{"content": "<x>", "id": 400}]}, "a token of id 400, and vocab_size is 400: it"),
    ],
)
def test_a_tokenizer_that_loses_something_is_refused(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    content = json.loads(LIBRARY["smollm"].to_str()) | change
    with pytest.raises(ArtifactError, match=named) as refusal:
        tokenizer_of(folder_of(tmp_path / "given", content, 400))
    assert "\n" not in str(refusal.value)
