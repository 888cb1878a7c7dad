"""Weights to start from: found, digested, held against params.yaml and the tokens, cut to a shorter context."""

import json
import shutil
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub.constants
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError

from tests.conftest import GPT2, small
from troupe.bundles.bundle import save_bundle
from troupe.bundles.export import export_model
from troupe.bundles.initial import find_initial, has_seen, load_initial, require_agreement
from troupe.data.bpe import make_tokenizer
from troupe.errors import ArtifactError, ParamsError
from troupe.files import read_json, write_json
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.params import Params

TEXT = "the cat sat on the mat and the rat sat on the hat " * 20
TOKENS = make_tokenizer("bpe", TEXT, 270)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def dense() -> GPT:
    model = GPT(GPTConfig(TOKENS.vocab_size, block_size=24, n_layer=2, n_head=3, n_embd=12, dropout=0.1))
    init_gpt2(model, torch.Generator().manual_seed(0))
    return model.eval()


@pytest.fixture(params=["bundle", "huggingface"])
def folder(request: pytest.FixtureRequest, dense: GPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    TOKENS.save(tmp_path / "tokenizer.json")
    where = tmp_path / "given"
    if request.param == "bundle":
        save_bundle(where, dense, TOKENS, {})
    else:
        export_model(where, dense, TOKENS)
    return where


def parameters(overrides: str) -> Params:
    return small(*GPT2.split(), *overrides.split())


def test_a_shorter_context_computes_the_same_of_it(folder: Path, dense: GPT) -> None:
    """GPT-2's positions are rows of a table: a table without its last rows changes nothing before them."""
    initial = find_initial("given")
    assert initial.config == dense.config
    assert initial.revision is None
    shorter = load_initial(initial, Path("tokenizer.json"), block_size=8, dropout=0.5)
    assert (shorter.config.block_size, shorter.config.dropout, shorter.training) == (8, 0.5, True)
    ids = torch.randint(0, TOKENS.vocab_size, (2, 8))
    with torch.no_grad():
        torch.testing.assert_close(shorter.eval()(ids), dense(ids), atol=0, rtol=0)


def test_the_digest_is_that_of_weights_and_architecture(folder: Path) -> None:
    """What else config.json says, a version of transformers or a model's provenance, retrains nothing."""
    before = find_initial("given").sha256
    shutil.copytree(folder, "copy")
    config = read_json(Path("copy/config.json"))
    write_json(Path("copy/config.json"), config | {"transformers_version": "99"})
    assert find_initial("copy").sha256 == before
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert find_initial("given").sha256 != before


def test_disagreement_is_one_line_to_paste(folder: Path) -> None:
    """And what it says to set is accepted."""
    initial = find_initial("given")
    with pytest.raises(ParamsError) as refusal:
        require_agreement(initial, parameters("model.block_size=64 tokens.kind=bpe"))
    line = str(refusal.value)
    assert "\n" not in line
    setting = line.split('SET="')[1].rstrip('"')
    assert setting == "model.n_head=3 model.n_embd=12 model.block_size=24"
    require_agreement(initial, parameters(setting))
    require_agreement(initial, parameters(f"{setting} model.block_size=16 model.dropout=0.3"))


def test_departures_from_gpt2_are_part_of_the_line(folder: Path) -> None:
    departing = "model.n_head=3 model.n_embd=12 model.positions=rotary model.qk_norm=true"
    with pytest.raises(ParamsError, match=r'SET="model.positions=learned model.qk_norm=false"'):
        require_agreement(find_initial("given"), parameters(departing))


def test_the_kind_of_tokens_is_part_of_the_line(dense: GPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_bundle(tmp_path / "given", dense, TOKENS, {})
    with pytest.raises(ParamsError, match=r'SET="tokens.kind=bpe model.n_head=3 model.n_embd=12"'):
        require_agreement(find_initial("given"), parameters("tokens.kind=bytes"))
    export_model(tmp_path / "theirs", GPT(GPTConfig(50_257, 16, 1, 1, 2, 0.0)), make_tokenizer("bytes", "", 0))
    with pytest.raises(ParamsError, match=r'SET="tokens.kind=gpt2 model.n_layer=1 model.n_head=1 model.n_embd=2"'):
        require_agreement(find_initial("theirs"), parameters(""))


def test_other_tokens_are_refused(folder: Path) -> None:
    initial = find_initial("given")
    make_tokenizer("bpe", TEXT[::-1], 270).save(Path("other.json"))
    with pytest.raises(ArtifactError, match=r"its tokens are not those of other\.json"):
        load_initial(initial, Path("other.json"), 8, 0.0)
    make_tokenizer("bytes", "", 0).save(Path("fewer.json"))
    with pytest.raises(ArtifactError, match=r"it knows 2\d\d tokens, fewer\.json has 256"):
        load_initial(initial, Path("fewer.json"), 8, 0.0)


def test_a_vocabulary_of_older_transformers_counts_too(dense: GPT, tmp_path: Path) -> None:
    export_model(tmp_path / "given", dense, TOKENS)
    vocabulary = json.loads((tmp_path / "given/tokenizer.json").read_text())["model"]["vocab"]
    (tmp_path / "given/tokenizer.json").unlink()
    TOKENS.save(tmp_path / "tokens.json")
    (tmp_path / "given/vocab.json").write_text(json.dumps(vocabulary))
    initial = find_initial(str(tmp_path / "given"))
    load_initial(initial, tmp_path / "tokens.json", 8, 0.0)
    first, second, *_ = vocabulary
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (tmp_path / "given/vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(ArtifactError, match="its tokens are not those"):
        load_initial(initial, tmp_path / "tokens.json", 8, 0.0)


KNOWN = {"stage": "pretrain", "corpus_sha256": "this", "block_bytes": 4096}


@pytest.mark.parametrize(
    ("provenance", "seen"),
    [
        (KNOWN, "training text"),
        (KNOWN | {"corpus_sha256": "another"}, "unknown"),
        (KNOWN | {"corpus_sha256": "another", "block_bytes": 64}, "unknown"),
        ({"stage": "pretrain", "corpus_sha256": "this"}, "unknown"),  # of a version that did not record its blocks
        (KNOWN | {"stage": "moe-control"}, "unknown"),
        (KNOWN | {"initial": {"has_seen": "training text"}}, "training text"),
        (KNOWN | {"initial": {"has_seen": "unknown"}}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_what_weights_have_seen(provenance: dict[str, Any], seen: str, dense: GPT, tmp_path: Path) -> None:
    save_bundle(tmp_path / "given", dense, TOKENS, provenance)
    assert has_seen(find_initial(str(tmp_path / "given")), "this", 4096) == seen


@pytest.mark.parametrize("stage", ["pretrain", "moe-control"])
def test_weights_that_saw_what_another_split_now_holds_out_are_refused(stage: str, dense: GPT, tmp_path: Path) -> None:
    save_bundle(tmp_path / "given", dense, TOKENS, KNOWN | {"stage": stage})
    with pytest.raises(ParamsError, match=r'trained on text that is now held out.*SET="data.block_bytes=4096"$'):
        has_seen(find_initial(str(tmp_path / "given")), "this", 2048)


def test_what_weights_from_elsewhere_have_seen_is_unknown(dense: GPT, tmp_path: Path) -> None:
    export_model(tmp_path / "given", dense, TOKENS)
    assert has_seen(find_initial(str(tmp_path / "given")), "this", 4096) == "unknown"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("absent", "no such folder or GGUF file; name one, scratch, gpt2 or owner/name"),
        ("../absent", "no such folder"),
        ("artifacts/pretrain", "stages rewrite what is in artifacts"),
        ("empty", r"config\.json: no such file"),
        ("odd", "neither a bundle nor a model of Hugging Face's"),
        ("experts", "a switchhead model; pretrain starts from a dense one"),
    ],
)
def test_what_cannot_be_started_from(
    name: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    contents = {"odd": {"layers": 3}, "experts": {"architecture": "switchhead", "model": {}}}
    for made in ("artifacts/pretrain", "empty", *contents):
        Path(made).mkdir(parents=True)
    for made, content in contents.items():
        Path(made, "config.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=complaint):
        find_initial(name)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache in a folder of ours, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.mark.parametrize(("name", "entry"), [("gpt2", "models--gpt2"), ("owner/tiny", "models--owner--tiny")])
def test_without_a_network_the_hubs_cache_serves(name: str, entry: str, cache: Path, dense: GPT) -> None:
    export_model(cache / entry / "snapshots" / COMMIT, dense, TOKENS)
    (cache / entry / "refs").mkdir()
    (cache / entry / "refs/main").write_text(COMMIT)
    initial = find_initial(name)
    assert (initial.config, initial.revision) == (dense.config, COMMIT)
    assert find_initial(f"{name}@{COMMIT}").place == initial.place
    with pytest.raises(ArtifactError, match="no such folder, not in the cache"):
        find_initial(f"{name}@{COMMIT[::-1]}")
    another = initial.place.rename(initial.place.with_name(COMMIT[::-1]))
    (cache / entry / "refs/main").write_text(another.name)
    assert find_initial(name).revision == another.name
    assert find_initial(name).identity() == initial.identity(), "a commit that changes no weights retrains nothing"


def test_without_network_and_cache_one_line_says_what_to_do(cache: Path) -> None:
    with pytest.raises(ArtifactError, match=r"^gpt2: no such folder.*no way to the hub; connect.*or name a folder"):
        find_initial("gpt2")
    with pytest.raises(ArtifactError, match=r"no name of the Hugging Face hub"):
        find_initial("owner/two--dashes")


def test_what_the_hub_refuses_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = httpx2.Response(401, request=httpx2.Request("GET", "https://hub"))

    def refuse(*args: object, **named: object) -> str:
        raise HfHubHTTPError("401 Client Error.\n\nRepository Not Found", response=answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ArtifactError, match=r"^owner/secret: the Hugging Face hub refuses: 401 Client Error; connect"):
        find_initial("owner/secret")
