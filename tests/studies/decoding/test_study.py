"""The decoding study: its measure of similarity by closed forms, its rule by hand, and all of it on a tiny model."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from studies.core.command import STUDIES
from studies.core.configuration import read_configuration
from studies.decoding.__main__ import main
from studies.decoding.arms import REAL
from studies.decoding.frontier import SCALE, area, similarity
from studies.decoding.page import best
from studies.decoding.settings import Settings
from tests.studies.whole import run_study, shipped, write_text
from troupe.bundles.bundle import save_bundle
from troupe.data.corpus import write_corpus
from troupe.data.source import describe, read_pieces
from troupe.data.tokenizer import ByteTokenizer
from troupe.errors import ArtifactError, ParamsError
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2

LETTERS = ("abcdefg ", "tuvwxyz ")


def texts(letters: str, n: int, seed: int) -> list[str]:
    picks = torch.randint(len(letters), (n, 60), generator=torch.Generator().manual_seed(seed)).tolist()
    return ["".join(letters[pick] for pick in one) for one in picks]


def test_equal_shares_have_the_whole_area() -> None:
    for shares in ([0.5, 0.5], [0.1, 0.2, 0.7]):
        assert area(np.array(shares), np.array(shares)) == pytest.approx(1.0)


def test_the_area_of_two_distributions_by_numeric_integration() -> None:
    """The frontier on a far finer grid, integrated by another rule."""
    p, q = np.array([0.8, 0.2]), np.array([0.4, 0.6])
    w = np.linspace(0, 1, 200_001)[:, None]
    r = w * p + (1 - w) * q
    x = np.exp(-SCALE * (q * np.log(q / r)).sum(1))
    y = np.exp(-SCALE * (p * np.log(p / r)).sum(1))
    left = float(x.min())  # from the axis to the first point the frontier is a line at height 1
    exact = left + float(np.sum((y[1:] + y[:-1]) / 2 * np.abs(np.diff(x))))
    assert area(p, q) == pytest.approx(exact, abs=1e-3)  # 101 points of a curve without corners
    assert area(p, q) == pytest.approx(area(q, p), abs=1e-9)


def test_the_farther_apart_the_less_area_down_to_none() -> None:
    p = np.array([0.5, 0.5])
    found = [area(p, np.array([0.5 + by, 0.5 - by])) for by in (0.0, 0.1, 0.3, 0.49)]
    assert found == sorted(found, reverse=True)
    assert area(np.array([1 - 1e-9, 1e-9]), np.array([1e-9, 1 - 1e-9])) < 0.05


def test_texts_of_one_source_are_similar_and_of_two_are_not() -> None:
    one, again, other = texts(LETTERS[0], 100, 1), texts(LETTERS[0], 100, 2), texts(LETTERS[1], 100, 3)
    mixed = [*again[:50], *other[:50]]
    same, half, none = (similarity(one, those) for those in (again, mixed, other))
    assert none < half < same
    assert none < 0.1
    assert same > 0.8
    assert similarity(one, again) == same, "equal arguments give equal figures"


def runs(detection: list[float], likeness: float) -> list[dict[str, float]]:
    return [{"detection": one, "similarity": likeness} for one in detection]


def test_the_rule_takes_the_most_similar_of_those_that_are_not_clearly_detected_more() -> None:
    results = {
        REAL: runs([0.5, 0.5, 0.5], 1.0),
        "greedy": runs([0.9, 0.91, 0.9], 0.99),  # clearly detected more than the least
        "a": runs([0.60, 0.62, 0.61], 0.2),
        "b": runs([0.61, 0.61, 0.62], 0.4),  # not clearly: 0.01, 0.00 - 0.01, 0.01
    }
    assert best(results) == "b"
    saturated = {REAL: runs([0.5], 1.0), "greedy": runs([1.0], 0.1), "min-p": runs([1.0], 0.3)}
    assert best(saturated) == "min-p", "where all are always detected, it is similarity that decides"


def test_a_strategy_out_of_range_is_refused_by_name(tmp_path: Path) -> None:
    text = (STUDIES / "decoding" / "decoding.yaml").read_text().replace("{top_p: 0.75}", "{top_p: 1.75}")
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(ParamsError, match=r"top-p 0\.75: top_p must be above 0"):
        read_configuration(tmp_path / "wrong.yaml", Settings, quick=False)


def workspace(folder: Path) -> None:
    """A corpus, the parameters of a run and a model that has learned nothing, as the pipeline leaves them."""
    write_text(folder / "text.txt", 8000)
    source = str(folder / "text.txt")
    write_corpus(folder / "artifacts" / "corpus", read_pieces(source), source, describe(source), 1024)
    (folder / "artifacts" / "params.yaml").write_text(Path("params.yaml").read_text())
    model = GPT(GPTConfig(256, block_size=32, n_layer=1, n_head=2, n_embd=16, dropout=0.0))
    init_gpt2(model, torch.Generator().manual_seed(0))
    save_bundle(folder / "artifacts" / "pretrain", model, ByteTokenizer(), {})


@pytest.mark.slow
def test_the_whole_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage's model: every strategy beside real text, greedy and top-k 1 the same, finished jobs kept."""
    workspace(tmp_path)
    tree = shipped("decoding") | {"quick": {}, "texts": 16, "shown_tokens": 8, "width": 32}
    kept = ("greedy", "temperature 1.0", "temperature 1.5", "top-k 1", "repetition penalty 1.2")
    tree["strategies"] = {name: tree["strategies"][name] for name in kept}
    titles = ["Every strategy beside real text", "One prompt"]
    found = run_study("decoding", main, tree, titles, tmp_path, monkeypatch, seeds=2, more="--model pretrain")
    assert len(found) == 2 * (1 + len(kept))
    for seed in (1, 2):
        one, same = ({**found[name, seed], "arm": "", "tokens_per_second": 0} for name in ("greedy", "top-k 1"))
        assert one == same
        assert found["greedy", seed]["distinct_4"] <= found["temperature 1.0", seed]["distinct_4"]
        assert all(math.isfinite(found[name, seed]["bits"]) for name in (*kept, REAL))
        assert found[REAL, seed]["detection"] < found["temperature 1.5", seed]["detection"]
    assert (tmp_path / "reports" / "studies" / "small.html").is_file()


@pytest.mark.parametrize(
    ("there", "asked", "line"),
    [(False, "pretrain", "corpus"), (True, "moe", "moe: no such model"), (True, "nowhere/else", "nowhere/else")],
    ids=["no text", "no model", "no folder"],
)
def test_what_is_missing_is_named(
    there: bool, asked: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if there:
        workspace(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("sys.argv", ["studies.decoding", "--quick", "--model", asked, "--work", "work"])
    with pytest.raises(ArtifactError, match=line):
        main()
