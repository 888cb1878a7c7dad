"""The inputs stage: everything that can be wrong is found before anything is written."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from troupe.dependencies import code_digest
from troupe.files import read_json
from troupe.layout import CODE, EFFECTIVE_PARAMS, INITIAL, SOURCE
from troupe.params import load_params
from troupe.stages.inputs import inputs

SHIPPED = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with the shipped params.yaml and a text of ten small blocks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(SHIPPED.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "mine.txt").write_text("words " * 4000, encoding="utf-8")
    return tmp_path


def run(overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "troupe.stages.inputs"]
    return subprocess.run(command, env={"TROUPE_SET": overrides}, capture_output=True, text=True, check=False)


def test_it_writes_the_parameters_of_this_run_and_what_the_source_holds() -> None:
    assert run("data.source=mine.txt data.block_bytes=64 pretrain.steps=7").returncode == 0
    written = load_params(EFFECTIVE_PARAMS)
    assert (written.data.source, written.data.block_bytes, written.pretrain.steps) == ("mine.txt", 64, 7)
    assert load_params(Path("params.yaml")).pretrain.steps != 7, "the user's file stays as it was"
    source = read_json(SOURCE)
    assert (source["kind"], source["files"], source["bytes"]) == ("files", ["mine.txt"], 24_000)
    assert source["sha256"] == hashlib.sha256(b"words " * 4000).hexdigest()
    assert read_json(INITIAL) == {"init_from": "scratch"}
    assert read_json(CODE)["pretrain"] == code_digest("troupe.stages.pretrain") != read_json(CODE)["moe"]


def test_documents_that_repeat_others_are_reported(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "copy.txt").write_text((workspace / "mine.txt").read_text())
    inputs(load_params(Path("params.yaml"), ["data.source=*.txt", "data.block_bytes=64"]))
    assert "repeat others: 1 (24,000 bytes)" in capsys.readouterr().out
    source = read_json(SOURCE)
    assert (source["bytes"], source["files"]) == (24_000, ["copy.txt", "mine.txt"])


def test_changed_text_changes_the_digest(workspace: Path) -> None:
    params = load_params(Path("params.yaml"), ["data.source=mine.txt", "data.block_bytes=64"])
    inputs(params)
    before = read_json(SOURCE)["sha256"]
    inputs(params)
    assert read_json(SOURCE)["sha256"] == before
    (workspace / "mine.txt").write_text("Words " + "words " * 3999)
    inputs(params)
    assert read_json(SOURCE)["sha256"] != before


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ("data.source=absent.txt", "data.source 'absent.txt': no such file"),
        ("data.source=mine.txt", "24000 bytes, fewer than 10 blocks of data.block_bytes=4096; bring at least"),
        ("data.source=params.yaml", "params.yaml: data.source takes .txt, .md, .jsonl files only"),
        ("data.sauce=mine.txt", "data.sauce: unknown parameter"),
        ("data.source=mine.txt data.block_bytes=64 pretrain.init_from=nowhere", "'nowhere': no such folder"),
        ("model.n_embd=190", "n_embd (190) must be divisible by n_head (4)"),
    ],
)
def test_a_fault_is_one_line_and_nothing_is_written(workspace: Path, overrides: str, complaint: str) -> None:
    ended = run(overrides)
    assert ended.returncode == 2
    assert complaint in ended.stderr
    assert ended.stderr.startswith("inputs: ")
    assert ended.stderr.count("\n") == 1
    assert not (workspace / "artifacts").exists()
