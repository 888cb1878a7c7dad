"""Configurations in layers: one over another, and what --quick lays over both."""

from pathlib import Path

import pytest

from studies.adversarial.settings import Settings
from studies.core.command import STUDIES
from studies.core.configuration import read_configuration
from troupe.errors import ParamsError
from troupe.params import Count, Section

WHOLE = """about: made
seeds: 3
sizes: {train: 100, test: 10}
arms:
  one: {steps: 5}
quick:
  seeds: 1
  sizes: {train: 8}
"""
OVER = """over: whole.yaml
about: {what: shorter}
sizes: {train: 50}
arms:
  two: {steps: 1}
quick:
  sizes: {test: 2}
"""


class Sizes(Section):
    train: Count
    test: Count


class Steps(Section):
    steps: Count


class Made(Section):
    seeds: Count
    sizes: Sizes
    arms: dict[str, Steps]


def read(folder: Path, name: str, quick: bool = False) -> object:
    return read_configuration(folder / name, Made, quick).model_dump()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "whole.yaml").write_text(WHOLE)
    (tmp_path / "short.yaml").write_text(OVER)
    return tmp_path


def test_a_configuration_over_another_holds_what_differs(folder: Path) -> None:
    one, two = {"one": {"steps": 5}}, {"two": {"steps": 1}}
    assert read(folder, "whole.yaml") == {"seeds": 3, "sizes": {"train": 100, "test": 10}, "arms": one}
    assert read(folder, "short.yaml") == {"seeds": 3, "sizes": {"train": 50, "test": 10}, "arms": one | two}


def test_quick_is_laid_over_all_of_it(folder: Path) -> None:
    one, two = {"one": {"steps": 5}}, {"two": {"steps": 1}}
    assert read(folder, "whole.yaml", quick=True) == {"seeds": 1, "sizes": {"train": 8, "test": 10}, "arms": one}
    assert read(folder, "short.yaml", quick=True) == {"seeds": 1, "sizes": {"train": 8, "test": 2}, "arms": one | two}


@pytest.mark.parametrize(
    ("name", "old", "new", "line"),
    [
        ("whole.yaml", "steps: 5", "steps: 0", "whole.yaml:5: arms.one.steps: Input should be greater than or equal"),
        ("short.yaml", "steps: 1", "step: 1", "short.yaml:5: arms.two.step: unknown parameter; remove it"),
        (
            "short.yaml",
            "test: 2",
            "test: many",
            "short.yaml:7: sizes.test: Input should be a valid integer",
        ),
        (
            "short.yaml",
            "  sizes: {test: 2}",
            "  - sizes",
            "short.yaml:6: quick: expected sections",
        ),
        (
            "short.yaml",
            "over: whole.yaml",
            "over: none.yaml",
            "none.yaml: no such file; configurations in its folder: short",
        ),
    ],
)
def test_a_fault_is_named_by_file_and_line(folder: Path, name: str, old: str, new: str, line: str) -> None:
    (folder / name).write_text((folder / name).read_text().replace(old, new))
    with pytest.raises(ParamsError) as raised:
        read(folder, name, quick=True)
    assert line in str(raised.value)


def test_the_short_study_differs_from_the_whole_one_in_no_arm() -> None:
    whole, short = (
        read_configuration(STUDIES / "adversarial" / f"{name}.yaml", Settings, quick=False)
        for name in ("adversarial", "adversarial-short")
    )
    assert short.arms == whole.arms
    assert short.seeds < whole.seeds
    assert short.likelihood.steps < whole.likelihood.steps
