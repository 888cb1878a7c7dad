"""The corpus stage: it takes the text that the inputs stage saw, and no other."""

from pathlib import Path

import pytest

from tests.splits import split_text
from troupe.data.corpus import read_manifest
from troupe.errors import ArtifactError, CorpusError
from troupe.files import read_json
from troupe.layout import CORPUS, SOURCE
from troupe.params import Params, load_params
from troupe.stages.corpus import corpus
from troupe.stages.inputs import inputs

SHIPPED = Path(__file__).parents[2] / "params.yaml"


def params(source: str, block_bytes: int) -> Params:
    return load_params(SHIPPED, [f"data.source={source}", f"data.block_bytes={block_bytes}"])


@pytest.fixture(autouse=True)
def _in_an_empty_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_default_corpus() -> None:
    given = params("python-docs", 4096)
    inputs(given)
    corpus(given)
    manifest = read_manifest(CORPUS)
    assert manifest["sha256"] == read_json(SOURCE)["sha256"]
    assert manifest["licence"].startswith("PSF-2.0")
    assert "assert" in split_text(CORPUS, "train")
    shares = {split: facts["bytes"] / manifest["bytes"] for split, facts in manifest["splits"].items()}
    assert shares == pytest.approx({"train": 0.7, "critic": 0.1, "validation": 0.1, "test": 0.1}, abs=0.02)


def test_the_test_split_of_the_default_corpus_does_not_stand_in_what_networks_learn_from() -> None:
    """The split is only as clean as the text: of 64-byte pieces of test text, hardly any recur in the others."""
    given = params("python-docs", 4096)
    inputs(given)
    corpus(given)
    test, learned = split_text(CORPUS, "test"), [split_text(CORPUS, split) for split in ("train", "critic")]
    pieces = {text[i : i + 64] for text in learned for i in range(len(text) - 63)}
    repeated = sum(test[i : i + 64] in pieces for i in range(len(test) - 63)) / (len(test) - 63)
    assert repeated < 0.03


def test_a_text_edited_after_the_inputs_stage_is_refused_and_nothing_is_written() -> None:
    text = Path("mine.txt")
    text.write_text("words " * 4000)
    given = params("mine.txt", 64)
    inputs(given)
    text.write_text("other " * 4000)
    with pytest.raises(CorpusError, match="the inputs stage saw"):
        corpus(given)
    assert not list(CORPUS.iterdir())


def test_without_the_inputs_stage_it_says_what_to_run() -> None:
    with pytest.raises(ArtifactError, match=r"source\.json: no such file; run"):
        corpus(params("python-docs", 4096))
