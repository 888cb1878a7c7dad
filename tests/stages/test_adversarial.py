"""The adversarial stage: files in, files out; killed without warning, it ends with the same bytes."""

import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.forked import forked
from tests.stages.conftest import changed, never
from troupe.adversarial import pretraining
from troupe.adversarial.method import Task
from troupe.adversarial.pretraining import digest, small, small_reference
from troupe.bundles.architectures import load_bundle
from troupe.data.dataset import TokenDataset
from troupe.errors import ArtifactError
from troupe.files import read_json
from troupe.judging.protocol import make_setup
from troupe.judging.selection import Selection
from troupe.layout import CHECKPOINTS, EFFECTIVE_PARAMS, model_dir
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT
from troupe.params import Params, ReferenceParams, dump_params
from troupe.progress import read_metrics
from troupe.stages import adversarial as stage
from troupe.stages.adversarial import adversarial
from troupe.stages.common import stage_main

FOLDER = model_dir("adversarial")
LOG = FOLDER / "metrics.jsonl"
NO_UNTRAINED_START = "gan.learning_rate=0.01 gan.kl_weight=0.0"


def summary() -> dict[str, Any]:
    found: dict[str, Any] = read_json(FOLDER / "summary.json")
    return found


def always(name: str) -> Any:
    return lambda candidates, margin: Selection(name, ())


def task(params: Params) -> Task:
    expert, dense = (load_bundle(model_dir(stage)) for stage in ("moe", "pretrain"))
    return Task(expert, dense, TokenDataset.open(), lambda model: 0.0, params.run.seed, 1)


def test_it_writes_a_model_its_log_and_a_summary(experts: Params, capsys: pytest.CaptureFixture[str]) -> None:
    adversarial(changed(experts, "methods=[gan]"))
    bundle, found, log = load_bundle(FOLDER), summary(), read_metrics(LOG)
    parent = load_bundle(model_dir("moe"))
    provenance, gan = bundle.config["provenance"], found["gan"]
    assert bundle.config["architecture"] == "switchhead"
    assert provenance["parent_weights_sha256"] == parent.sha256
    assert found["weights_sha256"] == bundle.sha256
    assert [record["step"] for record in log] == list(range(13))
    assert found["start/val/bpb"] == log[0]["gan/val/bpb"] == found["candidates"]["start"]["bpb"]
    assert [step for step in range(13) if "gan/val/bpb" in log[step]] == [0, 4, 8, 12]
    assert found["candidates"].keys() == {"start", "gan"}
    assert [(one["candidate"], one["against"]) for one in found["comparisons"]] == [("gan", "start")]
    assert found["selected"] == ("gan" if found["comparisons"][0]["better"] else "start")
    assert provenance["method"] == ("gan" if found["selected"] == "gan" else None)
    assert (gan["signal"], gan["collapsed"], gan["steps"], gan["kept_step"]) == (True, False, 12, 12)
    out = capsys.readouterr().out
    assert f"adversarial: gan: {gan['result']}\n" in out
    assert f"adversarial: kept {found['kept']}\n" in out
    assert "adversarial: discriminator 12/20" in out or "adversarial: discriminator  4/20" in out
    assert [path.stem for path in CHECKPOINTS.rglob("*.safetensors")] == ["00000012"]


def test_what_is_selected_is_what_is_reported(experts: Params) -> None:
    """Stage evaluate sets up judging as this stage does: on validation text its figures are these, to the last digit,
    whatever else is judged beside them."""
    adversarial(changed(experts, "methods=[tilt]", "tilt.rounds=1"))
    found, kept = summary(), load_bundle(FOLDER).model
    setup = make_setup(TokenDataset.open(), experts, kept.config.block_size, "test", "validation")
    judged = setup.on_validation({"evaluated": kept}, lambda figures: None)["evaluated"]
    reported = found["candidates"][found["selected"]]
    assert judged.detection.model_dump().items() <= reported.items()
    assert judged.worst == reported["judge"]


def test_controls_compete_as_every_method_does(experts: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start at other temperatures, and trained on: that resumes to the same weights."""
    settings = "methods=[likelihood, temperature];temperature.temperatures=[0.8, 1.25];likelihood.steps=6"
    settings += ";likelihood.batch_size=4;likelihood.eval_interval=3;likelihood.checkpoint_interval=2"
    monkeypatch.setattr(stage, "select", always("likelihood"))
    adversarial(changed(experts, *settings.split(";")))
    found, log, trained = summary(), read_metrics(LOG), load_bundle(FOLDER)
    assert found["candidates"].keys() == {"start", "temperature_0.8", "temperature_1.25", "likelihood"}
    assert trained.config["provenance"]["method"] == "likelihood"
    assert [step for step, record in enumerate(log, 1) if "likelihood/val/bpb" in record] == [3, 6]
    looks = {record["step"]: record["likelihood/val/bpb"] for record in log if "likelihood/val/bpb" in record}
    kept = found["likelihood"]["kept/step"]
    assert found["candidates"]["likelihood"]["bpb"] == looks[kept] == min(looks.values())
    assert found["candidates"]["start"]["bpb"] > looks[kept]  # an untrained model learns from any steps
    adversarial(changed(experts, *settings.split(";")))
    assert summary()["likelihood"]["resumed_at_step"] == 6
    assert load_bundle(FOLDER).sha256 == trained.sha256


def test_the_model_that_is_selected_is_written(experts: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    params = changed(experts, "methods=[gan, tilt]", "tilt.rounds=1", *NO_UNTRAINED_START.split())
    written, of = {}, params.adversarial.gan
    for name in ("start", "tilt_1", "gan"):
        monkeypatch.setattr(stage, "select", always(name))
        adversarial(params)
        bundle, found = load_bundle(FOLDER), summary()
        assert found["candidates"].keys() == {"start", "tilt_1", "gan"}
        assert found["selected"] == name
        assert bundle.config["provenance"]["method"] == {"start": None, "tilt_1": "tilt", "gan": "gan"}[name]
        written[name] = bundle.sha256
    references = load_bundle(model_dir("pretrain")).model, small_reference(task(params), of.discriminator.reference)
    recorded = load_bundle(FOLDER).config["provenance"]  # of gan, the last
    assert recorded["reference_weights_sha256"] == digest(references[0])
    assert recorded["small_reference_weights_sha256"] == digest(references[1])
    assert written["start"] == load_bundle(model_dir("moe")).sha256
    assert len(set(written.values())) == 3


def test_methods_share_a_reference_and_are_none_the_wiser(experts: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is trained once for gan and distil; distil ends with the weights that it ends with alone."""
    trained: list[ReferenceParams] = []
    train = pretraining.trained_reference
    monkeypatch.setattr(stage, "select", always("distil"))
    monkeypatch.setattr(pretraining, "trained_reference", lambda task, of: (trained.append(of), train(task, of))[1])
    written = []
    for methods in ("[distil]", "[gan, distil]"):
        adversarial(changed(experts, f"methods={methods}", *NO_UNTRAINED_START.split()))
        written.append(load_bundle(FOLDER).sha256)
        shutil.rmtree(CHECKPOINTS)
    assert len(trained) == 2
    assert written[0] == written[1] != load_bundle(model_dir("moe")).sha256


def test_without_a_signal_the_start_is_kept_and_nothing_is_judged(
    experts: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A discriminator of eight hidden units cannot clear 0.99 in one update: it separates them, but not so well."""
    monkeypatch.setattr(stage, "make_setup", never)
    settings = ("min_auc=0.99", "rounds=1", "updates=1")
    adversarial(changed(experts, "methods=[gan]", *(f"gan.discriminator.{setting}" for setting in settings)))
    found = summary()
    assert found["gan"]["signal"] is False
    pattern = r"no signal: AUC 0\.\d+ \(0\.\d+ to 0\.\d+\) against a bar of 0\.990 .*"
    assert re.fullmatch(pattern, found["gan"]["discriminator"])
    assert found["kept"] == f"start: gan: {found['gan']['discriminator']}"
    assert (found["candidates"], found["comparisons"]) == ({}, [])
    assert load_bundle(FOLDER).sha256 == load_bundle(model_dir("moe")).sha256


def test_a_discriminator_of_real_text_against_real_text_has_no_signal(
    experts: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other class replaced by other real text: there is nothing to separate, and it must say so."""

    def shuffled(model: GPT, real_NT: torch.Tensor, prompt_length: int, seeds: list[int]) -> torch.Tensor:
        return real_NT.roll(1, dims=0)

    monkeypatch.setattr(pretraining, "continued", shuffled)
    adversarial(changed(experts, "methods=[gan]", "gan.discriminator.updates=20"))
    assert summary()["gan"]["signal"] is False


def test_a_collapse_keeps_the_start_and_says_so(experts: Params) -> None:
    adversarial(changed(experts, "methods=[gan]", "gan.learning_rate=1.0", "gan.kl_weight=0.0", "gan.max_bpb_rise=0.0"))
    found = summary()
    assert (found["gan"]["kept_step"], found["gan"]["collapsed"]) == (0, True)
    assert found["gan"]["stopped"].startswith("val/bpb is")
    assert f"the game stopped: {found['gan']['stopped']}" in found["kept"]
    assert found["candidates"] == {}


@pytest.mark.parametrize(
    ("most", "width", "heads"), [(4, 96, 4), (6, 96, 6), (5, 96, 4), (7, 96, 6), (12, 10, 5), (3, 2, 1)]
)
def test_the_heads_of_the_small_reference_divide_its_width_evenly(most: int, width: int, heads: int) -> None:
    config = GPTConfig(50, block_size=16, n_layer=3, n_head=most, n_embd=2 * most, dropout=0.1, positions="rotary")
    settings = ReferenceParams(n_layer=2, n_embd=width, steps=1, batch_size=1, learning_rate=1.0)
    found = small(config, settings)
    assert (found.n_layer, found.n_head, found.n_embd, found.block_size) == (2, heads, width, 16)
    GPT(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        ("distil", ["distil.candidates=2"]),
        ("ddo", []),
        ("moments", ["moments.buckets=64"]),
        ("gan", ["gan.objective=wgan", "gan.warmup_critic=3", "gan.discriminator.min_auc=0.0"]),
        ("gan", ["gan.objective=wgan-gp", "gan.warmup_critic=3", "gan.discriminator.min_auc=0.0"]),
    ],
)
def test_every_method_is_played(experts: Params, method: str, overrides: list[str]) -> None:
    adversarial(changed(experts, f"methods=[{method}]", f"{method}.steps=2", f"{method}.eval_interval=1", *overrides))
    found = summary()[method]
    assert (found["steps"], found["stopped"], found["kept_step"]) == (2, None, 2)
    assert [record["step"] for record in read_metrics(LOG)] == [0, 1, 2]
    alone = method in ("ddo", "moments")  # without a discriminator
    assert (found.get("signal"), "discriminator" in found) == ((None, False) if alone else (True, True))


def test_with_no_method_nothing_is_done(experts: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "make_setup", never)
    adversarial(changed(experts, "methods=[]"))
    assert summary()["kept"] == "start: no method was asked for"
    assert load_bundle(FOLDER).sha256 == load_bundle(model_dir("moe")).sha256
    assert read_metrics(LOG) == []


def test_without_the_expert_model_it_says_what_to_run(workspace: Params) -> None:
    with pytest.raises(ArtifactError, match=r"artifacts/moe/config\.json"):
        adversarial(workspace)


def curves() -> list[Mapping[str, float]]:
    """The log without the time, method by method: draws, losses, measurements."""
    records = [{name: value for name, value in record.items() if name != "time"} for record in read_metrics(LOG)]
    return sorted(records, key=lambda record: (list(record)[1].partition("/")[0], record["step"]))


@pytest.mark.slow
def test_killed_without_warning_it_ends_with_the_same_bytes(experts: Params) -> None:
    """In the second game: the first resumes to its end at once, and the tilt is fitted again."""
    experts = changed(experts, "methods=[tilt, gan, distil]", "tilt.rounds=1", "gan.steps=2", "distil.candidates=2")
    adversarial(experts)
    undisturbed, logged = load_bundle(FOLDER).sha256, curves()
    shutil.rmtree(FOLDER)
    shutil.rmtree(CHECKPOINTS)
    process = forked(lambda: adversarial(experts), Path("says"))
    while process.is_alive() and distilled() <= 5:
        time.sleep(0.001)
    process.kill()
    process.join()
    assert not (FOLDER / "summary.json").exists(), "killed too late to show anything"
    shutil.rmtree(FOLDER)  # as DVC does with a stage's outputs before it runs the stage again
    adversarial(experts)
    assert summary()["distil"]["resumed_at_step"] >= 4
    assert summary()["gan"]["resumed_at_step"] == 2
    assert load_bundle(FOLDER).sha256 == undisturbed
    assert curves() == logged
    assert [record["step"] for record in logged] == [*range(13), *range(3), *range(2)]


def distilled() -> int:
    """Steps of distillation that are logged."""
    return sum("distil/generator/distil_loss" in record for record in read_metrics(LOG))


@pytest.mark.slow
def test_stopped_while_its_discriminator_is_trained_it_says_so_at_once(
    experts: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the game it stops between two steps (tests/adversarial/test_loop.py)."""
    dump_params(changed(experts, "methods=[gan]", "gan.discriminator.texts=4000"), EFFECTIVE_PARAMS)
    monkeypatch.setattr(sys, "argv", ["adversarial", "--params", str(EFFECTIVE_PARAMS)])
    says = Path("says.txt")
    process = forked(lambda: stage_main("adversarial", adversarial), says)
    while process.is_alive() and not (says.exists() and "discriminator, critic texts" in says.read_text()):
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM
    said = says.read_text().splitlines()[-1]
    assert (
        said == "adversarial: stopped by SIGTERM while the discriminator was trained; the same command begins it again"
    )
    assert not (FOLDER / "summary.json").exists()
