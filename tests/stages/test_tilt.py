"""The tilt of the adversarial stage: what it learns from, when it is followed, and that it can be stopped."""

import os
import re
import shutil
import signal
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from tests.stages.conftest import ONLY_TILTED, changed, never
from troupe.data.dataset import TokenDataset
from troupe.errors import Interrupted
from troupe.files import read_json
from troupe.layout import TOKENS, model_dir
from troupe.models.bundle import Bundle, load_bundle
from troupe.models.gpt2 import GPT
from troupe.models.tilted import Tilted
from troupe.params import Params, load_params
from troupe.stages import adversarial as stage
from troupe.stages import following, game, hearing, texts, tilt
from troupe.stages.adversarial import adversarial
from troupe.stages.log import read_metrics
from troupe.training.validation import validate

FOLDER = model_dir("adversarial")
LOG = FOLDER / "metrics.jsonl"


def test_by_default_it_is_tilted_and_nobody_teaches_a_discriminator(
    experts: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that knows nothing, beside n-grams of a text of eight words: the tilt learns to heed them."""
    shipped = load_params(ROOT / "params.yaml").adversarial
    assert (shipped.learn, shipped.tilt_rounds) == ("none", 3)
    monkeypatch.setattr(following, "taught", never)
    looked: list[GPT] = []
    monkeypatch.setattr(game, "validate", lambda model, *rest: (looked.append(model), validate(model, *rest))[1])
    adversarial(changed(experts, **ONLY_TILTED, tilt_rounds=2, max_bpb_rise=0.01))
    assert len(looked) == 3, "the start and two tilted models, each once"
    bundle, summary, log = load_bundle(FOLDER), read_json(FOLDER / "summary.json"), read_metrics(LOG)
    parent = load_bundle(model_dir("moe"))
    assert bundle.config["architecture"] == "tilted"
    assert isinstance(bundle.model, Tilted)
    assert bundle.model.tilt.abs().min() > 0
    state = bundle.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in parent.model.state_dict().items())
    assert summary["contenders"].keys() == {"start", "tilted_1", "tilted_2"}
    kept = summary["kept"].partition(":")[0]
    assert kept == "tilted_2", "of an untrained network's words each round makes less"
    assert "tilted_1 is told less often than start, by " in summary["kept"]
    assert "% fewer bits: " in summary["kept"]
    assert "discriminator" not in summary
    assert "reference_weights_sha256" not in bundle.config["provenance"]
    assert [record["step"] for record in log] == [0, 1, 2, 3]
    assert log[0]["tilt/val_bpb"] == log[3]["contender_bpb/start"] == summary["start/val/bpb"]
    assert log[2]["tilt/val_bpb"] == log[3]["contender_bpb/tilted_2"] == summary["kept/val/bpb"]
    assert log[1]["tilt/val_bpb"] == log[3]["contender_bpb/tilted_1"]
    assert log[1]["tilt/val_bpb"] < 0.9 * log[0]["tilt/val_bpb"]
    assert log[1]["tilt/auc"] == pytest.approx(1, abs=0.01), "an untrained network is told always"
    assert summary["tilt/rounds"] == bundle.config["provenance"]["tilt_rounds_followed"] == 2
    assert summary["weights_sha256"] == bundle.sha256
    shutil.rmtree(FOLDER)
    adversarial(changed(experts, **ONLY_TILTED, tilt_rounds=2, max_bpb_rise=0.01))
    assert load_bundle(FOLDER).sha256 == bundle.sha256, "the same, to the byte, every time"


def test_a_tilt_learns_from_sequences_of_the_critics_split_each_once(experts: Params) -> None:
    model, ids = load_bundle(model_dir("moe")).model, np.load(TOKENS / "critic.npy").tolist()
    real_NT = tilt.real_text(TokenDataset.open(), "critic", 10**12, model, experts)  # more than memory holds
    assert real_NT.size(1) == model.config.block_size
    assert len(real_NT) == len(ids) // model.config.block_size - 1
    found = {tuple(ids[i : i + real_NT.size(1)]): i for i in range(len(ids))}
    starts = [found[tuple(row)] for row in real_NT.tolist()]
    assert np.diff(sorted(starts)).min() == model.config.block_size
    assert len(tilt.real_text(TokenDataset.open(), "critic", 5, model, experts)) == 5


def test_a_round_that_can_tell_nothing_is_not_followed(experts: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model "writes" is other real text: no signal, whatever the fit has found. Nobody needs to be heard."""

    def shuffled(model: GPT, real_NT: torch.Tensor, prompt_length: int, seeds: list[int]) -> torch.Tensor:
        return real_NT.roll(1, dims=0)

    monkeypatch.setattr(tilt, "continued", shuffled)
    monkeypatch.setattr(stage, "validation_judges", never)
    adversarial(changed(experts, **ONLY_TILTED, tilt_rounds=3))
    summary, log = read_json(FOLDER / "summary.json"), read_metrics(LOG)
    assert load_bundle(FOLDER).sha256 == load_bundle(model_dir("moe")).sha256
    assert re.fullmatch(
        r"start: tilt: 0 of 1 rounds followed; no signal: AUC 0\.\d+ \(0\.\d+ to 0\.\d+\)", summary["kept"]
    )
    assert (summary["contenders"], summary["duels"], summary["tilt/rounds"]) == ({}, [], 0)
    assert [record["step"] for record in log] == [0, 1]
    assert log[0]["tilt/val_bpb"] == log[1]["tilt/val_bpb"] == summary["kept/val/bpb"]


def test_who_is_kept_untilted_has_followed_no_round(experts: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "kept", lambda heard, fought: "start")
    adversarial(changed(experts, **ONLY_TILTED, tilt_rounds=2))
    summary = read_json(FOLDER / "summary.json")
    assert (summary["tilt_rounds"], summary["tilt/rounds"]) == (2, 2)
    assert load_bundle(FOLDER).config["provenance"]["tilt_rounds_followed"] == 0


def asks_to_stop(done: list[str]) -> Callable[..., None]:
    """Work in the middle of which SIGTERM comes, before the next token."""

    def work(writer: Bundle | GPT, *_: object) -> None:
        done.append("begun")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.3)
        (writer.model if isinstance(writer, Bundle) else writer)(torch.zeros(1, 1, dtype=torch.long))
        done.append("written")

    return work


def test_stopped_while_it_is_tilted_it_writes_no_other_token(experts: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(tilt, "continued", asks_to_stop(done))
    monkeypatch.setattr(texts, "AT_ONCE", 4)  # of 24
    with pytest.raises(Interrupted, match="stopped by SIGTERM while the model was tilted; the same command begins it"):
        adversarial(changed(experts, **ONLY_TILTED, tilt_rounds=1))
    assert done == ["begun"]
    assert not (FOLDER / "summary.json").exists()


def test_stopped_while_judges_hear_it_writes_no_other_token(experts: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(hearing, "_texts", asks_to_stop(done))
    with pytest.raises(Interrupted, match="stopped by SIGTERM while judges chose what is kept; the same command"):
        adversarial(changed(experts, **ONLY_TILTED, tilt_rounds=1, judge_seeds=5))
    assert done == ["begun"]
    assert not (FOLDER / "summary.json").exists()
