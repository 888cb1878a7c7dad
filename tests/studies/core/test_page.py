"""What a study says of its seeds, by hand."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from studies.core.command import STUDIES, start
from studies.core.page import publish, table
from studies.core.statistics import estimate


def test_an_interval_by_hand() -> None:
    """Mean 2, standard deviation 1, 3 seeds: 4.303 (Student's t, 2 degrees of freedom, 97.5 %) / sqrt 3 = 2.484."""
    found = estimate([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.half == pytest.approx(2.4841, abs=1e-4)
    assert f"{found:+.3f}" == "+2.000 ± 2.484"


def test_paired_differences_forget_what_seeds_have_in_common() -> None:
    ours, theirs = [1.0, 5.0, 9.0], [1.5, 5.5, 9.5]
    found = estimate([a - b for a, b in zip(ours, theirs, strict=True)])
    assert (found.mean, found.half) == (-0.5, 0.0)


def test_one_seed_has_no_interval() -> None:
    assert f"{estimate([1.25]):.2f}" == "1.25"


def test_the_command_line() -> None:
    usual = start("moe", "Title", [])
    assert (usual.config, usual.name, usual.out) == (STUDIES / "moe" / "moe.yaml", "moe", STUDIES / "moe" / "results")
    own = start("moe", "Title", ["--config", "mine/small.yaml", "--quick"])
    assert (own.config, own.name, own.out) == (Path("mine/small.yaml"), "small", None)
    with pytest.raises(SystemExit):
        start("moe", "Title", ["--seeds", "0"])


def test_a_page_says_where_its_figures_are_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = start("moe", "Made", ["--out", str(tmp_path)])

    def draw() -> Figure:
        figure = Figure()
        figure.add_subplot(title="loss")
        return figure

    rows = table("arm", ["loss", "parameters"], {"dense": ["3.1", "1,000"]})
    publish(args, [rows], draw, [{"arm": "dense", "loss": 3.1}], ["torch"])
    page = (tmp_path / "moe.md").read_text()
    assert page in capsys.readouterr().out
    for fact in ("machine", "versions", "command", "commit", "date"):
        assert f"\n- {fact}: " in page
    assert page.endswith("| arm | loss | parameters |\n|---|---:|---:|\n| dense | 3.1 | 1,000 |\n")
    assert (tmp_path / "moe.jsonl").read_text() == '{"arm": "dense", "loss": 3.1}\n'
    assert "loss" in (tmp_path / "moe.svg").read_text()
