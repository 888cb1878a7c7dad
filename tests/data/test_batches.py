"""Batches: a pure function of the step; y is one later than x; every token about once an epoch, each in a new order."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from troupe.data import dataset as module
from troupe.data.batches import Batches
from troupe.data.dataset import load_ids, open_ids, save_ids
from troupe.errors import ArtifactError, CorpusError

LENGTHS = st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(1, 200))  # block_size, batch_size, extra tokens


def positions(n: int, block_size: int, batch_size: int, seed: int = 0) -> Batches:
    """Batches of ids that are their own positions."""
    return Batches(np.arange(n, dtype=np.uint16), block_size, batch_size, seed)


def epoch_windows(batches: Batches, epoch: int) -> list[tuple[int, ...]]:
    """The inputs of one epoch as they are drawn; the batch size must be 1."""
    first = epoch * batches.windows_per_epoch
    return [tuple(batches.batches(first + i)[0][0].tolist()) for i in range(batches.windows_per_epoch)]


@given(LENGTHS, st.integers(0, 10_000))
def test_shapes_and_y_is_x_one_later(lengths: tuple[int, int, int], step: int) -> None:
    block_size, batch_size, extra = lengths
    x_BT, y_BT = positions(block_size + extra, block_size, batch_size).batches(step)
    assert x_BT.shape == y_BT.shape == (batch_size, block_size)
    assert x_BT.dtype == y_BT.dtype == torch.int64
    assert x_BT.is_contiguous()
    assert y_BT.is_contiguous()
    assert torch.equal(y_BT, x_BT + 1)
    assert torch.equal(x_BT, x_BT[:, :1] + torch.arange(block_size))


@given(LENGTHS, st.integers(0, 5))
def test_an_epoch_shows_a_token_at_most_once_and_leaves_out_less_than_two_windows(
    lengths: tuple[int, int, int], epoch: int
) -> None:
    block_size, _, extra = lengths
    n = block_size + extra
    seen = [i for window in epoch_windows(positions(n, block_size, 1), epoch) for i in window]
    assert len(seen) == len(set(seen))
    assert n - len(seen) <= 2 * block_size


def test_over_many_epochs_every_token_is_seen_equally_often_but_at_the_ends() -> None:
    n, block_size, epochs = 203, 10, 200
    batches = positions(n, block_size, 1)
    seen = np.bincount([i for e in range(epochs) for window in epoch_windows(batches, e) for i in window], minlength=n)
    assert (seen[2 * block_size : -2 * block_size] == epochs).all()
    assert (seen[:-1] > 0).all(), "the last token is a target only"


def test_epochs_differ_in_order_and_offset() -> None:
    batches = positions(1000, 10, 1)
    epochs = [epoch_windows(batches, epoch) for epoch in range(5)]
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert len({min(epoch)[0] for epoch in epochs}) > 2
    assert all(epoch != sorted(epoch) for epoch in epochs)


def test_a_batch_is_a_pure_function_of_the_step() -> None:
    """Asked in any order, from any instance: so a resumed run needs nothing but its step."""
    forward, backward = positions(500, 7, 3, seed=1), positions(500, 7, 3, seed=1)
    ahead = {step: forward.batches(step)[0] for step in range(100)}
    for step in reversed(range(100)):
        assert torch.equal(backward.batches(step)[0], ahead[step])


def test_a_batch_may_be_larger_than_an_epoch() -> None:
    x_BT, _ = positions(25, 8, 10).batches(0)
    assert x_BT.shape == (10, 8)


def test_seeds_differ() -> None:
    first = [positions(500, 7, 8, seed).batches(0)[0] for seed in range(5)]
    assert len({tuple(x_BT.flatten().tolist()) for x_BT in first}) == 5


def test_batches_of_a_seed_do_not_change() -> None:
    """Golden: another order of the data would silently change every trained model."""
    assert positions(500, 7, 6, seed=1337).batches(3)[0][:, 0].tolist() == [449, 29, 127, 204, 435, 232]


def test_too_few_tokens_name_the_parameter() -> None:
    assert positions(9, 8, 2).batches(0)[0].tolist() == [list(range(8))] * 2
    with pytest.raises(CorpusError, match=r"8 tokens .* model\.block_size \+ 1 = 9; lower model\.block_size"):
        positions(8, 8, 2)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(256, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_ids_come_back_from_disk(tmp_path: Path, vocab_size: int, dtype: str) -> None:
    ids = [0, 5, vocab_size - 1]
    assert save_ids(tmp_path, "train", [np.array(ids)], vocab_size) == 3
    loaded = load_ids(tmp_path, "train")
    assert isinstance(loaded, np.memmap)
    assert loaded.dtype == dtype
    assert loaded.tolist() == ids
    assert Batches(loaded, 2, 1, 0).batches(0)[1].tolist() == [ids[1:]]


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00v\x00{'descr': '|O'", b"PK\x03\x04"])
def test_a_broken_file_of_ids_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "test.npy").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"test\.npy: not an array of token ids"):
        load_ids(tmp_path, "test")


def test_pickled_ids_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "test.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ArtifactError, match=r"test\.npy: not an array of token ids"):
        load_ids(tmp_path, "test")


def test_missing_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"test\.npy: no such file"):
        load_ids(tmp_path, "test")


@pytest.fixture
def _seven_to_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_TOKENS", 7)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.usefixtures("_seven_to_a_shard")
@pytest.mark.parametrize("n", [0, 1, 6, 7, 8, 14, 15, 30])
def test_shards_hold_the_ids_in_order(tmp_path: Path, n: int) -> None:
    """Pieces of 4 ids, which end within shards, at their ends and beyond."""
    ids = np.arange(n, dtype=np.uint32)
    assert save_ids(tmp_path, "train", np.split(ids, range(4, n, 4)), 100) == n
    further = max(0, -(-n // 7) - 1)
    assert names(tmp_path) == [*(f"train-{number:03d}.npy" for number in range(1, further + 1)), "train.npy"]
    assert load_ids(tmp_path, "train").tolist() == ids.tolist()
    shards = open_ids(tmp_path, "train")
    assert len(shards) == n
    places = np.random.default_rng(0).integers(0, max(n, 1), (3, 5)) if n else np.zeros((0, 5), int)
    assert shards[places].tolist() == ids[places].tolist()


@pytest.mark.usefixtures("_seven_to_a_shard")
def test_batches_of_shards_are_the_batches_of_the_whole(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 1000, 100).astype(np.uint16)
    save_ids(tmp_path, "train", [ids], 1000)
    whole, sharded = Batches(ids, 9, 4, seed=3), Batches(open_ids(tmp_path, "train"), 9, 4, seed=3)
    for step in range(20):
        assert all(torch.equal(a, b) for a, b in zip(whole.batches(step), sharded.batches(step), strict=True))


@pytest.mark.usefixtures("_seven_to_a_shard")
def test_a_shorter_text_leaves_no_shard_of_the_longer_one(tmp_path: Path) -> None:
    for n in (30, 10):
        save_ids(tmp_path, "train", [np.arange(n)], 100)
        save_ids(tmp_path, "test", [np.arange(n)], 100)
    assert names(tmp_path) == ["test-001.npy", "test.npy", "train-001.npy", "train.npy"]
    assert load_ids(tmp_path, "train").tolist() == list(range(10))


@pytest.mark.usefixtures("_seven_to_a_shard")
def test_a_text_that_grew_at_its_end_keeps_its_first_shards(tmp_path: Path) -> None:
    for name, n in (("before", 25), ("after", 40)):
        save_ids(tmp_path / name, "train", [np.arange(n)], 100)
    for file in ("train.npy", "train-001.npy", "train-002.npy"):
        assert (tmp_path / "before" / file).read_bytes() == (tmp_path / "after" / file).read_bytes()


@pytest.mark.usefixtures("_seven_to_a_shard")
@pytest.mark.parametrize("absent", ["train.npy", "train-001.npy"])
def test_a_missing_shard_is_refused(tmp_path: Path, absent: str) -> None:
    save_ids(tmp_path, "train", [np.arange(30)], 100)
    (tmp_path / absent).unlink()
    with pytest.raises(ArtifactError, match=rf"{absent}: no such file"):
        load_ids(tmp_path, "train")
