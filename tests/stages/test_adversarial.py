"""The adversarial stage: files in, files out; killed without warning, it ends with the same bytes."""

import itertools
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.forked import forked
from tests.stages.conftest import changed, never
from troupe.data.dataset import TokenDataset
from troupe.errors import ArtifactError
from troupe.evaluation.realism import Ruling
from troupe.files import read_json, sha256_file
from troupe.layout import CHECKPOINTS, EFFECTIVE_PARAMS, model_dir
from troupe.models.bundle import WEIGHTS, load_bundle
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT
from troupe.params import Params, dump_params
from troupe.stages import adversarial as stage
from troupe.stages import critic, following
from troupe.stages.adversarial import adversarial
from troupe.stages.common import stage_main
from troupe.stages.hearing import Hearing, ValidationJudges, validation_judges
from troupe.stages.log import read_metrics
from troupe.stages.reference import digest, small, small_reference

FOLDER = model_dir("adversarial")
LOG = FOLDER / "metrics.jsonl"


def test_it_writes_a_model_its_log_and_a_summary(experts: Params, capsys: pytest.CaptureFixture[str]) -> None:
    adversarial(experts)
    bundle, summary, log = load_bundle(FOLDER), read_json(FOLDER / "summary.json"), read_metrics(LOG)
    parent, reference = (load_bundle(model_dir(stage)) for stage in ("moe", "pretrain"))
    provenance = bundle.config["provenance"]
    assert bundle.config["architecture"] == "switchhead"
    assert provenance["parent_weights_sha256"] == parent.sha256
    assert provenance["reference_weights_sha256"] == reference.sha256
    anew = small_reference(reference.model, TokenDataset.open(), experts)
    assert provenance["small_reference_weights_sha256"] == summary["small_reference_weights_sha256"] == digest(anew)
    assert summary["weights_sha256"] == bundle.sha256
    assert [record["step"] for record in log] == list(range(13))
    assert summary["start/val/bpb"] == log[0]["val/bpb"]
    assert [step for step in range(13) if "val/judge" in log[step]] == [0, 4, 8, 12]
    assert summary["contenders"] == {}  # all are told always: none is better
    assert summary["kept"] == "start: no generator of the game was told less at any look"
    assert (summary["signal"], summary["collapsed"], summary["steps"]) == (True, False, 12)
    out = capsys.readouterr().out
    assert f"adversarial: {summary['discriminator']}\n" in out
    assert f"adversarial: kept {summary['kept']}\n" in out
    assert "adversarial: discriminator 12/20" in out or "adversarial: discriminator  4/20" in out
    assert [path.stem for path in CHECKPOINTS.rglob("*.safetensors")] == ["00000012"]


class Recorder:
    """A judge that always says "generated", and keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[Sequence[str], Sequence[str]]] = []

    def fit(self, real: Sequence[str], fake: Sequence[str], seed: int) -> Callable[[Sequence[str]], np.ndarray]:
        self.shown.append((real, fake))
        return lambda texts: np.ones(len(texts))


def test_every_repetition_has_texts_of_its_own_at_the_same_places(experts: Params) -> None:
    """A judge learns twice in each, from one half of the text and the other. A look is heard as the first."""
    judges, start = validation_judges(TokenDataset.open(), experts), load_bundle(model_dir("moe"))
    once, twice = Recorder(), Recorder()
    replace(judges, judges={"recorder": once}).hear(start)
    found = replace(judges, judges={"recorder": twice}).hear(start, repetitions=2)
    assert once.shown == twice.shown[:2]
    for (real, fake), (again, other) in zip(twice.shown[:2], twice.shown[2:], strict=True):
        assert real == again
        assert fake != other
    assert found.accuracy == 0.5
    assert [len(ruling.correct) for ruling in found.rulings] == [found.figures["n"] / 2] * 2


def test_whoever_is_chosen_is_written(experts: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is chosen is what is written: its weights, and its look. Judges who find everybody
    better than who came before have the refined generator among them."""
    calls = itertools.count(1)

    def better_and_better(call: int) -> Hearing:
        return Hearing(
            {"judge": "linear", "accuracy": 1 / call}, [Ruling(np.ones(80, dtype=bool), np.tile(np.arange(40), 2), 0.5)]
        )

    monkeypatch.setattr(ValidationJudges, "hear", lambda judges, bundle, repetitions=1: better_and_better(next(calls)))
    for name in ("start", "refined"):
        monkeypatch.setattr(stage, "kept", lambda heard, fought, name=name: name)
        adversarial(experts)
        summary = read_json(FOLDER / "summary.json")
        same_weights = sha256_file(FOLDER / WEIGHTS) == sha256_file(model_dir("moe") / WEIGHTS)
        assert same_weights == (name == "start")
        assert (summary["kept_step"] == 0) == (name == "start")


def test_without_a_signal_the_likelihood_model_is_kept_as_it_is(
    experts: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    """A discriminator of eight hidden units cannot clear 0.99 in so few updates: it tells, but not so well."""
    adversarial(changed(experts, min_auc=0.99, critic_looks=1, critic_updates=1))
    summary, bundle = read_json(FOLDER / "summary.json"), load_bundle(FOLDER)
    assert (summary["signal"], summary["steps"], summary["kept_step"], summary["collapsed"]) == (False, 0, 0, False)
    assert re.fullmatch(
        r"no signal: AUC 0\.\d+ \(0\.\d+ to 0\.\d+\) against a bar of 0\.990 .*", summary["discriminator"]
    )
    assert summary["kept"] == f"start: {summary['discriminator']}"
    assert summary["contenders"] == {}
    assert summary["duels"] == []
    assert bundle.sha256 == load_bundle(model_dir("moe")).sha256
    assert summary["discriminator"] in capsys.readouterr().out


def test_a_discriminator_of_real_text_against_real_text_has_no_signal(
    experts: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other class replaced by other real text: nothing to tell, and it must say so."""

    def shuffled(model: GPT, real_NT: torch.Tensor, prompt_length: int, seeds: list[int]) -> torch.Tensor:
        return real_NT.roll(1, dims=0)

    monkeypatch.setattr(critic, "continued", shuffled)
    adversarial(changed(experts, critic_updates=20))
    assert read_json(FOLDER / "summary.json")["signal"] is False


def test_a_collapse_keeps_the_start_and_says_so(experts: Params) -> None:
    adversarial(changed(experts, learning_rate=1.0, kl_weight=0.0, max_bpb_rise=0.0))
    summary = read_json(FOLDER / "summary.json")
    assert (summary["kept_step"], summary["collapsed"]) == (0, True)
    assert summary["stopped"].startswith("val/bpb is")
    assert f"the game stopped, for {summary['stopped']}" in summary["kept"]
    assert summary["contenders"] == {}


@pytest.mark.parametrize(
    ("most", "width", "heads"), [(4, 96, 4), (6, 96, 6), (5, 96, 4), (7, 96, 6), (12, 10, 5), (3, 2, 1)]
)
def test_the_heads_of_the_small_reference_divide_its_width_evenly(
    experts: Params, most: int, width: int, heads: int
) -> None:
    config = GPTConfig(50, block_size=16, n_layer=3, n_head=most, n_embd=2 * most, dropout=0.1, positions="rotary")
    found = small(config, changed(experts, reference_embd=width, reference_layers=2).adversarial)
    assert (found.n_layer, found.n_head, found.n_embd, found.block_size) == (2, heads, width, 16)
    GPT(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        {"learn": "distil", "among": 2},
        {"learn": "ddo"},
        {"objective": "wgan", "warmup_critic": 3, "min_auc": 0.0},
        {"objective": "wgan-gp", "warmup_critic": 3, "min_auc": 0.0},
    ],
    ids=["distil", "ddo", "wgan", "wgan-gp"],
)
def test_every_way_to_learn_is_played(experts: Params, values: dict[str, object]) -> None:
    adversarial(changed(experts, steps=2, eval_interval=1, **values))
    summary = read_json(FOLDER / "summary.json")
    assert (summary["signal"], summary["steps"], summary["stopped"]) == (True, 2, None)
    assert [record["step"] for record in read_metrics(LOG)] == [0, 1, 2, 3][: 3 + (len(summary["contenders"]) > 0)]


def test_with_nothing_asked_for_nothing_is_done(experts: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((following, "taught"), (stage, "validation_judges"), (stage, "tilt")):
        monkeypatch.setattr(module, name, never)
    adversarial(changed(experts, learn="none"))
    summary = read_json(FOLDER / "summary.json")
    assert summary["kept"] == "start: nothing else was asked for"
    assert load_bundle(FOLDER).sha256 == load_bundle(model_dir("moe")).sha256


def test_tilted_and_refined_are_heard_from_the_simplest_on(experts: Params) -> None:
    adversarial(changed(experts, tilt_rounds=1, tilt_texts=24, steps=4, learning_rate=0.01, kl_weight=0.0))
    summary, log = read_json(FOLDER / "summary.json"), read_metrics(LOG)
    heard = summary["contenders"]
    order = [name for name in ("tilted_1", "refined") if name in heard]
    assert [duel["contender"] for duel in summary["duels"]] == order
    assert all("bpb" in figures for figures in heard.values())
    assert [record["step"] for record in log] == [0, 1, 2, 3, 4, 5, 6]
    assert "tilt/auc" in log[5]


def test_without_the_expert_model_it_says_what_to_run(workspace: Params) -> None:
    with pytest.raises(ArtifactError, match=r"artifacts/moe/config\.json"):
        adversarial(workspace)


def curves() -> list[dict[str, float]]:
    """The log without the time: draws, losses, looks and the choice."""
    return [{name: value for name, value in record.items() if name != "time"} for record in read_metrics(LOG)]


@pytest.mark.slow
def test_killed_without_warning_it_ends_with_the_same_bytes(experts: Params) -> None:
    experts = changed(experts, tilt_rounds=1)
    adversarial(experts)
    undisturbed, logged = load_bundle(FOLDER).sha256, curves()
    shutil.rmtree(FOLDER)
    shutil.rmtree(CHECKPOINTS)
    process = forked(lambda: adversarial(experts), Path("says"))
    while process.is_alive() and len(read_metrics(LOG)) < 6:
        time.sleep(0.001)
    process.kill()
    process.join()
    assert not (FOLDER / "summary.json").exists(), "killed too late to show anything"
    shutil.rmtree(FOLDER)  # as DVC does with a stage's outputs before it runs the stage again
    adversarial(experts)
    assert read_json(FOLDER / "summary.json")["resumed_at_step"] >= 4
    assert load_bundle(FOLDER).sha256 == undisturbed
    assert curves() == logged
    assert [record["step"] for record in logged] == list(range(15))


@pytest.mark.slow
def test_stopped_while_its_discriminator_learns_it_says_so_at_once(
    experts: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the game it stops between two steps (tests/adversarial/test_loop.py)."""
    dump_params(changed(experts, critic_texts=4000), EFFECTIVE_PARAMS)
    monkeypatch.setattr(sys, "argv", ["adversarial", "--params", str(EFFECTIVE_PARAMS)])
    says = Path("says.txt")
    process = forked(lambda: stage_main("adversarial", adversarial), says)
    while process.is_alive() and not (says.exists() and "discriminator, critic texts" in says.read_text()):
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM
    said = says.read_text().splitlines()[-1]
    assert said == "adversarial: stopped by SIGTERM while the discriminator learned; the same command begins it again"
    assert not (FOLDER / "summary.json").exists()
