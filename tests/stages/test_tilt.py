"""The tilt in the adversarial stage: its texts, which rounds make a candidate, and that it can be stopped."""

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
from tests.stages.conftest import changed, never
from tests.stages.test_adversarial import task
from troupe.adversarial import pretraining, texts, tilt
from troupe.bundles.architectures import load_bundle
from troupe.errors import CorpusError, Interrupted
from troupe.files import read_json
from troupe.judging import protocol
from troupe.layout import TOKENS, model_dir
from troupe.models.gpt2 import GPT
from troupe.models.tilted import Tilted
from troupe.params import Params, load_params
from troupe.progress import read_metrics
from troupe.stages import adversarial as stage
from troupe.stages.adversarial import adversarial

FOLDER = model_dir("adversarial")
LOG = FOLDER / "metrics.jsonl"


def only_tilted(params: Params, *overrides: str) -> Params:
    return changed(params, "methods=[tilt]", *overrides)


def test_a_network_that_knows_nothing_is_tilted_towards_the_ngrams(
    experts: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside n-grams of a text of eight words. No discriminator is trained for it."""
    shipped = load_params(ROOT / "params.yaml").adversarial
    assert (shipped.methods, shipped.tilt.rounds) == (["tilt", "gan"], 2)
    monkeypatch.setattr(pretraining, "pretrained", never)
    adversarial(only_tilted(experts, "tilt.rounds=2"))
    bundle, summary, log = load_bundle(FOLDER), read_json(FOLDER / "summary.json"), read_metrics(LOG)
    parent = load_bundle(model_dir("moe"))
    assert bundle.config["architecture"] == "tilted"
    assert isinstance(bundle.model, Tilted)
    assert bundle.model.tilt.abs().min() > 0
    state = bundle.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in parent.model.state_dict().items())
    assert summary["candidates"].keys() == {"start", "tilt_1", "tilt_2"}
    assert summary["selected"] == "tilt_2", "each round leaves less of an untrained network"
    assert "tilt_1 is detected less often than start, by " in summary["kept"]
    assert "% fewer bits: " in summary["kept"]
    assert bundle.config["provenance"]["method"] == "tilt"
    assert [record["step"] for record in log] == [0, 1, 2]
    bits = {name: candidate["bpb"] for name, candidate in summary["candidates"].items()}
    assert [record["tilt/val/bpb"] for record in log] == [bits["start"], bits["tilt_1"], bits["tilt_2"]]
    assert (summary["start/val/bpb"], summary["kept/val/bpb"]) == (bits["start"], bits["tilt_2"])
    assert log[1]["tilt/val/bpb"] < 0.9 * log[0]["tilt/val/bpb"]
    assert log[1]["tilt/auc"] == pytest.approx(1, abs=0.01), "an untrained network is detected always"
    assert summary["tilt"]["rounds"] == summary["tilt"]["rounds_with_signal"] == 2
    assert summary["weights_sha256"] == bundle.sha256
    shutil.rmtree(FOLDER)
    adversarial(only_tilted(experts, "tilt.rounds=2"))
    assert load_bundle(FOLDER).sha256 == bundle.sha256, "the same, to the byte, every time"


def test_a_tilt_is_fitted_to_sequences_of_the_critics_split_each_once(experts: Params) -> None:
    of, ids = task(experts), np.load(TOKENS / "critic.npy").tolist()
    length = experts.model.block_size
    real_NT = texts.each_once(of, "critic", length, 10**12)  # more than memory holds
    assert real_NT.size(1) == length
    assert len(real_NT) == len(ids) // length - 1
    found = {tuple(ids[i : i + length]): i for i in range(len(ids))}
    starts = [found[tuple(row)] for row in real_NT.tolist()]
    assert np.diff(sorted(starts)).min() == length
    assert len(texts.each_once(of, "critic", length, 5)) == 5


def test_a_round_without_a_signal_makes_no_candidate(experts: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model "generates" is other real text: no signal, whatever the fit has found. Nothing is judged."""

    def shuffled(model: GPT, real_NT: torch.Tensor, prompt_length: int, seeds: list[int]) -> torch.Tensor:
        return real_NT.roll(1, dims=0)

    monkeypatch.setattr(tilt, "continued", shuffled)
    monkeypatch.setattr(stage, "make_setup", never)
    adversarial(only_tilted(experts, "tilt.rounds=3"))
    summary, log = read_json(FOLDER / "summary.json"), read_metrics(LOG)
    assert load_bundle(FOLDER).sha256 == load_bundle(model_dir("moe")).sha256
    assert re.fullmatch(
        r"start: tilt: 0 of 1 rounds with a signal; the last: no signal: AUC 0\.\d+ \(0\.\d+ to 0\.\d+\)",
        summary["kept"],
    )
    assert (summary["candidates"], summary["comparisons"], summary["tilt"]["rounds_with_signal"]) == ({}, [], 0)
    assert [record["step"] for record in log] == [0, 1]
    assert log[0]["tilt/val/bpb"] == log[1]["tilt/val/bpb"] == summary["kept/val/bpb"]


def test_a_split_that_is_too_short_is_named(experts: Params) -> None:
    ids = np.load(TOKENS / "validation.npy")
    np.save(TOKENS / "validation.npy", ids[:16])
    with pytest.raises(CorpusError, match=r"validation split holds 16 tokens where .* needs 17; bring at least"):
        adversarial(only_tilted(experts, "tilt.rounds=1"))


def asks_to_stop(done: list[str]) -> Callable[..., None]:
    """Work in the middle of which SIGTERM comes, before the next token."""

    def work(model: GPT, *_: object, **__: object) -> None:
        done.append("begun")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.3)
        model(torch.zeros(1, 1, dtype=torch.long))
        done.append("written")

    return work


def test_stopped_while_it_is_tilted_it_generates_no_other_token(
    experts: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(tilt, "continued", asks_to_stop(done))
    monkeypatch.setattr(texts, "AT_ONCE", 4)  # of 24
    with pytest.raises(Interrupted, match="stopped by SIGTERM while the model was tilted; the same command begins it"):
        adversarial(only_tilted(experts, "tilt.rounds=1"))
    assert done == ["begun"]
    assert not (FOLDER / "summary.json").exists()


def test_stopped_while_candidates_are_judged_it_begins_no_other_text(
    experts: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(protocol, "continuations", asks_to_stop(done))
    with pytest.raises(Interrupted, match="stopped by SIGTERM while candidates were judged; the same command"):
        adversarial(changed(only_tilted(experts, "tilt.rounds=1")).model_copy(update={"judging": experts.judging}))
    assert done.count("begun") <= torch.get_num_threads()
    assert not (FOLDER / "summary.json").exists()
