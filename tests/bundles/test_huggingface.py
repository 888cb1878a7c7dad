"""Folders in Hugging Face's form: the variants of naming and storing that occur, and what is refused in one line."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.conftest import ROOT
from troupe.bundles.export import export_model
from troupe.bundles.huggingface import import_model
from troupe.data.tokenizer import ByteTokenizer
from troupe.errors import ArtifactError
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.ngrams import NGrams
from troupe.models.switchhead import SwitchHead, SwitchHeadConfig
from troupe.models.tilted import tilted
from troupe.params import load_params

CONFIG = GPTConfig(vocab_size=256, block_size=16, n_layer=2, n_head=3, n_embd=12, dropout=0.2)


@pytest.fixture
def model() -> GPT:
    model = GPT(CONFIG)
    init_gpt2(model, torch.Generator().manual_seed(0))
    return model.eval()


@pytest.fixture
def folder(model: GPT, tmp_path: Path) -> Path:
    export_model(tmp_path / "gpt", model, ByteTokenizer())
    return tmp_path / "gpt"


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same(one: GPT, other: GPT) -> None:
    assert one.config == other.config
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_names_without_prefix_masks_and_a_copy_of_the_head_are_read(folder: Path, model: GPT) -> None:
    """As OpenAI's checkpoints lie on the hub, and as older versions of transformers saved them."""
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in weights(folder).items()}
    for layer in range(CONFIG.n_layer):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 16, 16).tril()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    tensors["lm_head.weight"] = tensors["wte.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    assert_same(import_model(folder), model)


def test_shards_are_read_together(folder: Path, model: GPT) -> None:
    names = sorted(tensors := weights(folder))
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, inside in shards.items():
        save_file({name: tensors[name] for name in inside}, folder / shard)
    places = {name: shard for shard, inside in shards.items() for name in inside}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "model.safetensors").unlink()
    assert_same(import_model(folder), model)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"model-00002-of-00002\.safetensors: not the safetensors of a model"):
        import_model(folder)


def test_half_precision_becomes_float32(folder: Path, model: GPT) -> None:
    save_file({name: tensor.bfloat16() for name, tensor in weights(folder).items()}, folder / "model.safetensors")
    assert_same(import_model(folder), model.bfloat16().float())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "gpt_neo"),
        ("activation_function", "relu"),
        ("activation_function", "gelu"),
        ("layer_norm_epsilon", 1e-6),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
        ("tie_word_embeddings", False),
        ("n_inner", 24),
    ],
)
def test_another_architecture_is_refused_by_the_name_of_its_field(folder: Path, field: str, value: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(ArtifactError, match=rf"config\.json: {field} is ") as refusal:
        import_model(folder)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"transformer.ln_f.bias": None}, "there is no tensor ln_f.bias"),
        ({"transformer.ln_f.bias": torch.zeros(13)}, r"ln_f\.bias is \(13,\), which config\.json does not describe"),
        ({"transformer.h.0.attn.rotary": torch.zeros(1)}, r"h\.0\.attn\.rotary is no part of GPT-2"),
        ({"lm_head.weight": torch.zeros(256, 12)}, "is not wte.weight, though the head is tied"),
    ],
)
def test_tensors_that_are_not_gpt2s_are_refused(folder: Path, change: dict[str, Tensor | None], complaint: str) -> None:
    tensors = {name: tensor for name, tensor in (weights(folder) | change).items() if tensor is not None}
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ArtifactError, match=complaint):
        import_model(folder)


def test_a_broken_file_and_a_pickle_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"model\.safetensors: not the safetensors of a model"):
        import_model(folder)
    path.rename(folder / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"pickles are never read.*save_pretrained"):
        import_model(folder)


def test_experts_cannot_be_exported(tmp_path: Path) -> None:
    experts = GPT(CONFIG, attention=partial(SwitchHead, experts=SwitchHeadConfig(3, 4, 2, 1, "sigmoid")))
    with pytest.raises(ArtifactError, match=r"experts cannot be exported.*give --model pretrain"):
        export_model(tmp_path / "new", experts, ByteTokenizer())
    assert not (tmp_path / "new").exists()


def test_a_tilt_cannot_be_exported(tmp_path: Path) -> None:
    """Though the network in it is GPT-2's: without its tilt it would write other text."""
    model = tilted(GPT(CONFIG), NGrams.counted(np.arange(50) % CONFIG.vocab_size, 2, CONFIG.vocab_size))
    with pytest.raises(ArtifactError, match=r"a tilt and its n-grams cannot be exported.*give --model pretrain"):
        export_model(tmp_path / "new", model, ByteTokenizer())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("positions", "rotary"),
        ("norm", "rms"),
        ("activation", "relu2"),
        ("qk_norm", True),
        ("conv", 3),
        ("bias", False),
    ],
)
def test_departures_from_gpt2_cannot_be_exported(field: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=rf"\(model\.{field}={str(value).lower()}\)"):
        export_model(tmp_path / "new", GPT(replace(CONFIG, n_embd=18, **{field: value})), ByteTokenizer())
    assert not (tmp_path / "new").exists()


def test_what_to_train_instead_can_be_pasted(tmp_path: Path) -> None:
    """The shipped recipe is a Qwen3 but for its convolutions; with what the message says it makes one."""
    small = ["model.n_layer=1", "model.n_head=2", "model.n_embd=12"]

    def export(overrides: Sequence[str]) -> None:
        model = load_params(ROOT / "params.yaml", [*overrides, *small]).model
        export_model(tmp_path / "new", GPT(GPTConfig(vocab_size=256, **model.model_dump())), ByteTokenizer())

    with pytest.raises(ArtifactError) as refused:
        export([])
    message = str(refused.value)
    departures = re.search(r"\((.*)\)", message)
    assert departures
    assert departures[1] == "model.conv=4"
    assert "\n" not in message
    export(message.split('SET="')[1].rstrip('"').split())
    assert (tmp_path / "new/config.json").exists()


def test_nothing_is_overwritten(folder: Path, model: GPT) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ArtifactError, match="exists already; name a new or an empty folder"):
        export_model(folder, model, ByteTokenizer())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
