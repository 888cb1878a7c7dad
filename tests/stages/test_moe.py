"""The moe stage: experts from the pretrained model, beside the dense model trained on in the same way."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.forked import forked
from tests.numerics import ORDERS, every_batch_reordered, tolerance
from tests.training.test_parallel import Say, together
from troupe.bundles.architectures import load_bundle
from troupe.data.dataset import load_ids
from troupe.errors import ParamsError
from troupe.files import read_json
from troupe.layout import CHECKPOINTS, EFFECTIVE_PARAMS, TOKENS, model_dir
from troupe.models.switchhead import switchhead_layers
from troupe.params import Params, dump_params
from troupe.progress import read_metrics
from troupe.stages.common import stage_main
from troupe.stages.moe import WATCHED, _validation_windows, moe
from troupe.stages.pretrain import pretrain
from troupe.training.parallel import Team

FOLDER = model_dir("moe")
LOG = FOLDER / "metrics.jsonl"
COMMAND = [sys.executable, "-m", "troupe.stages.moe", "--params", str(EFFECTIVE_PARAMS)]
GIVEN_UP = re.compile(
    r"moe: stopped by SIGTERM after step \d+ of 100000 of the distillation; the same command begins it anew"
)
SWITCH = {"switch/bpb_before", "switch/bpb_after"}


@pytest.fixture(scope="module")
def trained(prepared: tuple[Path, Params], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stage before leaves behind, to be copied."""
    folder, params = prepared
    there = tmp_path_factory.mktemp("trained")
    shutil.copytree(folder, there, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(there)
        pretrain(params)
    return there


@pytest.fixture
def pretrained(workspace: Params, trained: Path) -> Params:
    shutil.copytree(trained, Path(), dirs_exist_ok=True)
    return workspace


@pytest.fixture
def distilled(pretrained: Params) -> Params:
    """Parameters by which one head of 8 learns what two of 8 did."""
    return changed(pretrained, conversion="distilled", n_head=1, head_width=8, distil_steps=20, distil_batch_size=4)


def changed(params: Params, **moe: object) -> Params:
    return params.model_copy(update={"moe": params.moe.model_copy(update=moe)})


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


def test_a_distilled_model_is_the_one_that_was_taught(distilled: Params) -> None:
    """It starts to train nearer to the dense model than one with the same random attention, untaught."""
    found = {}
    for conversion in ("distilled", "scratch"):
        moe(changed(distilled, conversion=conversion, control=False))
        found[conversion] = read_json(FOLDER / "summary.json"), read_metrics(LOG)[0]["train/loss"]
    (taught, taught_loss), (untaught, untaught_loss) = found["distilled"], found["scratch"]
    assert 0 < taught["distil/error"] < 0.5
    assert taught["switch/bpb_before"] == untaught["switch/bpb_before"]
    assert taught["switch/bpb_before"] < taught["switch/bpb_after"] < untaught["switch/bpb_after"]
    assert taught_loss < untaught_loss
    assert "distil/error" not in untaught
    model = load_bundle(FOLDER).model
    assert [layer.experts.n_head for layer in switchhead_layers(model)] == [1, 1]


def test_an_exact_switch_has_figures_of_its_own_and_no_lesson(pretrained: Params) -> None:
    moe(changed(pretrained, control=False))
    summary = read_json(FOLDER / "summary.json")
    assert summary["switch/bpb_after"] == pytest.approx(summary["switch/bpb_before"], rel=1e-3)
    assert {name for name in summary if name.startswith(("switch/", "distil/"))} == SWITCH


def test_killed_after_the_distillation_it_ends_with_the_same_bytes(distilled: Params) -> None:
    params = changed(distilled, control=False)
    moe(params)
    undisturbed = load_bundle(FOLDER).sha256
    shutil.rmtree(FOLDER)
    shutil.rmtree(CHECKPOINTS)
    process = forked(lambda: moe(params))
    while process.is_alive() and len(read_metrics(LOG)) < 5:
        time.sleep(0.001)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert not (FOLDER / "summary.json").exists(), "killed too late to show anything"
    shutil.rmtree(FOLDER)  # as DVC does with a stage's outputs before it runs the stage again
    moe(params)
    assert read_json(FOLDER / "summary.json")["resumed_at_step"] >= 4
    assert load_bundle(FOLDER).sha256 == undisturbed


def test_asked_to_stop_while_it_distils_it_says_so(distilled: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", COMMAND[2:])
    dump_params(changed(distilled, distil_steps=100_000), EFFECTIVE_PARAMS)
    says = Path("says.txt")
    process = forked(lambda: stage_main("moe", moe), says)
    while process.is_alive() and not (says.exists() and "moe-distil" in says.read_text()):
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM
    assert GIVEN_UP.fullmatch(says.read_text().splitlines()[-1])


FIGURES = ("distil/error", "switch/bpb_after", "best/val/bpb")


def figures_alone(params: Params) -> torch.Tensor:
    """FIGURES of one process; what it wrote is gone."""
    moe(params)
    summary = read_json(FOLDER / "summary.json")
    shutil.rmtree(FOLDER)
    shutil.rmtree(CHECKPOINTS, ignore_errors=True)
    return torch.tensor([summary[figure] for figure in FIGURES])


def test_two_processes_distil_what_one_does(distilled: Params, tmp_path: Path) -> None:
    """Without dropout, which differs from process to process."""
    distilled = changed(distilled, distil_learning_rate=0.01, control=False)
    distilled = distilled.model_copy(update={"model": distilled.model.model_copy(update={"dropout": 0.0})})
    two = distilled.model_copy(update={"run": distilled.run.model_copy(update={"processes": 2})})
    pretrain(distilled)
    alone_F, apart_OF = figures_alone(distilled), []
    for order in range(ORDERS):
        with every_batch_reordered(order):
            apart_OF.append((figures_alone(distilled) - alone_F).abs())

    def body(team: Team, say: Say) -> None:
        moe(two)
        say({"rank": torch.tensor(team.rank)})

    together(tmp_path, body)
    both = read_json(FOLDER / "summary.json")
    assert both["weights_sha256"] == load_bundle(FOLDER).sha256
    for figure, alone, apart_O in zip(FIGURES, alone_F, torch.stack(apart_OF, dim=1), strict=True):
        assert both[figure] == pytest.approx(alone.item(), abs=tolerance(apart_O, alone)), figure


@pytest.mark.slow
def test_two_processes_that_distil_stop_together(distilled: Params) -> None:
    endless = changed(distilled, distil_steps=100_000)
    two = endless.model_copy(update={"run": distilled.run.model_copy(update={"processes": 2})})
    dump_params(two, EFFECTIVE_PARAMS)
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert any("moe-distil" in line for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        told = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM
    (line,) = told.splitlines()
    assert GIVEN_UP.fullmatch(line)


def test_experts_that_cannot_be_computed_are_refused_before_anything_is_taught(distilled: Params) -> None:
    """What params.yaml could not tell: here the parameters come without its checks."""
    with pytest.raises(ParamsError, match=r"^moe\.compute: grouped takes widths .* moe\.head_width 6 ") as error:
        moe(changed(distilled, compute="grouped", head_width=6))
    assert "\n" not in str(error.value)
    compiled = distilled.model_copy(
        update={"run": distilled.run.model_copy(update={"precision": "float32", "compile": "always"})}
    )
    with pytest.raises(ParamsError, match=r"^moe\.compute: torch cannot compile grouped in float32"):
        moe(changed(compiled, compute="grouped"))
    assert not FOLDER.exists()


def test_routers_are_watched_on_the_first_windows(pretrained: Params) -> None:
    ids = load_ids(TOKENS, "validation").astype("int64")
    few = len(ids) // 3
    assert _validation_windows(ids, 4).equal(torch.from_numpy(ids[: WATCHED * 4]).view(WATCHED, 4))
    assert _validation_windows(ids, few).equal(torch.from_numpy(ids[: 3 * few]).view(3, few))
    assert _validation_windows(ids, 10**9).equal(torch.from_numpy(ids).view(1, -1)), "a text shorter than the context"


def test_without_a_control_there_is_none(pretrained: Params) -> None:
    moe(changed(pretrained, control=False))
    assert not (FOLDER / "control").exists()
    assert not any(name.startswith("control") for name in read_json(FOLDER / "summary.json"))


def test_one_seed_gives_one_sequence_of_bytes(pretrained: Params) -> None:
    digests = []
    for _ in range(2):
        shutil.rmtree(CHECKPOINTS, ignore_errors=True)
        moe(pretrained)
        digests.append((load_bundle(FOLDER).sha256, load_bundle(FOLDER / "control").sha256))
    assert digests[0] == digests[1]
