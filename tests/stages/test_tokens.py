"""The tokens stage: ids that decode to exactly the text, from a tokenizer that saw the training split only."""

import hashlib
from functools import partial
from pathlib import Path

import pytest

from troupe.data import batches
from troupe.data.batches import load_ids
from troupe.data.corpus import SPLITS, cut_blocks, split_text, write_corpus
from troupe.data.encoding import cut_pieces
from troupe.data.source import Source
from troupe.data.tokenizer import load_tokenizer
from troupe.files import read_json, sha256_file
from troupe.layout import CORPUS, TOKENS
from troupe.params import load_params
from troupe.stages import tokens as tokens_stage
from troupe.stages.tokens import spread, tokens

SHIPPED = Path(__file__).parents[2] / "params.yaml"
KINDS = ["bytes", "chars", "bpe"]


@pytest.fixture(autouse=True)
def _in_a_workspace_with_a_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training text about a cat; validation and test text of characters and words that occur nowhere else."""
    monkeypatch.chdir(tmp_path)
    train = "the cat sat on the mat; " * 16  # 384 bytes
    text = train + "zyzzyva ö " * 35 + "z" + train + "quokka 日 " * 34 + "quokka"
    content = text.encode()
    source = Source("files", [], len(content), hashlib.sha256(content).hexdigest(), "as given by the user")
    write_corpus(CORPUS, [text], "mine.txt", source, 96)


def run(kind: str) -> None:
    tokens(load_params(SHIPPED, [f"tokens.kind={kind}", "tokens.vocab_size=280"]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_ids_of_each_split_are_its_text(kind: str) -> None:
    run(kind)
    tokenizer, meta = load_tokenizer(TOKENS / "tokenizer.json"), read_json(TOKENS / "meta.json")
    for split in SPLITS:
        ids = load_ids(TOKENS, split)
        assert tokenizer.decode_bytes(ids.tolist()).decode() == split_text(CORPUS, split)
        assert (ids.dtype, len(ids)) == ("uint16", meta["tokens"][split])
    assert meta["vocab_size"] == tokenizer.vocab_size
    assert meta["bytes"] == {split: len(split_text(CORPUS, split).encode()) for split in SPLITS}
    assert meta["test_sha256"] == hashlib.sha256(split_text(CORPUS, "test").encode()).hexdigest()
    assert meta["corpus_sha256"] == sha256_file(CORPUS / "corpus.txt")
    assert meta["block_bytes"] == 96
    assert meta["tokenizer_sha256"] == sha256_file(TOKENS / "tokenizer.json")


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokenizer_depends_on_the_training_split_only(kind: str) -> None:
    run(kind)
    before = (TOKENS / "tokenizer.json").read_bytes()
    with (CORPUS / "corpus.txt").open("rb") as file:
        blocks = list(cut_blocks(iter(partial(file.read, 96), b"")))
    content = b"".join(block if split == "train" else b"#" * len(block) for split, block in blocks)
    source = Source("files", [], len(content), hashlib.sha256(content).hexdigest(), "as given by the user")
    write_corpus(CORPUS, [content.decode()], "mine.txt", source, 96)
    run(kind)
    assert (TOKENS / "tokenizer.json").read_bytes() == before


@pytest.mark.parametrize("kind", KINDS)
def test_twice_gives_the_same_bytes(kind: str) -> None:
    run(kind)
    before = {path.name: path.read_bytes() for path in TOKENS.iterdir()}
    run(kind)
    assert {path.name: path.read_bytes() for path in TOKENS.iterdir()} == before
    assert sorted(before) == ["critic.npy", "meta.json", "test.npy", "tokenizer.json", "train.npy", "validation.npy"]


def test_a_vocabulary_is_learned_from_pieces_spread_over_a_text_too_long_for_it() -> None:
    pieces = [str(number) for number in range(10)]
    assert list(spread(pieces, 1.0)) == list(spread(pieces, 7.3)) == pieces
    assert list(spread(pieces, 0.5)) == ["1", "3", "5", "7", "9"]
    assert len(list(spread(map(str, range(1000)), 0.123))) == 123


def test_a_text_of_many_pieces_and_shards_gives_the_ids_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    run("bpe")
    whole = {split: load_ids(TOKENS, split).tolist() for split in SPLITS}
    monkeypatch.setattr(tokens_stage, "cut_pieces", lambda text, n=0: cut_pieces(text, 7))
    monkeypatch.setattr(batches, "SHARD_TOKENS", 50)
    run("bpe")
    assert (TOKENS / "train-001.npy").exists()
    assert {split: load_ids(TOKENS, split).tolist() for split in SPLITS} == whole
