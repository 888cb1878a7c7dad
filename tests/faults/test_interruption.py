"""SIGTERM and Ctrl-C: state saved, one line, a status that says so; the same command again ends with the same bytes."""

import os
import random
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
from troupe.bundles.architectures import load_bundle
from troupe.files import read_json
from troupe.layout import CHECKPOINTS, EFFECTIVE_PARAMS, model_dir
from troupe.params import Params, dump_params
from troupe.progress import read_metrics
from troupe.stages.common import stage_main
from troupe.stages.pretrain import pretrain

FOLDER = model_dir("pretrain")
LOG = FOLDER / "metrics.jsonl"
SAYS = Path("says.txt")
COMMAND = [sys.executable, "-m", "troupe.stages.pretrain", "--params", str(EFFECTIVE_PARAMS)]


def stop_copy_after(steps: int, number: signal.Signals) -> tuple[int | None, str, float]:
    """As `stop_after`, with a process that begins as a copy of this one: it need not import anything."""
    process = forked(lambda: stage_main("pretrain", pretrain), SAYS)
    while process.is_alive() and len(read_metrics(LOG)) < steps:
        time.sleep(0.002)
    began = time.monotonic()
    os.kill(process.pid or 0, number)
    process.join(60)
    return process.exitcode, SAYS.read_text(), time.monotonic() - began


def stop_after(steps: int, number: signal.Signals) -> tuple[int, str, float]:
    """Run the stage's command and send it a signal once its log shows `steps` steps; status, stderr and seconds."""
    with subprocess.Popen(COMMAND, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and len(read_metrics(LOG)) < steps:
            time.sleep(0.002)
        began = time.monotonic()
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
        return process.returncode, said, time.monotonic() - began


def steps_done(said: str, name: str) -> int:
    (line,) = [line for line in said.splitlines() if line.startswith("pretrain: ")]
    found = re.fullmatch(rf"pretrain: stopped by {name} after step (\d+) of 40; the same command goes on there", line)
    assert found, said
    return int(found[1])


@pytest.mark.fault("SIGTERM, Ctrl-C in a training: saved, and the same weights")
def test_asked_to_stop_it_saves_and_goes_on_to_the_same_bytes(
    workspace: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", COMMAND[2:])
    dump_params(workspace, EFFECTIVE_PARAMS)
    pretrain(workspace)
    undisturbed = load_bundle(FOLDER).sha256
    shutil.rmtree(FOLDER)
    shutil.rmtree(CHECKPOINTS)
    rng = random.Random(time.time())
    for steps, number in ((rng.randrange(1, 15), signal.SIGTERM), (rng.randrange(20, 34), signal.SIGINT)):
        status, said, seconds = stop_copy_after(steps, number)
        assert (status, seconds < 10) == (128 + number, True)
        done = steps_done(said, number.name)
        assert done >= steps
        assert list(CHECKPOINTS.rglob(f"{done:08d}.json"))
        shutil.rmtree(FOLDER)  # as DVC does
    pretrain(workspace)
    assert load_bundle(FOLDER).sha256 == undisturbed
    assert [record["step"] for record in read_metrics(LOG)] == list(range(1, 41))


def losses_alone(params: Params) -> torch.Tensor:
    """Of every step, in one process; what it wrote is gone."""
    pretrain(params)
    losses = torch.tensor([record["train/loss"] for record in read_metrics(LOG)])
    shutil.rmtree(FOLDER)
    shutil.rmtree(CHECKPOINTS)
    return losses


@pytest.mark.slow
def test_processes_that_train_together_stop_together_and_resume(workspace: Params) -> None:
    """Two of them, asked to stop and started again: one line, one log, and the losses of a single process."""
    still = workspace.model_copy(
        update={
            "model": workspace.model.model_copy(update={"dropout": 0.0}),
            "run": workspace.run.model_copy(update={"precision": "float32"}),
            "pretrain": workspace.pretrain.model_copy(update={"optimizer": "adamw", "learning_rate": 0.002}),
        }
    )
    alone_N, apart_N = losses_alone(still), []
    for order in range(ORDERS):
        with every_batch_reordered(order):
            apart_N.append((losses_alone(still) - alone_N).abs())
    dump_params(still.model_copy(update={"run": still.run.model_copy(update={"processes": 2})}), EFFECTIVE_PARAMS)

    status, said, seconds = stop_after(8, signal.SIGTERM)
    assert (status, seconds < 10) == (128 + signal.SIGTERM, True)
    done = steps_done(said, "SIGTERM")
    finished = subprocess.run(COMMAND, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    records = read_metrics(LOG)
    assert [record["step"] for record in records] == list(range(1, 41))
    bound = tolerance(torch.stack(apart_N), alone_N)
    assert [record["train/loss"] for record in records] == pytest.approx(alone_N.tolist(), abs=bound)
    assert read_json(FOLDER / "summary.json")["resumed_at_step"] == done
