"""Every benchmark runs from end to end at tiny size, and writes a page that says where its figures are from.

nanoGPT's part is run where NANOGPT names a checkout, as `make bench` has it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from troupe.data.download import mirrored
from troupe.models.layers import GPTConfig
from troupe.overlay import ParameterLayers
from troupe.params import ModelParams, Params, PretrainParams

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "benchmarks" / "configs").glob("*.yaml"))
SHAKESPEARE = pytest.mark.skipif(
    not any(path.is_file() for path in mirrored("tiny-shakespeare.txt")), reason="no tiny-shakespeare.txt here"
)


@pytest.mark.slow
def test_cost_against_size_writes_a_page(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.text_size", "--quick", "--out", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    assert "\n| 0.1 | " in (tmp_path / "text_size.md").read_text()


@pytest.mark.slow
@pytest.mark.servers
def test_serving_writes_a_page_with_all_servers_and_its_bars(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.serving", "--quick", "--threads", "1", "--out", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    page = (tmp_path / "serving.md").read_text()
    for row in ("| transformers serve, 1 client |", "| troupe serve, 16 clients |", "| no errors | 0 | cleared |"):
        assert row in page


@SHAKESPEARE
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "row"),
    [
        ("training", [], "| troupe as GPT-2, float32, eager |"),
        ("shakespeare", ["--configs", "nanogpt-cpu", "--seeds", "1"], "| 1 | 4."),  # near ln 65 = 4.17 after 4 steps
        ("tokenisation", [], "| tiktoken"),
        ("generation", [], "| transformers"),
        ("switchhead", [], "- key-value cache: 0.3333 times"),  # one head of three
    ],
    ids=["training", "shakespeare", "tokenisation", "generation", "switchhead"],
)
def test_it_writes_a_page(tmp_path: Path, name: str, options: list[str], row: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--out", str(tmp_path), *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    page = (tmp_path / f"{name}.md").read_text()
    for fact in ("machine", "threads", "others", "versions", "command", "commit", "date"):
        assert f"\n- {fact}: " in page
    assert row in page
    if name in ("tokenisation", "switchhead"):
        return  # nanoGPT has no part in it
    if checkout := os.environ.get("NANOGPT"):
        assert "| nanoGPT" in page
        assert checkout not in page
    else:
        assert "skipped: nanoGPT" in ended.stdout


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_is_valid(path: Path) -> None:
    layers = ParameterLayers(ROOT / "params.yaml", Params)
    layers.add_profile(path)
    ModelParams.model_validate(layers.values["model"])
    PretrainParams.model_validate(layers.values["pretrain"])
    if path.stem == "gpt2":
        dimensions = {"vocab_size": 65, "block_size": 8, "n_layer": 1, "n_head": 1, "n_embd": 8, "dropout": 0.0}
        assert GPTConfig(**(layers.values["model"] | dimensions)) == GPTConfig(**dimensions, bias=False)
    assert YAML(typ="safe").load(path.read_text(encoding="utf-8"))["about"]["what"]
