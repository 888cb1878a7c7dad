"""The pretrain stage: files in, files out, the same bytes for the same seed."""

import math

import pytest

from troupe.errors import ArtifactError
from troupe.files import read_json
from troupe.layout import CHECKPOINTS, TOKENS, model_dir
from troupe.models.bundle import load_bundle
from troupe.params import Params
from troupe.stages.log import read_metrics
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
    assert not (CHECKPOINTS / "pretrain").exists()


def test_one_seed_gives_one_sequence_of_bytes_and_another_seed_another(workspace: Params) -> None:
    digests = []
    for seed in (1, 1, 2):
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
