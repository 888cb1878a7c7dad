"""The mixture: that every token is predicted once, from its window or its block; all of it at tiny size."""

from pathlib import Path

import numpy as np
import pytest
import torch

from studies.core.command import STUDIES
from studies.core.configuration import read_configuration
from studies.core.text import ALL_PARTS, Text, load_text, prepare_text
from studies.mixture.__main__ import main
from studies.mixture.arms import ALONE, BLOCK, COUNTED_TOO, NETWORK, PARTS, Bench, block_begins, only, shortened
from studies.mixture.settings import Settings
from tests.studies.whole import run_study, shipped, write_text
from troupe.data.corpus import Split, split_blocks
from troupe.data.tokenizer import FILE, load_tokenizer
from troupe.errors import ParamsError
from troupe.evaluation.comparison import bits_per_byte, nats
from troupe.models.config import GPTConfig
from troupe.models.contexts import SOURCES
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.mixing import Mixture, init_mixture
from troupe.params import DataParams, TokensParams
from troupe.seeding import generator


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of a few blocks, prepared as the study prepares it."""
    folder = tmp_path_factory.mktemp("mixture")
    write_text(folder / "text.txt", 3000)
    data = DataParams(source=str(folder / "text.txt"), block_bytes=300)
    return folder / prepare_text(data, TokensParams(kind="bpe", vocab_size=270), folder, ALL_PARTS)


@pytest.fixture(scope="module")
def bench(where: Path) -> Bench:
    text, tokenizer = load_text(where), load_tokenizer(where / FILE)
    network = GPT(GPTConfig(text.vocab_size, block_size=16, n_layer=1, n_head=2, n_embd=8, dropout=0.0)).eval()
    init_gpt2(network, generator(1, "study"))
    counted = Mixture.counted(text.ids["train"], 3, tokenizer)
    sizes = np.array([len(tokenizer.decode_bytes([token])) for token in range(tokenizer.vocab_size)])
    begins: dict[Split, list[int]] = {"test": block_begins(where, "test", sizes[text.ids["test"]])}
    return Bench(text, network, begins, counted, counted, updates=2, seed=1)


def test_every_token_but_the_first_is_predicted_once_in_windows_and_in_blocks(bench: Bench) -> None:
    for read in (bench.in_windows, bench.in_blocks):
        found = torch.cat([y_M for _, y_M in read(bench.counted, "test")])
        assert torch.equal(found, bench.tokens("test")[1:])


def test_a_mixture_of_the_network_alone_costs_what_an_evaluation_finds(bench: Bench) -> None:
    init_mixture(bench.counted, generator(2, "study"))
    bench.counted.choose.bias.data[2 * SOURCES : 2 * SOURCES + 2] = torch.tensor([1.0, 0.0])
    found = bench.bits(bench.counted, only(list(bench.in_windows(bench.counted, "test")), 0))
    expected = nats(bench.network, bench.text.ids["test"], stride=8)
    assert found == pytest.approx(bits_per_byte(expected, bench.text.n_bytes["test"]), rel=1e-5)


def test_counts_of_a_block_begin_at_its_border(bench: Bench) -> None:
    length_N = torch.cat([evidence.length_M for evidence, _ in bench.in_blocks(bench.counted, "test")])
    assert (length_N == 0).nonzero().flatten().tolist() == bench.begins["test"]
    assert len(bench.begins["test"]) > 1


def test_a_block_begins_with_the_first_token_that_is_all_its_own(where: Path, bench: Bench) -> None:
    tokenizer, ids = load_tokenizer(where / FILE), bench.text.ids["test"].tolist()
    border = 0
    for begin, block in zip(bench.begins["test"], split_blocks(where, "test"), strict=False):
        before = len(tokenizer.decode_bytes(ids[:begin]))
        assert border <= before
        assert begin == 0 or len(tokenizer.decode_bytes(ids[: begin - 1])) < border
        border += len(block.encode())


def test_a_shorter_text_has_bytes_in_proportion() -> None:
    ids = {"train": np.zeros(100, np.uint16), "test": np.zeros(100, np.uint16)}
    found = shortened(Text(300, ids, {"train": 200, "test": 200}), 25)  # type: ignore[arg-type]
    assert found.n_bytes == {"train": 200, "test": 50}


def test_one_text_is_taken_or_refused() -> None:
    settings = read_configuration(STUDIES / "mixture" / "mixture.yaml", Settings, quick=False)
    one = settings.only("python-docs")
    assert (list(one.texts), list(one.bars)) == (["python-docs"], ["python-docs"])
    with pytest.raises(ParamsError, match="--text nowhere: the configuration has python-docs, tiny-shakespeare"):
        settings.only("nowhere")


@pytest.mark.slow
def test_the_whole_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "text.txt", 3000)
    tree = shipped("mixture") | {"quick": {}, "updates": 2, "held_out_tokens": 200}
    tree |= {"texts": {"words": {"source": "text.txt", "block_bytes": 512}}, "bars": {"words": {BLOCK: 9.0}}}
    tree["tokens"]["vocab_size"] = 270
    tree["model"] |= {"block_size": 16, "n_layer": 1, "n_embd": 16}
    tree["train"] |= {"steps": 2, "eval_interval": 2, "batch_size": 2, "warmup_steps": 0}
    found = run_study("mixture", main, tree, ["Part by part", "Costs"], tmp_path, monkeypatch, seeds=2)
    assert len(found) == 2 * 2
    assert {NETWORK, *PARTS, COUNTED_TOO, BLOCK, ALONE} < found["words, mixture", 1]["bits"].keys()
    assert "### Verdict\n\n- words, + text of the block: " in (tmp_path / "out" / "small.md").read_text()
