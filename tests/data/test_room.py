"""What a text is too short for is refused from sizes, and the advice, followed to the letter, is enough."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.data import dataset as ids_on_disk
from troupe.data import room
from troupe.data.corpus import SPLITS, Split, cut_blocks
from troupe.data.dataset import MeasuredRoom, Shards, TokenDataset, save_ids, window_starts
from troupe.data.room import check_bytes, check_tokens
from troupe.data.tokenizer import ByteTokenizer
from troupe.errors import CorpusError
from troupe.files import write_json
from troupe.params import Params, load_params

SHIPPED = Path(__file__).parents[2] / "params.yaml"


def params(overrides: str = "") -> Params:
    return load_params(SHIPPED, overrides.split())


def refusal(n_bytes: int, overrides: str = "") -> str:
    with pytest.raises(CorpusError) as raised:
        check_bytes(n_bytes, params(overrides))
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("n_bytes", [2600, 3000, 9000, 40_959])
@pytest.mark.parametrize("kind", ["bytes", "bpe", "gpt2"])
def test_the_values_of_the_advice_are_accepted(n_bytes: int, kind: str) -> None:
    """Also after a first refusal: lowering data.block_bytes alone used to lead to a refusal by the last stage."""
    for first in ("", f"data.block_bytes={n_bytes // 10} "):
        given = f"tokens.kind={kind} {first}"
        try:
            check_bytes(n_bytes, params(given))
        except CorpusError as error:
            line = str(error).partition('SET="')[2].rstrip('"')
            check_bytes(n_bytes, params(f"{given} {line}"))


@pytest.mark.parametrize("overrides", ["", "data.block_bytes=300", "judging.window=1000", "model.block_size=9999"])
def test_as_much_text_as_is_asked_for_is_enough(overrides: str) -> None:
    enough = int(refusal(3000, overrides).partition("bring at least ")[2].split(" ")[0])
    check_bytes(enough, params(overrides))


@pytest.mark.parametrize(
    ("n_bytes", "overrides", "said"),
    [
        (3000, "", "fewer than 10 blocks of data.block_bytes=4096"),
        (9000, "data.block_bytes=900", "the validation split holds 6 windows of judging.window=128 bytes"),
        (1200, "data.block_bytes=64", "the critic split holds 128 tokens where model.block_size=128 needs 129"),
        (10**6, "judging.held_out_bytes=500", "judging.window=128 bytes where judges need 8"),
    ],
)
def test_the_split_and_the_parameter_are_named(n_bytes: int, overrides: str, said: str) -> None:
    assert said in refusal(n_bytes, f"tokens.kind=bytes {overrides}")


def test_the_default_text_and_ten_blocks_of_it_are_enough() -> None:
    check_bytes(374_205, params())
    check_bytes(40_960, params())


BLOCK = 64
GAME = "adversarial.tilt.prompt_length=1 adversarial.gan.prompt_length=1 adversarial.gan.sequence_length=2"
BYTES = params(f"tokens.kind=bytes data.block_bytes={BLOCK} {GAME}")


def sizes(content: bytes) -> dict[Split, int]:
    counted = Counter[Split]()
    for split, block in cut_blocks(content[start : start + BLOCK] for start in range(0, len(content), BLOCK)):
        counted[split] += len(block)
    return dict(counted)


@given(phrase=st.lists(st.sampled_from("aé日😀"), min_size=1, max_size=40).map("".join), n_bytes=st.integers(640, 1300))
def test_a_text_whose_splits_are_just_long_enough_is_not_refused(phrase: str, n_bytes: int) -> None:
    """Wherever its characters have moved the cuts. A byte is a token, and the context is the longest that fits."""
    content = (phrase.encode() * n_bytes)[:n_bytes].decode(errors="ignore").encode().ljust(640)
    held = sizes(content)
    context = min(held["train"], held["critic"], held["validation"]) - 1
    window = (min(held["validation"], held["test"]) - min(48, context // 2)) // 8
    given = room._changed(BYTES, {"model.block_size": context, "judging.window": window})
    assert room._fault(given, {split: room.Estimated(size, 1.0) for split, size in held.items()}) is None
    check_bytes(len(content), given)


def test_the_text_before_the_judges_windows_may_be_shorter_than_on_average() -> None:
    """A prompt is of 12 tokens where they hold 4 bytes on average, here of the 12 that hold one."""
    given = params("data.block_bytes=1036 adversarial.gan.sequence_length=32")
    ids = np.array([0] * 12 + [1] * 256, np.uint16)  # 12 bytes, then 8 windows of 128
    held: dict[Split, MeasuredRoom] = {
        split: MeasuredRoom(n * 1036, Shards([np.tile(ids, n)]), np.array([1, 4]))
        for split, n in {"train": 7, "critic": 1, "validation": 1, "test": 1}.items()
    }
    assert room._fault(given, held) is None
    check_bytes(10 * 1036, given)


def test_no_more_of_a_long_text_is_read_than_its_first_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards are counted, never joined: they may be larger than memory."""
    monkeypatch.setattr(ids_on_disk, "SHARD_TOKENS", 1000)
    n_bytes: dict[Split, int] = {"train": 30_000, "critic": 5000, "validation": 5000, "test": 5000}
    for split in SPLITS:
        save_ids(tmp_path, split, [np.full(n_bytes[split], 97, np.uint16)], 257)
    ByteTokenizer().save(tmp_path / "tokenizer.json")
    about = {"corpus_sha256": "", "test_sha256": "", "block_bytes": 1000}
    write_json(tmp_path / "meta.json", {"bytes": n_bytes, "tokens": n_bytes, **about})
    data = TokenDataset.open(tmp_path)
    monkeypatch.setattr(np, "concatenate", None)
    check_tokens(params("tokens.kind=bytes"), data)
    whole = MeasuredRoom(5000, data.shards("test"), np.ones(257, np.int64))
    assert [whole.windows(width, 48, 5000) for width in (600, 620, 5000)] == [8, 7, 0]
    with pytest.raises(CorpusError, match=r"the validation split holds 7 windows of .*judging.window=620 bytes"):
        check_tokens(params("tokens.kind=bytes judging.window=620"), data)


@given(bytes_N=st.lists(st.integers(1, 5), min_size=1, max_size=60), width=st.integers(1, 9), prompt=st.integers(1, 4))
def test_windows_lie_side_by_side_within_the_text(bytes_N: list[int], width: int, prompt: int) -> None:
    starts = window_starts(np.array(bytes_N), width, prompt, sum(bytes_N))
    begins = [sum(bytes_N[:start]) for start in starts]
    assert all(start >= prompt for start in starts)
    assert all(later - before >= width for before, later in pairwise(begins))
    assert all(begin + width <= sum(bytes_N) for begin in begins)
