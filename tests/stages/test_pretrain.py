"""The pretrain stage: files in, files out, the same bytes for the same seed."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tests.conftest import GPT2, small
from troupe.bundles.architectures import load_bundle
from troupe.errors import ArtifactError, ParamsError
from troupe.files import read_json
from troupe.layout import CHECKPOINTS, INITIAL, TOKENS, model_dir
from troupe.params import Params
from troupe.progress import read_metrics
from troupe.stages.inputs import inputs
from troupe.stages.pretrain import pretrain

FOLDER = model_dir("pretrain")


def test_it_writes_a_model_its_log_and_a_summary(workspace: Params) -> None:
    pretrain(workspace)
    bundle, summary, log = (
        load_bundle(FOLDER),
        read_json(FOLDER / "summary.json"),
        read_metrics(FOLDER / "metrics.jsonl"),
    )
    assert bundle.config["architecture"] == "gpt2"
    assert summary["weights_sha256"] == bundle.sha256
    assert summary["parameters"] == sum(p.numel() for p in bundle.model.parameters())
    assert (summary["steps"], summary["tokens"], summary["resumed_at_step"]) == (40, 40 * 4 * 16, 0)
    assert [record["step"] for record in log] == list(range(1, 41))
    assert summary["best/val/bpb"] == min(record["val/bpb"] for record in log if "val/bpb" in record)
    assert log[0]["train/loss"] == pytest.approx(math.log(300), abs=0.2)
    assert log[-1]["train/loss"] < log[0]["train/loss"] - 0.5
    assert (summary["device"], summary["compiled"], summary["torch"]) == ("cpu", False, torch.__version__)
    assert [path.stem for path in CHECKPOINTS.rglob("*.safetensors")] == ["00000040"]


def test_killed_before_dvc_has_noted_its_result_it_comes_back_to_it_at_once(workspace: Params) -> None:
    pretrain(workspace)
    first, summary = load_bundle(FOLDER).sha256, read_json(FOLDER / "summary.json")
    shutil.rmtree(FOLDER)  # as DVC does before it runs a stage again
    pretrain(workspace)
    assert load_bundle(FOLDER).sha256 == first
    again = read_json(FOLDER / "summary.json")
    assert again == {**summary, "resumed_at_step": 40, "seconds": again["seconds"]}, "the figures of the best look too"
    assert len(read_metrics(FOLDER / "metrics.jsonl")) == 40


def test_one_seed_gives_one_sequence_of_bytes_and_another_seed_another(workspace: Params) -> None:
    digests = []
    for seed in (1, 1, 2):
        shutil.rmtree(CHECKPOINTS, ignore_errors=True)
        pretrain(workspace.model_copy(update={"run": workspace.run.model_copy(update={"seed": seed})}))
        digests.append(load_bundle(FOLDER).sha256)
    assert digests[0] == digests[1] != digests[2]


def test_missing_tokens_are_one_clear_error_and_nothing_is_deleted(workspace: Params) -> None:
    pretrain(workspace)
    before = (FOLDER / "model.safetensors").read_bytes()
    (TOKENS / "validation.npy").unlink()
    with pytest.raises(ArtifactError, match=r"validation\.npy"):
        pretrain(workspace)
    assert (FOLDER / "model.safetensors").read_bytes() == before


@pytest.fixture
def given(workspace: Params) -> tuple[Params, GPT2LMHeadModel]:
    """A checkpoint of transformers as large as the workspace's model, but for a longer context; steps of no length."""
    torch.manual_seed(0)
    known = read_json(TOKENS / "meta.json")["vocab_size"]
    size = GPT2Config(vocab_size=known, n_positions=24, n_layer=2, n_head=2, n_embd=16, bos_token_id=0, eos_token_id=0)
    theirs = GPT2LMHeadModel(size).eval()
    theirs.save_pretrained("given")
    standing = {"init_from": "given", "steps": 1, "learning_rate": 1e-9, "adamw_learning_rate": 1e-9}
    pretraining = workspace.pretrain.model_copy(update=standing)
    gpt2 = small(*GPT2.split()).model
    params = workspace.model_copy(update={"pretrain": pretraining, "model": gpt2})
    inputs(params)
    return params, theirs


def test_it_starts_from_a_checkpoint_of_transformers(given: tuple[Params, GPT2LMHeadModel]) -> None:
    """After one step of no length the model is still the one that it started from."""
    params, theirs = given
    pretrain(params)
    bundle = load_bundle(FOLDER)
    assert bundle.model.config.block_size == params.model.block_size == 16, "of the checkpoint's 24"
    ids = torch.randint(theirs.config.vocab_size, (2, 16))
    with torch.no_grad():
        torch.testing.assert_close(bundle.model(ids), theirs(ids).logits, atol=1e-5, rtol=0)
    assert bundle.config["provenance"]["initial"] == read_json(INITIAL) | {"revision": None}
    assert (read_json(INITIAL)["init_from"], read_json(INITIAL)["has_seen"]) == ("given", "unknown")


def test_it_starts_from_a_model_of_its_own(workspace: Params) -> None:
    pretrain(workspace)
    FOLDER.rename("mine")
    first = load_bundle(Path("mine"))
    again = workspace.pretrain.model_copy(update={"init_from": "mine"})
    params = workspace.model_copy(update={"pretrain": again})
    inputs(params)
    assert read_json(INITIAL)["has_seen"] == "training text"
    pretrain(params)
    assert read_metrics(FOLDER / "metrics.jsonl")[0]["train/loss"] < math.log(300) - 0.5, "it goes on, not from chance"
    assert load_bundle(FOLDER).sha256 != first.sha256
    before, other = read_json(INITIAL), params.data.model_copy(update={"block_bytes": 128})
    with pytest.raises(ParamsError, match="mine: trained on text that is now held out"):
        inputs(params.model_copy(update={"data": other}))
    assert read_json(INITIAL) == before


def test_initial_weights_that_changed_behind_its_back_are_refused(given: tuple[Params, GPT2LMHeadModel]) -> None:
    params, _ = given
    before = read_json(INITIAL)
    weights = Path("given/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(ArtifactError, match=r"given: not what artifacts/init\.json recorded; run stage inputs again"):
        pretrain(params)
    inputs(params)
    assert read_json(INITIAL)["sha256"] != before["sha256"], "what DVC and checkpoints go by"
    pretrain(params)
