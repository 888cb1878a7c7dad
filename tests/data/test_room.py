"""What a text is too short for is refused from sizes, and the advice, followed to the letter, is enough."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.data.room import check_bytes, window_starts
from troupe.errors import CorpusError
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


@pytest.mark.parametrize(
    "overrides", ["", "data.block_bytes=300", "evaluate.judge_window=1000", "model.block_size=9999"]
)
def test_as_much_text_as_is_asked_for_is_enough(overrides: str) -> None:
    enough = int(refusal(3000, overrides).partition("bring at least ")[2].split(" ")[0])
    check_bytes(enough, params(overrides))


@pytest.mark.parametrize(
    ("n_bytes", "overrides", "said"),
    [
        (3000, "", "fewer than 10 blocks of data.block_bytes=4096"),
        (9000, "data.block_bytes=900", "the validation split holds 6 windows of evaluate.judge_window=128 bytes"),
        (1200, "data.block_bytes=64", "the critic split holds 128 tokens where model.block_size=128 needs 129"),
        (10**6, "evaluate.held_out_bytes=500", "judge_window=128 bytes where judges need 8"),
    ],
)
def test_the_split_and_the_parameter_are_named(n_bytes: int, overrides: str, said: str) -> None:
    assert said in refusal(n_bytes, f"tokens.kind=bytes {overrides}")


def test_the_default_text_and_ten_blocks_of_it_are_enough() -> None:
    check_bytes(374_205, params())
    check_bytes(40_960, params())


@given(bytes_N=st.lists(st.integers(1, 5), min_size=1, max_size=60), width=st.integers(1, 9), prompt=st.integers(1, 4))
def test_windows_lie_side_by_side_within_the_text(bytes_N: list[int], width: int, prompt: int) -> None:
    starts = window_starts(np.array(bytes_N), width, prompt, sum(bytes_N))
    begins = [sum(bytes_N[:start]) for start in starts]
    assert all(start >= prompt for start in starts)
    assert all(later - before >= width for before, later in pairwise(begins))
    assert all(begin + width <= sum(bytes_N) for begin in begins)
