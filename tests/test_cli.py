"""`troupe describe` and `troupe export`, as a person uses them."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import GPT2, ROOT
from troupe import cli
from troupe.adversarial.texts import AT_ONCE
from troupe.bundles.bundle import save_bundle
from troupe.bundles.huggingface import import_model
from troupe.conversion.attention import convert
from troupe.data.bpe import make_tokenizer
from troupe.data.tokenizer import ByteTokenizer
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.ngrams import NGrams
from troupe.models.switchhead import SwitchHead, SwitchHeadConfig
from troupe.models.tilted import tilted
from troupe.seeding import generator

Run = Callable[..., str]


@pytest.fixture
def troupe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in a workspace, wide; give what it prints, errors too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["troupe", *words])
        with pytest.raises(SystemExit):
            cli.main()
        return "".join(capsys.readouterr())

    return run


def test_of_a_tilted_model_the_network_is_exported_and_a_line_says_what_stays_behind(troupe: Run) -> None:
    shape = {"positions": "rotary", "norm": "rms", "activation": "swiglu", "qk_norm": True, "bias": False}
    network = GPT(GPTConfig(256, 16, 1, 3, 12, 0.1, **shape)).eval()  # type: ignore[arg-type]
    experts = convert(network, SwitchHeadConfig(3, 4, 2, 1, "sigmoid"), "exact", generator(0, "cli"))
    whole = tilted(experts, NGrams.counted(np.arange(50) % 7, 2, 256))
    whole.tilt.data.fill_(0.3)
    save_bundle(Path("artifacts/adversarial"), whole, ByteTokenizer(), {"stage": "adversarial"})
    ids_BT = torch.randint(0, 256, (2, 16))
    pytest.importorskip("gguf")
    for form in ("huggingface", "gguf"):
        printed = troupe("export", "--model", "adversarial", "--format", form, form)
        assert "adversarial: its tilt and its n-grams stay behind" in printed
    theirs = AutoModelForCausalLM.from_pretrained("huggingface").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids_BT).logits, network(ids_BT), atol=1e-5, rtol=0)
        torch.testing.assert_close(import_model(Path("gguf/model.gguf")).eval()(ids_BT), network(ids_BT))
    assert "attention" in troupe("describe", "--model", "gguf/model.gguf")


@pytest.fixture
def model(troupe: Run) -> GPT:
    model = GPT(GPTConfig(vocab_size=256, block_size=16, n_layer=1, n_head=3, n_embd=12, dropout=0.1))
    init_gpt2(model, generator(0, "cli"))
    save_bundle(Path("artifacts/pretrain"), model, ByteTokenizer(), {})
    return model


def row(text: str, name: str) -> list[str]:
    """The cells of the first line of a table that has `name` in it."""
    line = next(line for line in text.splitlines() if name in line)
    return [cell.strip() for cell in line.strip("│ ").split("│")]


def test_an_exported_model_is_transformers_own(troupe: Run, model: GPT) -> None:
    assert "open it with" in troupe("export", "--model", "pretrain", "theirs")
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained("theirs"), AutoTokenizer.from_pretrained("theirs")
    ids = torch.tensor([tokenizer.encode("Größe 42")])
    assert ids.tolist() == [list("Größe 42".encode())]
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model.eval()(ids), atol=1e-5, rtol=0)
    assert "theirs: exists already" in troupe("export", "--model", "pretrain", "theirs")


def test_it_describes_a_model_and_its_export_alike(troupe: Run, model: GPT) -> None:
    """3 x 12^2 + 36 = 468 parameters, 432 MACs; 2 x 1 layer x 5 x 8 tokens x 12 x 4 bytes = 3840 of cache."""
    troupe("export", "theirs")
    own, theirs = (
        troupe("describe", "--model", name, "--batch", "5", "--context", "8") for name in ("pretrain", "theirs")
    )
    assert row(own, "query_key_value") == ["blocks.attention.query_key_value", "1", "468", "432", "432"]
    assert row(own, "all of these")[2] == f"{sum(p.numel() for p in model.parameters()):,}"
    assert "5 x 8 tokens, float32: 0.0 MiB" in own
    assert own.partition("┏")[2] == theirs.partition("┏")[2], "all but the name"


@pytest.mark.slow
def test_it_describes_what_parameters_ask_for(troupe: Run) -> None:
    """GPT-2: 124,439,808 parameters; keys and values of 12 layers x 1024 tokens x 768 x 4 bytes are 72 MiB."""
    size = "tokens.kind=gpt2 model.block_size=1024 model.n_layer=12 model.n_head=12 model.n_embd=768"
    said = troupe("describe", "--set", f"{size} {GPT2}", "--batch", "1")
    assert row(said, "all of these")[2] == "124,439,808"
    assert "1 x 1024 tokens, float32: 72.0 MiB" in said
    assert "blocks.attention.router" in said, "stage moe's model comes second"


def test_what_cannot_be_described_is_one_line(troupe: Run, model: GPT) -> None:
    assert "--context 17: pretrain sees 16 tokens" in troupe("describe", "--model", "pretrain", "--context", "17")
    assert "--vocab 9: pretrain has its own" in troupe("describe", "--model", "pretrain", "--vocab", "9")
    assert "nowhere: no such model; name a stage" in troupe("describe", "--model", "nowhere")
    assert "moe: no such model; name a stage" in troupe("describe", "--model", "moe")


def test_characters_are_counted_by_a_run_or_by_the_user(troupe: Run) -> None:
    """Embedding of V characters: 8 V parameters. Byte pairs that lie about say nothing of characters."""
    small = ("--set", "tokens.kind=chars model.n_layer=1 model.n_head=1 model.n_embd=8", "--batch", "1")
    assert row(troupe("describe", *small, "--vocab", "300"), "token_embedding")[2] == "2,400"
    assert "tokens.kind chars: the vocabulary is not known" in troupe("describe", *small)
    make_tokenizer("bytes", "", 0).save(Path("artifacts/tokens/tokenizer.json"))
    assert "tokens.kind chars: the vocabulary is not known" in troupe("describe", *small)
    make_tokenizer("chars", "abba", 0).save(Path("artifacts/tokens/tokenizer.json"))
    assert row(troupe("describe", *small), "token_embedding")[2] == f"{(2 + 256) * 8:,}"


def test_a_model_is_described_with_the_batch_of_its_own_stage(troupe: Run) -> None:
    """The adversarial stage trains by other means: no table of a training step, and its batch for the cache."""
    config = GPTConfig(vocab_size=256, block_size=16, n_layer=1, n_head=1, n_embd=8, dropout=0.0)
    experts = GPT(config, partial(SwitchHead, experts=SwitchHeadConfig(1, 8, 2, 1, "sigmoid")))
    for stage in ("moe", "adversarial"):
        save_bundle(Path("artifacts", stage), experts, ByteTokenizer(), {"stage": stage})
    sizes = "moe.batch_size=5 adversarial.gan.batch_size=47 adversarial.ddo.batch_size=37 adversarial.methods="
    moe = troupe("describe", "--model", "moe", "--set", f"{sizes}[gan]")
    assert "a training step of 5 x 16 tokens" in moe
    for methods, batch in {"[gan]": 47, "[ddo,tilt]": 37, "[tilt]": AT_ONCE, "[]": AT_ONCE}.items():
        adversarial = troupe("describe", "--model", "adversarial", "--set", sizes + methods)
        assert "a training step" not in adversarial
        assert f"{batch} x 16 tokens, float32" in adversarial
