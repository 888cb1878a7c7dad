from pathlib import Path

import pytest

from pipelines.repro import stage_names
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


def test_stages_keep_the_order_of_the_file(tmp_path: Path) -> None:
    assert order(tmp_path, "stages: {z: {cmd: x}, a: {cmd: x}, m: {cmd: x}}") == ["z", "a", "m"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages: [", "not a DVC graph"),
        ("vars: []", "not a DVC graph"),
        ("stages: [a, b]", "not a DVC graph"),
    ],
)
def test_a_broken_graph_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(TroupeError, match=said) as caught:
        order(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_no_graph(tmp_path: Path) -> None:
    with pytest.raises(TroupeError, match="no such file"):
        stage_names(tmp_path / "dvc.yaml")
