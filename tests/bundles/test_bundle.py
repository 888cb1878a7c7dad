"""A bundle comes back as it was saved, and a damaged one is refused with one line that names the file."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from troupe.bundles.architectures import load_bundle
from troupe.bundles.bundle import FILES, found_identity, identity, save_bundle
from troupe.conversion.attention import convert
from troupe.data.tokenizer import BytePairTokenizer, ByteTokenizer
from troupe.errors import ArtifactError, UnsupportedError
from troupe.files import read_json, sha256_file
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.switchhead import SwitchHead, SwitchHeadConfig

CONFIG = GPTConfig(vocab_size=256, block_size=8, n_layer=2, n_head=2, n_embd=8, dropout=0.1)
EXPERTS = SwitchHeadConfig(n_head=2, head_width=4, n_expert=3, top_k=2, router="sigmoid")


def dense(seed: int = 0) -> GPT:
    model = GPT(CONFIG)
    init_gpt2(model, torch.Generator().manual_seed(seed))
    return model.eval()


def with_experts() -> GPT:
    return convert(dense(), EXPERTS, "exact", torch.Generator().manual_seed(1))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    save_bundle(tmp_path, dense(), ByteTokenizer(), {"stage": "pretrain"})
    return tmp_path


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(("build", "architecture"), [(dense, "gpt2"), (with_experts, "switchhead")])
def test_round_trip(build: type, architecture: str, tmp_path: Path) -> None:
    model = build()
    sha256 = save_bundle(tmp_path, model, ByteTokenizer(), {"stage": "pretrain", "steps": 3})
    loaded = load_bundle(tmp_path)
    ids = torch.arange(8).unsqueeze(0)
    assert torch.equal(loaded.model(ids), model(ids))
    assert loaded.config["architecture"] == architecture
    assert loaded.config["provenance"] == {"stage": "pretrain", "steps": 3}
    assert loaded.sha256 == sha256 == found_identity(tmp_path)
    assert loaded.config["weights_sha256"] == sha256_file(tmp_path / "model.safetensors")
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("voilà")) == "voilà"
    assert not loaded.model.training


def test_experts_keep_their_router(tmp_path: Path) -> None:
    save_bundle(tmp_path, with_experts(), ByteTokenizer(), {})
    layer = load_bundle(tmp_path).model.blocks[0].attention
    assert isinstance(layer, SwitchHead)
    assert layer.experts == EXPERTS


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    first = save_bundle(tmp_path / "a", dense(), ByteTokenizer(), {"run": 1})
    again = save_bundle(tmp_path / "b", dense(), ByteTokenizer(), {"run": 2})
    other = save_bundle(tmp_path / "c", dense(seed=1), ByteTokenizer(), {"run": 1})
    assert first == again != other


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_missing_file_is_named(name: str, bundle: Path) -> None:
    (bundle / name).unlink()
    refused(bundle, f"{name}: no such file")


@pytest.mark.fault("one bit of the weights flipped: refused")
def test_one_flipped_bit_is_refused(bundle: Path) -> None:
    path = bundle / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(bundle, "model.safetensors: sha256 is")


def test_weights_of_another_model_are_refused(bundle: Path, tmp_path: Path) -> None:
    save_bundle(tmp_path / "other", dense(seed=1), ByteTokenizer(), {})
    (bundle / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    refused(bundle, "model.safetensors: sha256 is")


@pytest.mark.security("weights: the digest is checked before anything is parsed")
def test_the_digest_is_checked_before_anything_is_parsed(bundle: Path) -> None:
    (bundle / "model.safetensors").write_bytes(pickle.dumps({"weights": 1}))
    refused(bundle, "model.safetensors: sha256 is")


def test_a_digest_that_matches_garbage_does_not_help(bundle: Path) -> None:
    (bundle / "model.safetensors").write_bytes(b"garbage")
    edit_config(bundle, weights_sha256=sha256_file(bundle / "model.safetensors"))
    refused(bundle, "model.safetensors: does not hold the model that config.json describes")


def test_dimensions_that_do_not_fit_the_weights_are_refused(bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    edit_config(bundle, model=config["model"] | {"n_layer": 3})
    refused(bundle, "model.safetensors: does not hold the model that config.json describes")


def test_an_unknown_architecture_is_refused(bundle: Path) -> None:
    edit_config(bundle, architecture="mamba")
    refused(bundle, "config.json: unknown architecture 'mamba'; this version knows gpt2, switchhead, tilted")


OF_EXPERTS = {"n_head": 2, "head_width": 4, "n_expert": 3, "top_k": 2, "router": "sigmoid"}
WITHOUT_EXPERTS = {"vocab_size": 9, "block_size": 8, "n_layer": 1, "n_head": 2, "n_embd": 8, "dropout": 0.0}


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {}},
        {"model": 3},
        {"model": [1]},
        {"model": WITHOUT_EXPERTS | {"n_embd": -8}},
        {"model": WITHOUT_EXPERTS | {"n_embd": 8.5}},
        {"model": {"n_embd": "wide"}},
        {"architecture": "switchhead", "model": WITHOUT_EXPERTS},
        {"architecture": "switchhead", "model": WITHOUT_EXPERTS | OF_EXPERTS},  # they have a place of their own
        {"architecture": "switchhead", "model": WITHOUT_EXPERTS | {"experts": {"n_expert": 3, "top_k": 2}}},
    ],
)
def test_a_config_that_describes_no_model_is_refused(changes: dict[str, object], bundle: Path) -> None:
    edit_config(bundle, **changes)
    refused(bundle, "config.json: not the description of a model")


def test_a_config_that_is_no_json_is_refused(bundle: Path) -> None:
    (bundle / "config.json").write_text("{")
    refused(bundle, "config.json:1: not JSON")


def test_a_bundle_is_three_files(bundle: Path) -> None:
    assert sorted(FILES) == sorted(path.name for path in bundle.iterdir())


def test_a_model_keeps_the_digest_that_it_was_registered_under() -> None:
    """This one is of the release in which a bundle could hold a discriminator."""
    config = {"weights_sha256": "a", "tokenizer_sha256": "b", "architecture": "gpt2", "model": {"n_layer": 2}}
    digest = "93ff4550f47c5f86de139d0c097b69e75ba3584c22060216ffd6ac6f89af3d12"
    assert identity(config | {"provenance": {"run": 1}}) == digest


@pytest.mark.parametrize("entry", [None, 3, {"candidates": 8, "span": 64, "context": 88, "references": []}])
def test_a_model_that_draws_among_candidates_by_a_discriminator_is_refused(entry: object, bundle: Path) -> None:
    edit_config(bundle, resampling=entry)
    refused(bundle, "config.json: this model draws among candidates by a discriminator, which this version of troupe")
    with pytest.raises(UnsupportedError, match=r"does not do; train it again$"):
        found_identity(bundle)


def test_the_same_weights_read_otherwise_are_another_model(tmp_path: Path) -> None:
    """With other heads or another activation: what the weights' shapes do not tell; or with tokens exchanged.
    When and by whom it was made changes nothing."""
    saved = save_bundle(tmp_path, dense(), ByteTokenizer(), {"run": 1})
    config = read_json(tmp_path / "config.json")
    for changes in ({"n_head": 4}, {"activation": "relu2"}):
        edit_config(tmp_path, model=config["model"] | changes)
        assert load_bundle(tmp_path).sha256 == found_identity(tmp_path) != saved
    edit_config(tmp_path, model=config["model"], provenance={"run": 2})
    assert load_bundle(tmp_path).sha256 == found_identity(tmp_path) == saved
    BytePairTokenizer("bpe", [bytes([255 - byte]) for byte in range(256)]).save(tmp_path / "tokenizer.json")
    refused(tmp_path, "tokenizer.json: sha256 is")
    assert found_identity(tmp_path) != saved
    edit_config(tmp_path, tokenizer_sha256=sha256_file(tmp_path / "tokenizer.json"))
    loaded = load_bundle(tmp_path)
    assert loaded.tokenizer.decode([255 - ord("a")]) == "a"
    assert loaded.sha256 == found_identity(tmp_path) != saved


@pytest.mark.parametrize("content", ["[]", "3", "null"])
def test_a_config_that_is_no_table_has_no_identity(content: str, bundle: Path) -> None:
    (bundle / "config.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"config\.json: not the description of a model") as caught:
        found_identity(bundle)
    assert "\n" not in str(caught.value)
    refused(bundle, "config.json: not the description of a model")


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        load_bundle(folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
