"""The tokens stage: ids that decode to exactly the text, from a tokenizer that saw the training split only."""

import hashlib
from functools import partial
from pathlib import Path

import pytest

from tests.splits import split_text
from troupe.data import dataset as ids_on_disk
from troupe.data import stretches
from troupe.data.corpus import SPLITS, Source, cut_blocks, write_corpus
from troupe.data.dataset import load_ids
from troupe.data.encoding import UP_TO_LAST_CUT, cut_pieces
from troupe.data.tokenizer import load_tokenizer
from troupe.errors import CorpusError
from troupe.files import read_json, sha256_file
from troupe.layout import CORPUS, TOKENS
from troupe.params import load_params
from troupe.stages import tokens as tokens_stage
from troupe.stages.tokens import spread, tokens

SHIPPED = Path(__file__).parents[2] / "params.yaml"
KINDS = ["bytes", "chars", "bpe"]
BLOCK = 384  # bytes
SMALL = (
    "model.block_size=16 evaluate.stride=8 judging.window=16 "
    "adversarial.tilt.prompt_length=2 adversarial.gan.prompt_length=2 adversarial.gan.sequence_length=8"
)


@pytest.fixture(autouse=True)
def _in_a_workspace_with_a_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training text about a cat; validation and test text of characters and words that occur nowhere else."""
    monkeypatch.chdir(tmp_path)
    train = "the cat sat on the mat; " * 64  # 1536 bytes
    text = train + "zyzzyva ö " * 140 + "z" * 4 + train + "quokka 日 " * 136 + "quokka" * 4
    content = text.encode()
    source = Source("files", [], len(content), hashlib.sha256(content).hexdigest(), "as given by the user")
    write_corpus(CORPUS, [text], "mine.txt", source, BLOCK)


def run(kind: str) -> None:
    tokens(load_params(SHIPPED, [f"tokens.kind={kind}", "tokens.vocab_size=280", *SMALL.split()]))


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
    assert meta["block_bytes"] == BLOCK
    assert meta["tokenizer_sha256"] == sha256_file(TOKENS / "tokenizer.json")


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokenizer_depends_on_the_training_split_only(kind: str) -> None:
    run(kind)
    before = (TOKENS / "tokenizer.json").read_bytes()
    with (CORPUS / "corpus.txt").open("rb") as file:
        blocks = list(cut_blocks(iter(partial(file.read, BLOCK), b"")))
    content = b"".join(block if split == "train" else b"#" * len(block) for split, block in blocks)
    source = Source("files", [], len(content), hashlib.sha256(content).hexdigest(), "as given by the user")
    write_corpus(CORPUS, [content.decode()], "mine.txt", source, BLOCK)
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
    monkeypatch.setattr(tokens_stage, "cut_pieces", lambda text, n=0, cut=UP_TO_LAST_CUT: cut_pieces(text, 7, cut))
    monkeypatch.setattr(ids_on_disk, "SHARD_TOKENS", 50)
    run("bpe")
    assert (TOKENS / "train-001.npy").exists()
    assert {split: load_ids(TOKENS, split).tolist() for split in SPLITS} == whole


def test_tokens_too_few_for_a_later_stage_are_refused_with_values_that_are_enough() -> None:
    """The bytes allow 96 tokens more than there are: only their number tells."""
    given = ["tokens.kind=bpe", "tokens.vocab_size=280", *SMALL.split()]
    tokens(load_params(SHIPPED, given))
    critic = len(load_ids(TOKENS, "critic"))
    with pytest.raises(
        CorpusError, match=f"the critic split holds {critic} tokens where model.block_size={critic} "
    ) as no:
        tokens(load_params(SHIPPED, [*given, f"model.block_size={critic}"]))
    line = str(no.value).partition('SET="')[2].rstrip('"')
    least = min(len(load_ids(TOKENS, split)) for split in ("train", "critic", "validation"))
    assert f"model.block_size={least - 1} " in line
    tokens(load_params(SHIPPED, [*given, *line.split()]))


def test_a_line_says_where_a_stretch_without_a_blank_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("bpe")
    assert "without a blank" not in capsys.readouterr().out
    monkeypatch.setattr(stretches, "LONGEST", 4)
    run("bytes")
    assert "without a blank" not in capsys.readouterr().out
    run("bpe")
    assert "tokens: test: cut after every 4 characters of a stretch without a blank" in capsys.readouterr().out
    tokenizer = load_tokenizer(TOKENS / "tokenizer.json")
    assert load_ids(TOKENS, "test").tolist() == tokenizer.encode(split_text(CORPUS, "test"))
