"""What the pages conclude from figures, on figures made by hand."""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import finish
from benchmarks.shakespeare import reached, verdict
from benchmarks.switchhead import fastest, ratios
from benchmarks.switchhead import verdict as held
from benchmarks.training import bases

ABOUT = {"loss": 1.60, "reaches": 1.886, "share": 0.30, "parameters": 804096, "seconds": 180}


def result(**changes: Any) -> dict[str, Any]:
    looks = [(500, 1.95), (600, 1.88), (2000, 1.57)]
    return {"loss": 1.57, "looks": looks, "parameters": 804000, "seconds": 170.0} | changes


def test_bars_that_are_kept() -> None:
    assert verdict(ABOUT, [result(), result(loss=1.61)]) == [
        "loss, mean of 1.5700..1.6100: 1.5900; the bar is 1.6000: kept",
        "share of the tokens until 1.886, most: 30.0%; the bar is 30.0%: kept",
        "seconds, most: 170; the bar is 180: kept",
        "parameters, most: 804,000; the bar is 804,096: kept",
    ]


@pytest.mark.parametrize(
    ("bad", "which"),
    [
        (result(loss=1.64), "loss"),
        (result(looks=[(500, 1.95), (700, 1.88), (2000, 1.57)]), "share"),
        (result(looks=[(2000, 1.9)]), "share"),
        (result(seconds=181.0), "seconds"),
        (result(parameters=804097), "parameters"),
    ],
    ids=["loss", "late", "never", "slow", "large"],
)
def test_one_run_that_misses_one_bar(bad: dict[str, Any], which: str) -> None:
    """The others of three runs keep all bars; 1.64 takes the mean of two to 1.605."""
    missed = [line for line in verdict(ABOUT, [result(), bad]) if line.endswith("missed")]
    assert len(missed) == 1
    assert missed[0].startswith(which)


def test_a_configuration_without_a_bar_is_not_held_to_it() -> None:
    assert len(verdict({"loss": 1.5}, [result()])) == 1


def test_the_first_look_that_is_good_enough() -> None:
    assert reached(result(), 1.886) == 0.3
    assert reached(result(), 1.5) is None
    assert reached(result(), None) is None


def test_ratios_are_over_the_fastest_script_and_the_fastest_of_its_code() -> None:
    """Medians decide: the eager script has the fastest single round."""
    figures = {
        "nanoGPT's train.py, float32, eager": [1.0, 1.0, 9.0],
        "nanoGPT's train.py, float32, compiled": [2.0, 2.0, 2.0],
        "nanoGPT's model.py, bfloat16, eager": [3.0, 3.0, 3.0],
        "troupe as GPT-2, bfloat16, eager": [4.0, 4.0, 4.0],
    }
    assert bases(figures) == ["nanoGPT's train.py, float32, compiled", "nanoGPT's model.py, bfloat16, eager"]


def test_one_base_where_the_script_is_the_fastest_and_none_without_nanogpt() -> None:
    own = {"nanoGPT's train.py, float32, eager": [2.0], "nanoGPT's model.py, bfloat16, eager": [1.0]}
    assert bases(own) == ["nanoGPT's train.py, float32, eager"]
    assert bases({"troupe as GPT-2, bfloat16, eager": [4.0]}) == []


def arguments(folder: Path, **changes: Any) -> Namespace:
    usual = {
        "name": "made",
        "title": "Made",
        "threads": 1,
        "busy": [3.0],
        "out": folder,
        "quick": False,
        "force": False,
    }
    return Namespace(**(usual | changes))


def test_a_page_is_refused_while_others_use_the_machine(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="others used 60 % of the machine"):
        finish(arguments(tmp_path, busy=[3.0, 60.0]), ["section"], [], [])
    assert not list(tmp_path.iterdir())
    finish(arguments(tmp_path, busy=[3.0, 60.0], force=True), ["section"], [], [])
    assert "- others: used 3, 60 % of the machine, round by round\n" in (tmp_path / "made.md").read_text()


def test_a_section_that_exits_does_not_lose_those_before_it(tmp_path: Path) -> None:
    def sections() -> Iterator[str]:
        yield "the first"
        raise SystemExit("no compiler")

    with pytest.raises(SystemExit, match="no compiler"):
        finish(arguments(tmp_path), sections(), ["a note"], [])
    page = (tmp_path / "made.md").read_text()
    assert "\nthe first\n" in page
    assert "no compiler" in page


def test_switchhead_is_held_to_the_best_arithmetic_of_each() -> None:
    """Medians 10 and 13; the ratios of the rounds are 1.5, 1.3 and 1.2."""
    figures = {
        "dense layer, float32, eager": [10.0, 10.0, 20.0],
        "dense layer, bfloat16, eager": [9.0, 9.0, 9.0],
        "SwitchHead dense, float32, eager": [1.0, 1.0, 1.0],
        "SwitchHead loop, float32, eager": [15.0, 13.0, 24.0],
    }
    assert fastest(figures, "SwitchHead") == "SwitchHead loop, float32, eager"
    assert ratios(figures) == [1.5, 1.3, 1.2]


@pytest.mark.parametrize(
    ("bar", "kept"),
    [
        ({"at_least": 1.3}, "kept"),
        ({"at_least": 1.31}, "missed"),
        ({"at_most": 1.3}, "kept"),
        ({"at_most": 1}, "missed"),
    ],
)
def test_a_bar_is_kept_or_missed_by_the_median(bar: dict[str, float], kept: str) -> None:
    assert held("speed", [1.5, 1.3, 1.2], **bar).endswith(kept)
    assert "1.3 times the dense layer's (1.2..1.5)" in held("speed", [1.5, 1.3, 1.2])
