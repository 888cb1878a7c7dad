"""The adversarial stage: files in, files out; killed without warning, it ends with the same bytes."""

import itertools
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from troupe.conversion.attention import convert
from troupe.data.tokenizer import load_tokenizer
from troupe.errors import ArtifactError, CorpusError, Interrupted
from troupe.evaluation.realism import Ruling, verdict
from troupe.files import read_json, sha256_file
from troupe.layout import CHECKPOINTS, EFFECTIVE_PARAMS, TOKENS, model_dir
from troupe.models.bundle import WEIGHTS, load_bundle, save_bundle
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.switchhead import SwitchHeadConfig
from troupe.models.tilted import Tilted
from troupe.params import Params, dump_params, load_params
from troupe.seeding import generator
from troupe.stages import adversarial as stage
from troupe.stages import critic, following, hearing, texts, tilt
from troupe.stages.adversarial import adversarial
from troupe.stages.duels import duel, duels, kept
from troupe.stages.hearing import Hearing, ValidationJudges, validation_judges
from troupe.stages.log import read_metrics
from troupe.stages.reference import digest, small, small_reference

ROOT = Path(__file__).parents[2]
FOLDER = model_dir("adversarial")
LOG = FOLDER / "metrics.jsonl"
COMMAND = [sys.executable, "-m", "troupe.stages.adversarial", "--params", str(EFFECTIVE_PARAMS)]
SMALL = {
    "tilt_rounds": 0,
    "learn": "reinforce",
    "candidates": 2,
    "steps": 12,
    "batch_size": 4,
    "critic_embd": 8,
    "critic_hidden": 8,
    "critic_texts": 48,
    "critic_updates": 4,
    "critic_looks": 3,
    "critic_rounds": 2,
    "critic_batch_size": 16,
    "judge_texts": 30,
    "judge_seeds": 1,
    "kl_cap": math.inf,
    "eval_interval": 4,
    "checkpoint_interval": 2,
}
BOUNDS = {"max_bpb_rise": 10.0, "min_distinct": 0.0}


@pytest.fixture
def experts(workspace: Params) -> Params:
    """The workspace with artifacts/pretrain and moe in it; untrained, so that what they write is easily told."""
    tokenizer = load_tokenizer(TOKENS / "tokenizer.json")
    dense = GPT(GPTConfig(tokenizer.vocab_size, **workspace.model.model_dump()))
    init_gpt2(dense, generator(0, "test"))
    n_head, head_width = dense.config.n_head, dense.config.n_embd // dense.config.n_head
    experts = SwitchHeadConfig(n_head, head_width, n_expert=2, top_k=1, router="sigmoid")
    model = convert(dense, experts, "exact", generator(0, "test"))
    save_bundle(model_dir("pretrain"), dense, tokenizer, {"stage": "pretrain"})
    save_bundle(model_dir("moe"), model, tokenizer, {"stage": "moe"})
    return changed(workspace, **SMALL, **BOUNDS)


def same(one: GPT, other: GPT) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(mine, its) for mine, its in pairs)


def changed(params: Params, **values: object) -> Params:
    return params.model_copy(update={"adversarial": params.adversarial.model_copy(update=values)})


def test_it_writes_a_model_its_log_and_a_summary(experts: Params, capsys: pytest.CaptureFixture[str]) -> None:
    adversarial(experts)
    bundle, summary, log = load_bundle(FOLDER), read_json(FOLDER / "summary.json"), read_metrics(LOG)
    parent, reference = (load_bundle(model_dir(stage)) for stage in ("moe", "pretrain"))
    provenance = bundle.config["provenance"]
    assert bundle.config["architecture"] == "switchhead"
    assert provenance["parent_weights_sha256"] == parent.sha256
    assert provenance["reference_weights_sha256"] == reference.sha256
    anew = small_reference(reference.model, experts)
    assert provenance["small_reference_weights_sha256"] == summary["small_reference_weights_sha256"] == digest(anew)
    assert summary["weights_sha256"] == bundle.sha256
    assert [record["step"] for record in log] == list(range(14))
    assert summary["start/val/bpb"] == log[0]["val/bpb"]
    assert [step for step in range(14) if "val/judge" in log[step]] == [0, 4, 8, 12]
    assert summary["contenders"].keys() == {"start", "start_resampled"}  # all are told always: none is better
    assert [(duel["contender"], duel["against"]) for duel in summary["duels"]] == [("start_resampled", "start")]
    assert summary["kept"].startswith("start_resampled: " if summary["duels"][0]["won"] else "start: ")
    said = {f"contender/{name}": figures["accuracy"] for name, figures in summary["contenders"].items()}
    assert said.items() <= log[13].items()
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
    judges, start = validation_judges(load_tokenizer(TOKENS / "tokenizer.json"), experts), load_bundle(model_dir("moe"))
    once, twice = Recorder(), Recorder()
    replace(judges, judges={"recorder": once}).hear(start)
    found = replace(judges, judges={"recorder": twice}).hear(start, repetitions=2)
    assert once.shown == twice.shown[:2]
    for (real, fake), (again, other) in zip(twice.shown[:2], twice.shown[2:], strict=True):
        assert real == again
        assert fake != other
    assert found.accuracy == 0.5
    assert [len(ruling.correct) for ruling in found.rulings] == [found.figures["n"] / 2] * 2


def test_the_model_carries_the_sampler_that_was_chosen(experts: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is chosen is what is written: its weights, its way to write, and its look. Judges who find everybody
    better than who came before have the refined generator among them."""
    calls = itertools.count(1)

    def better_and_better(call: int) -> Hearing:
        return Hearing({"judge": "linear", "accuracy": 1 / call}, heard([[True] * 80]).rulings)

    monkeypatch.setattr(ValidationJudges, "hear", lambda judges, bundle, repetitions=1: better_and_better(next(calls)))
    for name in ("start", "refined", "start_resampled", "refined_resampled"):
        monkeypatch.setattr(stage, "kept", lambda heard, fought, name=name: name)
        adversarial(experts)
        bundle, summary = load_bundle(FOLDER), read_json(FOLDER / "summary.json")
        same_weights = sha256_file(FOLDER / WEIGHTS) == sha256_file(model_dir("moe") / WEIGHTS)
        assert same_weights == name.startswith("start")
        assert (summary["kept_step"] == 0) == name.startswith("start")
        if name.endswith("resampled"):
            assert bundle.resampling is not None
            assert (bundle.resampling.candidates, bundle.resampling.span, bundle.resampling.context) == (2, 4, 12)
            references = bundle.resampling.discriminator.features.references
            assert sha256_file(FOLDER / "reference-2.safetensors") == summary["small_reference_weights_sha256"]
            assert [reference.config.n_embd for reference in references] == [experts.model.n_embd, 8]
            assert same(references[0], load_bundle(model_dir("pretrain")).model)
            assert not same(references[1], small_reference(references[0], changed(experts, reference_steps=1)))
            assert same(references[1], small_reference(references[0], experts)), (
                "it is the same, to the byte, every time"
            )
        else:
            assert bundle.resampling is None


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
    assert bundle.resampling is None
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
    assert summary["contenders"].keys() == {"start", "start_resampled"}


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


def test_without_a_game_there_is_the_start_to_resample(experts: Params) -> None:
    adversarial(changed(experts, learn="none"))
    summary = read_json(FOLDER / "summary.json")
    assert summary["contenders"].keys() == {"start", "start_resampled"}
    assert (summary["steps"], summary["kept_step"]) == (0, 0)
    assert [record["step"] for record in read_metrics(LOG)] == [1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        {"learn": "distil", "among": 2},
        {"learn": "ddo"},
        {"objective": "wgan", "candidates": 1, "warmup_critic": 3, "min_auc": 0.0},
        {"objective": "wgan-gp", "candidates": 1, "warmup_critic": 3, "min_auc": 0.0},
    ],
    ids=["distil", "ddo", "wgan", "wgan-gp"],
)
def test_every_way_to_learn_is_played(experts: Params, values: dict[str, object]) -> None:
    adversarial(changed(experts, steps=2, eval_interval=1, **values))
    summary = read_json(FOLDER / "summary.json")
    assert (summary["signal"], summary["steps"], summary["stopped"]) == (True, 2, None)
    assert [record["step"] for record in read_metrics(LOG)] == [0, 1, 2, 3][: 3 + (len(summary["contenders"]) > 0)]


ONLY_TILTED = {"learn": "none", "candidates": 1, "tilt_texts": 24}


def never(*_: object) -> None:
    raise AssertionError("nobody asked for this")


def test_by_default_it_is_tilted_and_nobody_teaches_a_discriminator(
    experts: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that knows nothing, beside n-grams of a text of eight words: the tilt learns to heed them."""
    shipped = load_params(ROOT / "params.yaml").adversarial
    assert (shipped.learn, shipped.candidates, shipped.tilt_rounds) == ("none", 1, 3)
    monkeypatch.setattr(following, "taught", never)
    adversarial(changed(experts, **ONLY_TILTED, tilt_rounds=2, max_bpb_rise=0.01))
    bundle, summary, log = load_bundle(FOLDER), read_json(FOLDER / "summary.json"), read_metrics(LOG)
    parent = load_bundle(model_dir("moe"))
    assert bundle.config["architecture"] == "tilted"
    assert isinstance(bundle.model, Tilted)
    assert bundle.model.tilt.abs().min() > 0
    state = bundle.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in parent.model.state_dict().items())
    assert summary["contenders"].keys() == {"start", "tilted"}
    assert summary["kept"].startswith("tilted: tilted is told less than start by ")
    assert "% fewer bits: " in summary["kept"]
    assert "discriminator" not in summary
    assert "reference_weights_sha256" not in bundle.config["provenance"]
    assert [record["step"] for record in log] == [0, 1, 2, 3]
    assert log[0]["tilt/val_bpb"] == log[3]["contender_bpb/start"] == summary["start/val/bpb"]
    assert log[2]["tilt/val_bpb"] == log[3]["contender_bpb/tilted"] == summary["kept/val/bpb"]
    assert log[1]["tilt/val_bpb"] < 0.9 * log[0]["tilt/val_bpb"]
    assert log[1]["tilt/auc"] == pytest.approx(1, abs=0.01), "an untrained network is told always"
    assert summary["tilt/rounds"] == bundle.config["provenance"]["tilt_rounds_followed"] == 2
    assert summary["weights_sha256"] == bundle.sha256
    shutil.rmtree(FOLDER)
    adversarial(changed(experts, **ONLY_TILTED, tilt_rounds=2, max_bpb_rise=0.01))
    assert load_bundle(FOLDER).sha256 == bundle.sha256, "the same, to the byte, every time"


def test_a_tilt_learns_from_sequences_of_the_critics_split_each_once(experts: Params) -> None:
    model, ids = load_bundle(model_dir("moe")).model, np.load(TOKENS / "critic.npy").tolist()
    real_NT = tilt.real_text("critic", 10**12, model, experts)  # more than memory holds
    assert real_NT.size(1) == model.config.block_size
    assert len(real_NT) == len(ids) // model.config.block_size - 1
    found = {tuple(ids[i : i + real_NT.size(1)]): i for i in range(len(ids))}
    starts = [found[tuple(row)] for row in real_NT.tolist()]
    assert np.diff(sorted(starts)).min() == model.config.block_size
    assert len(tilt.real_text("critic", 5, model, experts)) == 5


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


def test_with_nothing_asked_for_nothing_is_done(experts: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((following, "taught"), (stage, "validation_judges"), (stage, "tilt")):
        monkeypatch.setattr(module, name, never)
    adversarial(changed(experts, learn="none", candidates=1))
    summary = read_json(FOLDER / "summary.json")
    assert summary["kept"] == "start: nothing else was asked for"
    assert load_bundle(FOLDER).sha256 == load_bundle(model_dir("moe")).sha256


def test_tilted_refined_and_resampled_are_heard_from_the_simplest_on(experts: Params) -> None:
    adversarial(changed(experts, tilt_rounds=1, tilt_texts=24, steps=4, learning_rate=0.01, kl_weight=0.0))
    summary, log = read_json(FOLDER / "summary.json"), read_metrics(LOG)
    heard = summary["contenders"]
    order = [name for name in ("tilted", "refined", "start_resampled", "refined_resampled") if name in heard]
    assert [duel["contender"] for duel in summary["duels"]] == order
    assert ("refined" in heard) == ("refined_resampled" in heard)
    assert {name for name, figures in heard.items() if "bpb" in figures} == heard.keys() & {
        "start",
        "tilted",
        "refined",
    }
    assert [record["step"] for record in log] == [0, 1, 2, 3, 4, 5, 6]
    assert "tilt/auc" in log[5]


def heard(told: Sequence[Sequence[bool] | np.ndarray] | np.ndarray, places: int = 40) -> Hearing:
    """A hearing by hand: `told` holds, of each repetition, whether the judge was right about every window."""
    place_M = np.tile(np.arange(places), 2)
    rulings = [Ruling(np.array(correct), place_M, 0.5) for correct in told]
    return Hearing({"accuracy": float(np.concatenate([ruling.correct for ruling in rulings]).mean())}, rulings)


def test_a_duel_is_the_paired_difference_with_its_clustered_error() -> None:
    """40 places of one repetition fall into stretches of 5: 8 of them. The judge is right about all windows of the
    simpler one; of the other it errs about both windows at the 10 places of the first two stretches.

    lead = 20/80 = 1/4. The residuals add up to 10 - 10/4 = 7.5 in two stretches and to -2.5 in six:
    variance = 8/7 (2 * 7.5^2 + 6 * 2.5^2) / 80^2 = 3/112.
    """
    errs = np.tile(np.arange(40) < 10, 2)
    found = duel("start", "refined", {"start": heard([[True] * 80]), "refined": heard([~errs])}, 0.01)
    assert (found.contender, found.against) == ("refined", "start")
    assert found.lead == pytest.approx(1 / 4)
    assert found.standard_error == pytest.approx(math.sqrt(3 / 112))
    assert not found.won  # 1/4 is less than two errors of 0.16


def test_what_both_find_hard_cancels() -> None:
    """Accuracies of 0.55 and 0.49 with errors of about 0.06 each: apart they tell nothing. But wherever the simpler one
    is not told the other is not told either, so that the difference stands out."""
    rng = np.random.default_rng(0)
    hard = rng.permutation(80) < 36
    also = hard | (np.arange(80) % 10 == 0)
    told = {"start": heard([~hard]), "refined": heard([~also])}
    alone = verdict(told["start"].rulings)["standard_error"]
    found = duel("start", "refined", told, 0.01)
    assert found.standard_error < alone / 2
    assert found.won
    assert 0 < found.lead < 2 * alone


def test_of_equals_the_simplest_is_kept_and_every_challenger_meets_who_is_kept_so_far() -> None:
    """Right about 60, 60, 40 and 39 of 80 windows, evenly over the text: the third is told less, beyond the error."""

    def right(n: int) -> Hearing:
        return heard([[(i * n) // 80 != ((i + 1) * n) // 80 for i in range(80)]] * 2)

    told = dict(
        zip(("start", "refined", "start_resampled", "refined_resampled"), map(right, (60, 60, 40, 39)), strict=True)
    )
    fought = duels(told, 0.01)
    assert [(one.contender, one.against, one.won) for one in fought] == [
        ("refined", "start", False),
        ("start_resampled", "start", True),
        ("refined_resampled", "start_resampled", False),
    ]
    assert fought[0].lead == fought[0].standard_error == 0.0
    assert kept(told, fought) == "start_resampled"
    assert kept({"start": told["start"]}, []) == "start"
    assert str(fought[0]) == "refined is told less than start by 0.000 ± 0.000: not enough"
    assert "it is better" in str(fought[1])


@pytest.mark.parametrize(
    ("lead", "bpb", "won", "said"),
    [
        (0.025, 0.99, True, "costs 1.0% fewer bits: told as often, it predicts better"),
        (-0.025, 0.99, True, "costs 1.0% fewer bits: told as often, it predicts better"),
        (0.025, 0.995, False, "costs 0.5% fewer bits: not enough"),
        (0.025, 1.005, False, "costs 0.5% more bits: not enough"),
        (-0.25, 0.5, False, "costs 50.0% fewer bits: not enough"),
        (0.25, 1.005, True, "costs 0.5% more bits: it is better"),
        (0.25, 1.02, False, "costs 2.0% more bits: it costs too many bits"),
        (0.25, 2.0, False, "costs 100.0% more bits: it costs too many bits"),
        (0.025, None, False, ": not enough"),
        (0.25, None, True, "it is better"),
    ],
)
def test_bits_decide_where_judges_do_not(lead: float, bpb: float | None, won: bool, said: str) -> None:
    """Of 40 windows each at 40 places; the differing ones evenly over the text. The bar is 1 % of the bits."""
    n = round(abs(lead) * 80)
    differs = np.isin(np.arange(80), np.linspace(0, 79, n).round().astype(int))
    told = [heard([np.ones(80, dtype=bool)]), heard([~differs])]
    simpler, other = told if lead > 0 else reversed(told)
    of = {"start": replace(simpler, bpb=1.0), "tilted": replace(other, bpb=bpb)}
    found = duel("start", "tilted", of, 0.0099)
    assert found.lead == pytest.approx(lead)
    assert found.won == won
    assert said in str(found)
    assert kept(of, duels(of, 0.0099)) == ("tilted" if won else "start")


def test_no_fewer_bits_are_no_gain_whatever_the_bar() -> None:
    of = {name: replace(heard([[True] * 80]), bpb=2.0) for name in ("start", "tilted")}
    assert not duel("start", "tilted", of, 0.0).won


def test_equal_contenders_are_exchanged_by_chance_in_few_cases() -> None:
    """Of 600 pairs of equal contenders. A normal deviate passes 2 with probability 0.023; the error, from eight
    stretches and two repetitions, is itself uncertain and on average too large."""
    rng = np.random.default_rng(0)

    def by_chance() -> Hearing:
        return heard(rng.random((2, 160)) < 0.7, places=80)

    won = sum(duel("a", "b", {"a": by_chance(), "b": by_chance()}, 0.01).won for _ in range(600))
    assert won / 600 < 0.04


def test_who_is_kept_untilted_has_followed_no_round(experts: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "kept", lambda heard, fought: "start")
    adversarial(changed(experts, **ONLY_TILTED, tilt_rounds=2))
    summary = read_json(FOLDER / "summary.json")
    assert (summary["tilt_rounds"], summary["tilt/rounds"]) == (2, 2)
    assert load_bundle(FOLDER).config["provenance"]["tilt_rounds_followed"] == 0


def test_a_large_vocabulary_is_written_few_at_a_time(experts: Params) -> None:
    """A gigabyte of float32: 2^28 numbers; of each token two a layer and width, keys and values, and one a logit."""
    wide = GPT(GPTConfig(2**18, block_size=64, n_layer=1, n_head=1, n_embd=2, dropout=0.0))
    asked: list[int] = []

    def count(real_BT: torch.Tensor, seeds: Sequence[int]) -> list[int]:
        asked.append(len(real_BT))
        return list(seeds)

    real_NT, small = torch.zeros(70, 8, dtype=torch.long), load_bundle(model_dir("moe")).model
    few = texts.side_by_side(count, wide, real_NT, "test", experts, ("test",))
    assert asked == [15] * 4 + [10]
    many = texts.side_by_side(count, small, real_NT, "test", experts, ("test",))
    assert asked[5:] == [32, 32, 6]
    assert list(itertools.chain(*few)) == list(itertools.chain(*many)), "a sequence keeps its seed"


def test_a_split_that_is_too_short_is_named(experts: Params) -> None:
    ids = np.load(TOKENS / "validation.npy")
    np.save(TOKENS / "validation.npy", ids[:16])
    with pytest.raises(CorpusError, match=r"^validation split: 16 tokens are too few for one text of 16 .*bring more"):
        adversarial(changed(experts, **ONLY_TILTED, tilt_rounds=1))


def asks_to_stop(calls: list[int]) -> Callable[..., None]:
    """Work in the middle of which SIGTERM comes."""

    def work(*_: object) -> None:
        calls.append(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.3)

    return work


def test_stopped_while_it_is_tilted_it_begins_no_other_piece(experts: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(tilt, "continued", asks_to_stop(calls))
    monkeypatch.setattr(texts, "AT_ONCE", 4)  # of 24
    with pytest.raises(Interrupted, match="stopped by SIGTERM while the model was tilted; the same command begins it"):
        adversarial(changed(experts, **ONLY_TILTED, tilt_rounds=1))
    assert len(calls) == 1
    assert not (FOLDER / "summary.json").exists()


def test_stopped_while_judges_hear_it_begins_no_other_piece(experts: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(hearing, "_texts", asks_to_stop(calls))
    with pytest.raises(Interrupted, match="stopped by SIGTERM while judges chose what is kept; the same command"):
        adversarial(changed(experts, **ONLY_TILTED, tilt_rounds=1, judge_seeds=5))
    assert len(calls) == 1
    assert not (FOLDER / "summary.json").exists()


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
    dump_params(experts, EFFECTIVE_PARAMS)
    with subprocess.Popen(COMMAND, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and len(read_metrics(LOG)) < 6:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
    assert not (FOLDER / "summary.json").exists(), "killed too late to show anything"
    shutil.rmtree(FOLDER)  # as DVC does with a stage's outputs before it runs the stage again
    adversarial(experts)
    assert read_json(FOLDER / "summary.json")["resumed_at_step"] >= 4
    assert load_bundle(FOLDER).sha256 == undisturbed
    assert curves() == logged
    assert [record["step"] for record in logged] == list(range(15))


@pytest.mark.slow
def test_stopped_while_its_discriminator_learns_it_says_so_at_once(experts: Params) -> None:
    """In the game it stops between two steps (tests/adversarial/test_loop.py)."""
    dump_params(changed(experts, critic_texts=4000), EFFECTIVE_PARAMS)
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        next(text for text in process.stdout if "discriminator, critic texts" in text)
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
        assert process.wait(10) == 128 + signal.SIGTERM
    assert said == "adversarial: stopped by SIGTERM while the discriminator learned; the same command begins it again\n"
    assert not (FOLDER / "summary.json").exists()
