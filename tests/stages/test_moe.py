"""The moe stage: experts from the pretrained model, beside the dense model trained on in the same way."""

import shutil

import pytest

from troupe.files import read_json
from troupe.layout import CHECKPOINTS, model_dir
from troupe.models.bundle import load_bundle
from troupe.params import Params
from troupe.stages.log import read_metrics
from troupe.stages.moe import moe
from troupe.stages.pretrain import pretrain

FOLDER = model_dir("moe")


@pytest.fixture
def pretrained(workspace: Params) -> Params:
    pretrain(workspace)
    return workspace


def test_it_writes_experts_and_the_control(pretrained: Params) -> None:
    moe(pretrained)
    experts, control, summary = load_bundle(FOLDER), load_bundle(FOLDER / "control"), read_json(FOLDER / "summary.json")
    assert (experts.config["architecture"], control.config["architecture"]) == ("switchhead", "gpt2")
    assert summary["weights_sha256"] == experts.sha256
    assert summary["control/weights_sha256"] == control.sha256
    looks = [record for record in read_metrics(FOLDER / "metrics.jsonl") if "val/bpb" in record]
    assert summary["best/val/bpb"] == min(record["val/bpb"] for record in looks)
    assert all(1 <= record["moe/effective_experts"] <= pretrained.moe.n_expert for record in looks)
    assert all(record["moe/dead_experts"] >= 0 for record in looks)
    assert {path.parts[-4] for path in CHECKPOINTS.rglob("*.safetensors")} == {"moe", "moe-control"}, "not pretrain"


def test_both_begin_where_the_dense_model_ended_and_see_the_same_batches(pretrained: Params) -> None:
    """An exact switch is not felt: without dropout the first batch costs both the same."""
    still = pretrained.model_copy(update={"model": pretrained.model.model_copy(update={"dropout": 0.0})})
    pretrain(still)
    moe(still)
    first, control = (read_metrics(folder / "metrics.jsonl")[0] for folder in (FOLDER, FOLDER / "control"))
    assert first["train/loss"] == pytest.approx(control["train/loss"], abs=1e-5)
    assert first["train/lr"] == control["train/lr"]


def test_without_a_control_there_is_none(pretrained: Params) -> None:
    moe(pretrained.model_copy(update={"moe": pretrained.moe.model_copy(update={"control": False})}))
    assert not (FOLDER / "control").exists()
    assert not any(name.startswith("control") for name in read_json(FOLDER / "summary.json"))


def test_one_seed_gives_one_sequence_of_bytes(pretrained: Params) -> None:
    digests = []
    for _ in range(2):
        shutil.rmtree(CHECKPOINTS, ignore_errors=True)
        moe(pretrained)
        digests.append((load_bundle(FOLDER).sha256, load_bundle(FOLDER / "control").sha256))
    assert digests[0] == digests[1]
