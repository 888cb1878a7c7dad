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

import pytest
import torch

from troupe.conversion.attention import convert
from troupe.data.tokenizer import load_tokenizer
from troupe.errors import ArtifactError
from troupe.files import read_json, sha256_file
from troupe.layout import CHECKPOINTS, EFFECTIVE_PARAMS, TOKENS, model_dir
from troupe.models.bundle import WEIGHTS, load_bundle, save_bundle
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, init_gpt2
from troupe.models.switchhead import SwitchHeadConfig
from troupe.params import Params, dump_params
from troupe.seeding import generator
from troupe.stages import adversarial as stage
from troupe.stages import critic
from troupe.stages.adversarial import adversarial
from troupe.stages.contenders import ValidationJudges, simplest_of_the_best
from troupe.stages.log import read_metrics

FOLDER = model_dir("adversarial")
LOG = FOLDER / "metrics.jsonl"
COMMAND = [sys.executable, "-m", "troupe.stages.adversarial", "--params", str(EFFECTIVE_PARAMS)]
SMALL = {
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
    assert summary["weights_sha256"] == bundle.sha256
    assert [record["step"] for record in log] == list(range(14))
    assert summary["start/val/bpb"] == log[0]["val/bpb"]
    assert [step for step in range(14) if "val/judge" in log[step]] == [0, 4, 8, 12]
    assert summary["contenders"].keys() == {"start", "start_resampled"}  # all are told always: none is better
    said = {f"contender/{name}": figures["accuracy"] for name, figures in summary["contenders"].items()}
    assert said.items() <= log[13].items()
    assert (summary["signal"], summary["collapsed"], summary["steps"]) == (True, False, 12)
    out = capsys.readouterr().out
    assert f"adversarial: {summary['discriminator']}\n" in out
    assert f"adversarial: kept {summary['kept']}\n" in out
    assert "adversarial: discriminator 12/20" in out or "adversarial: discriminator  4/20" in out
    assert [path.stem for path in CHECKPOINTS.rglob("*.safetensors")] == ["00000012"]


def test_the_model_carries_the_sampler_that_was_chosen(experts: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is chosen is what is written: its weights, its way to write, and its look. Judges who find everybody
    better than who came before have the refined generator among them."""
    calls = itertools.count(1)
    told = {"judge": "linear", "standard_error": 0.0}
    monkeypatch.setattr(ValidationJudges, "hear", lambda judges, bundle: {"accuracy": 1 / next(calls), **told})
    for name in ("start", "refined", "start_resampled", "refined_resampled"):
        monkeypatch.setattr(stage, "simplest_of_the_best", lambda heard, name=name: name)
        adversarial(experts)
        bundle, summary = load_bundle(FOLDER), read_json(FOLDER / "summary.json")
        same_weights = sha256_file(FOLDER / WEIGHTS) == sha256_file(model_dir("moe") / WEIGHTS)
        assert same_weights == name.startswith("start")
        assert (summary["kept_step"] == 0) == name.startswith("start")
        if name.endswith("resampled"):
            assert bundle.resampling is not None
            assert (bundle.resampling.candidates, bundle.resampling.span, bundle.resampling.context) == (2, 8, 12)
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


def test_without_a_game_there_is_the_start_to_resample(experts: Params) -> None:
    adversarial(changed(experts, learn="none"))
    summary = read_json(FOLDER / "summary.json")
    assert summary["contenders"].keys() == {"start", "start_resampled"}
    assert (summary["steps"], summary["kept_step"]) == (0, 0)
    assert [record["step"] for record in read_metrics(LOG)] == [0, 1]


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
    assert len(read_metrics(LOG)) == 4


def test_of_equals_the_simpler_is_kept() -> None:
    """The least is 0.60 with a standard error of 0.02: 0.62 is as good and simpler, 0.63 is not as good."""
    heard = {
        "start": {"accuracy": 0.63, "standard_error": 0.5},
        "refined": {"accuracy": 0.62, "standard_error": 0.01},
        "start_resampled": {"accuracy": 0.60, "standard_error": 0.02},
    }
    assert simplest_of_the_best(heard) == "refined"
    assert simplest_of_the_best(heard | {"refined": heard["start"]}) == "start_resampled"


def test_without_the_expert_model_it_says_what_to_run(workspace: Params) -> None:
    with pytest.raises(ArtifactError, match=r"artifacts/moe/config\.json"):
        adversarial(workspace)


def curves() -> list[dict[str, float]]:
    """The log without the time: draws, losses, looks and the choice."""
    return [{name: value for name, value in record.items() if name != "time"} for record in read_metrics(LOG)]


@pytest.mark.slow
def test_killed_without_warning_it_ends_with_the_same_bytes(experts: Params) -> None:
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
    assert [record["step"] for record in logged] == list(range(14))


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
