"""A bundle comes back as it was saved, and a damaged one is refused with one line that names the file."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.samplers import BYTES, discriminator, sampler
from troupe.conversion.attention import convert
from troupe.data.tokenizer import BytePairTokenizer, ByteTokenizer
from troupe.decoding import Decoding
from troupe.errors import ArtifactError
from troupe.files import read_json, sha256_file
from troupe.models.bundle import Resampling, files_of, found_identity, load_bundle, save_bundle
from troupe.models.config import GPTConfig
from troupe.models.features import ReferenceFeatures
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.switchhead import SwitchHead, SwitchHeadConfig
from troupe.resampling import write

CONFIG = GPTConfig(vocab_size=256, block_size=8, n_layer=2, n_head=2, n_embd=8, dropout=0.1)
SAMPLER = ("critic.safetensors", "reference-1.safetensors", "reference-2.safetensors")
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


@pytest.fixture
def with_sampler(tmp_path: Path) -> Path:
    save_bundle(tmp_path, dense(), ByteTokenizer(), {"stage": "adversarial"}, sampler())
    return tmp_path


def test_a_sampler_comes_back_and_writes_as_before(tmp_path: Path) -> None:
    """Both networks in eval mode; the discriminator reads with the bundle's own tokenizer."""
    before = sampler()
    sha256 = save_bundle(tmp_path, dense(), ByteTokenizer(), {}, before)
    loaded = load_bundle(tmp_path)
    after = loaded.resampling
    assert after is not None
    assert (after.candidates, after.span, after.context) == (before.candidates, before.span, before.context)
    assert after.discriminator.tokenizer is loaded.tokenizer
    assert not after.discriminator.critic.training
    assert len(after.discriminator.features.references) == 2
    assert not any(reference.training for reference in after.discriminator.features.references)
    ids_BT = torch.randint(0, 256, (6, 12), generator=torch.Generator().manual_seed(0))
    scores_B = before.discriminator.scores(ids_BT)
    assert after.discriminator.scores(ids_BT).equal(scores_B)
    assert scores_B.std() > 0.1
    unsaved = replace(loaded, model=dense(), resampling=before)
    one, other = (write(bundle, ids_BT, 11, Decoding(), range(6)) for bundle in (loaded, unsaved))
    assert one.equal(other)
    assert loaded.sha256 == sha256 == found_identity(tmp_path)
    assert set(SAMPLER) < {*files_of(loaded.config)}
    assert sorted(files_of(loaded.config)) == sorted(path.name for path in tmp_path.iterdir())


def test_without_a_sampler_there_is_nothing_of_one(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    assert loaded.resampling is None
    assert "resampling" not in loaded.config
    assert sorted(files_of(loaded.config)) == sorted(path.name for path in bundle.iterdir())


def test_any_other_sampler_is_another_model(tmp_path: Path) -> None:
    one, other = sampler(), sampler(seed=2)
    other_critic = replace(one.discriminator, critic=other.discriminator.critic)
    both = one.discriminator.features.references
    another, swapped = (
        replace(one.discriminator, features=ReferenceFeatures(*references))
        for references in ((both[0], other.discriminator.features.references[1]), both[::-1])
    )
    samplers: list[Resampling | None] = [
        None,
        one,
        sampler(candidates=5),
        sampler(span=6),
        sampler(context=13),
        replace(one, discriminator=other_critic),
        replace(one, discriminator=another),
        replace(one, discriminator=swapped),
    ]
    folders = [tmp_path / str(number) for number in range(len(samplers))]
    saved = [save_bundle(at, dense(), ByteTokenizer(), {}, s) for at, s in zip(folders, samplers, strict=True)]
    assert len(set(saved)) == len(samplers)
    assert len({load_bundle(folder).config["weights_sha256"] for folder in folders}) == 1
    assert save_bundle(tmp_path / "again", dense(), ByteTokenizer(), {"run": 2}, sampler()) == saved[1]
    assert save_bundle(tmp_path / "seed", dense(seed=1), ByteTokenizer(), {}, sampler()) != saved[1]


@pytest.mark.parametrize("way_it_writes", [None, sampler()])
def test_the_same_weights_read_otherwise_are_another_model(way_it_writes: Resampling | None, tmp_path: Path) -> None:
    """With other heads or another activation: what the weights' shapes do not tell; or with tokens exchanged.
    When and by whom it was made changes nothing."""
    saved = save_bundle(tmp_path, dense(), BYTES, {"run": 1}, way_it_writes)
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


@pytest.mark.parametrize("references", [1, 3])
def test_as_many_references_come_back_as_there_were(references: int, tmp_path: Path) -> None:
    before = replace(sampler(), discriminator=discriminator(references=references))
    save_bundle(tmp_path, dense(), ByteTokenizer(), {}, before)
    loaded = load_bundle(tmp_path)
    assert loaded.resampling is not None
    ids_BT = torch.randint(0, 256, (6, 12), generator=torch.Generator().manual_seed(0))
    assert loaded.resampling.discriminator.scores(ids_BT).equal(before.discriminator.scores(ids_BT))
    assert sorted(files_of(loaded.config)) == sorted(path.name for path in tmp_path.iterdir())
    assert len([*tmp_path.glob("reference-*.safetensors")]) == references


@pytest.mark.parametrize("name", SAMPLER)
def test_a_damaged_sampler_is_refused_and_named(name: str, with_sampler: Path) -> None:
    path, whole = with_sampler / name, found_identity(with_sampler)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(with_sampler, f"{name}: sha256 is")
    assert found_identity(with_sampler) != whole
    path.write_bytes(pickle.dumps({"weights": 1}))  # never parsed
    refused(with_sampler, f"{name}: sha256 is")
    path.unlink()
    refused(with_sampler, f"{name}: no such file")


def test_a_sampler_whose_digest_matches_garbage_is_refused(with_sampler: Path) -> None:
    (with_sampler / "critic.safetensors").write_bytes(b"garbage")
    digests = {name: sha256_file(with_sampler / name) for name in SAMPLER}
    edit_sampler(with_sampler, lambda entry: entry | {"sha256": digests})
    refused(with_sampler, "critic.safetensors: does not hold the model that config.json describes")


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: {name: value for name, value in entry.items() if name != "span"},
        lambda entry: {name: value for name, value in entry.items() if name != "sha256"},
        lambda entry: entry | {"candidates": 0},
        lambda entry: entry | {"candidates": "many"},
        lambda entry: entry | {"critic": {"n_embd": 8}},
        lambda entry: entry | {"candidates": 8.5},
        lambda entry: entry | {"candidates": True},
        lambda entry: entry | {"candidates": 10**30},
        lambda entry: entry | {"span": 2.5},
        lambda entry: entry | {"context": 1000},
        lambda entry: entry | {"critic": entry["critic"] | {"n_given": "a"}},
        lambda entry: entry | {"critic": entry["critic"] | {"n_embd": -1}},
        lambda entry: entry | {"critic": entry["critic"] | {"n_hidden": 0}},
        lambda entry: entry | {"critic": entry["critic"] | {"vocab_size": 10**15}},
        lambda entry: entry | {"critic": entry["critic"] | {"vocab_size": 10**30}},
        lambda entry: entry | {"critic": [8]},
        lambda entry: entry | {"references": []},
        lambda entry: None,
        lambda entry: [1],
        lambda entry: entry | {"references": entry["references"] * 2},
        lambda entry: 3,
    ],
)
def test_an_entry_that_describes_no_sampler_is_refused(change: Callable[[Any], Any], with_sampler: Path) -> None:
    edit_sampler(with_sampler, change)
    refused(with_sampler, "config.json: not the description of a sampler")


@pytest.mark.parametrize("sizes", [{"n_embd": -8}, {"n_embd": 10**15}, {"vocab_size": 10**30}, {"n_head": 0}])
def test_a_reference_of_sizes_that_nothing_has_is_refused(sizes: dict[str, int], with_sampler: Path) -> None:
    def change(entry: Any) -> Any:
        first, *others = entry["references"]
        return entry | {"references": [first | {"model": first["model"] | sizes}, *others]}

    edit_sampler(with_sampler, change)
    refused(with_sampler, "config.json: not the description of a model")


@pytest.mark.parametrize("content", ["[]", "3", '{"resampling": null}', '{"resampling": [1]}', '{"resampling": 3}'])
def test_a_config_that_names_no_files_has_no_identity(content: str, bundle: Path) -> None:
    (bundle / "config.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"config\.json: not the description of a model") as caught:
        found_identity(bundle)
    assert "\n" not in str(caught.value)
    refused(bundle, "config.json: not the description of a model")


@pytest.mark.security("a bundle: its description cannot name files elsewhere")
def test_a_description_cannot_name_files_of_its_own(with_sampler: Path) -> None:
    """Who copies a bundle copies its files, and no others."""
    edit_sampler(with_sampler, lambda entry: entry | {"sha256": entry["sha256"] | {"../other.txt": "0"}})
    assert set(files_of(read_json(with_sampler / "config.json"))) == {path.name for path in with_sampler.iterdir()}


def edit_sampler(folder: Path, change: Callable[[Any], Any]) -> None:
    entry = json.loads((folder / "config.json").read_text())["resampling"]
    edit_config(folder, resampling=change(entry))


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        load_bundle(folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
