from pathlib import Path

import pytest

from pipelines.graph import stage_names
from troupe.errors import TroupeError
from troupe.layout import MODEL_STAGES

ROOT = Path(__file__).parents[2]


def test_the_line_of_this_project() -> None:
    names = stage_names(ROOT / "dvc.yaml")
    assert names[0] == "inputs", "parameters are checked before anything is touched"
    assert names[-1] == "evaluate"
    assert [name for name in names if name in MODEL_STAGES] == list(MODEL_STAGES)


def order(folder: Path, text: str) -> list[str]:
    path = folder / "dvc.yaml"
    path.write_text(text, encoding="utf-8")
    return stage_names(path)


def test_every_kind_of_edge_orders(tmp_path: Path) -> None:
    """The file lists readers before writers; a dep, a folder around or inside an output, a params file and a metric."""
    stages = """
stages:
  e: {cmd: x, deps: [scores.json]}
  d: {cmd: x, params: [{made/params.yaml: [run]}], metrics: [scores.json: {cache: false}]}
  c: {cmd: x, deps: [b/inner], params: [run.seed], outs: [made]}
  b: {cmd: x, deps: [a/one.txt, elsewhere.txt], outs: [b]}
  a: {cmd: x, outs: [a]}
"""
    assert order(tmp_path, stages) == list("abcde")


def test_stages_free_of_each_other_keep_the_order_of_the_file(tmp_path: Path) -> None:
    assert order(tmp_path, "stages: {z: {cmd: x}, a: {cmd: x}, m: {cmd: x}}") == ["z", "a", "m"]


def test_a_name_that_begins_alike_is_not_a_folder(tmp_path: Path) -> None:
    text = "stages: {b: {cmd: x, deps: [data2]}, a: {cmd: x, outs: [data]}}"
    assert order(tmp_path, text) == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages: {a: {cmd: x, deps: [p], outs: [q]}, b: {cmd: x, deps: [q], outs: [p]}}", "wait for each other"),
        ("stages: [", "not a DVC graph"),
        ("vars: []", "not a DVC graph"),
    ],
)
def test_a_broken_graph_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(TroupeError, match=said) as caught:
        order(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_no_graph(tmp_path: Path) -> None:
    with pytest.raises(TroupeError, match="no such file"):
        stage_names(tmp_path / "dvc.yaml")
