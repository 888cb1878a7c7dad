"""The split: it covers the text once, its parts are disjoint, it cuts no character, a damaged corpus is refused."""

import hashlib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.splits import split_text
from troupe.data.corpus import (
    SPLITS,
    Source,
    check_size,
    cut_blocks,
    read_manifest,
    split_beginning,
    split_blocks,
    write_corpus,
)
from troupe.errors import ArtifactError, CorpusError

# Wide characters often, so that cuts fall within them.
TEXTS = st.text(st.sampled_from("a\né€😀"), min_size=700, max_size=1500)


def described(text: str) -> Source:
    content = text.encode()
    return Source("files", ["t.txt"], len(content), hashlib.sha256(content).hexdigest(), "as given by the user")


def written(directory: Path, text: str, block_bytes: int = 64) -> Path:
    write_corpus(directory, [text[:99], text[99:]], "t.txt", described(text), block_bytes)
    return directory


def chunks(content: bytes, size: int) -> list[bytes]:
    return [content[at : at + size] for at in range(0, len(content), size)]


@given(text=TEXTS, block_bytes=st.integers(64, 70))
def test_blocks_cover_the_text_once_and_cut_no_character(text: str, block_bytes: int) -> None:
    blocks = [block for _, block in cut_blocks(chunks(text.encode(), block_bytes))]
    assert "".join(block.decode() for block in blocks) == text
    assert all(abs(len(block) - block_bytes) <= 3 for block in blocks[:-1])


@given(text=TEXTS, block_bytes=st.integers(64, 70))
def test_a_block_begins_with_the_first_character_from_a_multiple_of_its_length_on(text: str, block_bytes: int) -> None:
    """The cuts as their definition has them, looked for from every multiple in the whole text."""
    content = text.encode()
    begins = [len(text[:i].encode()) for i in range(len(text) + 1)]
    cuts = [min(at for at in begins if at >= multiple) for multiple in range(0, len(content), block_bytes)]
    expected = [content[start:end] for start, end in pairwise([*cuts, len(content)]) if end > start]
    assert [block for _, block in cut_blocks(chunks(content, block_bytes))] == expected


def test_of_every_ten_blocks_the_second_the_fifth_and_the_tenth_are_held_out() -> None:
    splits = [split for split, _ in cut_blocks([b"x" * 64] * 30)]
    ten = ["train", "critic"] + ["train"] * 2 + ["validation"] + ["train"] * 4 + ["test"]
    assert splits == ten * 3


@given(text=TEXTS, block_bytes=st.integers(64, 70))
def test_every_byte_belongs_to_one_split_and_what_is_held_out_lies_between_training_text(
    text: str, block_bytes: int
) -> None:
    """Each byte replaced by its place in the text, so that no two are equal: places of different splits never meet."""
    places, at = {split: set[int]() for split in SPLITS}, 0
    blocks = list(cut_blocks(chunks(text.encode(), block_bytes)))
    for split, block in blocks:
        places[split].update(range(at, at + len(block)))
        at += len(block)
    assert sum(map(len, places.values())) == len(set.union(*places.values())) == len(text.encode())
    assert all("train" in pair for pair in pairwise(split for split, _ in blocks))
    assert all(places.values()), "every split has text as soon as there are ten blocks"


def test_split_texts_are_the_blocks_of_the_text(tmp_path: Path) -> None:
    """Each block is a run of its own character, so that the split can be read off."""
    written(tmp_path, "".join(character * 64 for character in "0123456789ABCDEFGHIJ"))
    seen = {split: "".join(dict.fromkeys(split_text(tmp_path, split))) for split in SPLITS}
    assert seen == {"train": "0235678ACDFGHI", "critic": "1B", "validation": "4E", "test": "9J"}


def test_the_manifest_tells_what_is_there(tmp_path: Path) -> None:
    text = "ö" * 1000
    manifest = read_manifest(written(tmp_path, text))
    assert (tmp_path / "corpus.txt").read_text(encoding="utf-8") == text
    assert (manifest["source"], manifest["licence"]) == ("t.txt", "as given by the user")
    assert manifest["block_bytes"] == 64
    assert (manifest["bytes"], manifest["sha256"]) == (2000, hashlib.sha256(text.encode()).hexdigest())
    assert sum(facts["bytes"] for facts in manifest["splits"].values()) == 2000
    test = split_text(tmp_path, "test").encode()
    assert manifest["splits"]["test"] == {"bytes": len(test), "sha256": hashlib.sha256(test).hexdigest()}


@pytest.mark.parametrize(("n_bytes", "blocks"), [(1, 1), (64, 1), (65, 2), (447, 7), (448, 7), (9999, 7)])
def test_the_beginning_of_a_split_is_its_first_blocks(tmp_path: Path, n_bytes: int, blocks: int) -> None:
    written(tmp_path, "".join(character * 64 for character in "0123456789"))
    assert split_beginning(tmp_path, "train", n_bytes) == split_text(tmp_path, "train")[: 64 * blocks]


def test_equal_text_gives_equal_bytes(tmp_path: Path) -> None:
    one, two = (written(tmp_path / name, "abc" * 500) for name in ("one", "two"))
    for file in ("corpus.txt", "manifest.json"):
        assert (one / file).read_bytes() == (two / file).read_bytes()


@pytest.mark.parametrize(("n_bytes", "advice"), [(40_959, "at most 4095"), (700, "at most 70"), (639, "bring more")])
def test_a_tiny_corpus_is_refused_with_the_remedy(n_bytes: int, advice: str) -> None:
    with pytest.raises(
        CorpusError, match=rf"{n_bytes} bytes, fewer than 10 blocks of data.block_bytes=4096; .*{advice}"
    ):
        check_size(n_bytes, 4096)


def test_ten_blocks_are_enough(tmp_path: Path) -> None:
    written(tmp_path, "x" * 640)
    assert [len(split_text(tmp_path, split)) for split in SPLITS] == [448, 64, 64, 64]


def test_a_text_edited_since_it_was_digested_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"'t\.txt': its text has sha256 [0-9a-f]{64}, but the inputs stage saw"):
        write_corpus(tmp_path, ["edited " * 200], "t.txt", described("original " * 200), 64)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flipped", [0x01, 0x80], ids=["another letter", "no UTF-8"])
def test_a_corrupted_corpus_is_refused(tmp_path: Path, flipped: int) -> None:
    written(tmp_path, "x" * 1000)
    content = bytearray((tmp_path / "corpus.txt").read_bytes())
    content[4 * 64] ^= flipped  # in the validation block
    (tmp_path / "corpus.txt").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"corpus\.txt: its validation text is not the one in manifest\.json"):
        split_text(tmp_path, "validation")
    assert split_text(tmp_path, "test") == "x" * 64


@pytest.mark.parametrize("file", ["corpus.txt", "manifest.json"])
def test_a_missing_corpus_is_refused(tmp_path: Path, file: str) -> None:
    (written(tmp_path, "x" * 1000) / file).unlink()
    with pytest.raises(ArtifactError, match=rf"{file}: no such file; run"):
        split_text(tmp_path, "train")


@given(text=TEXTS, block_bytes=st.integers(64, 70), n=st.integers(1, 300))
def test_what_is_read_of_a_split_are_its_blocks(
    tmp_path_factory: pytest.TempPathFactory, text: str, block_bytes: int, n: int
) -> None:
    """Written from pieces of any size, read by seeking: the blocks of the definition, and the whole text joined."""
    folder = tmp_path_factory.getbasetemp() / "corpus"
    write_corpus(folder, chunks_of_text(text, n), "t.txt", described(text), block_bytes)
    blocks = list(cut_blocks(chunks(text.encode(), block_bytes)))
    for split in SPLITS:
        assert split_text(folder, split) == "".join(block.decode() for own, block in blocks if own == split)
    assert "".join(split_blocks(folder, *SPLITS)) == text


def chunks_of_text(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]
