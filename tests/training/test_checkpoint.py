"""Checkpoints survive what can happen to files; the key changes with everything that shapes a run."""

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT
from troupe.compute import CPU, Arithmetic
from troupe.layout import CHECKPOINTS
from troupe.params import Section, load_params
from troupe.training import checkpoint as checkpoint_module
from troupe.training.checkpoint import STALE, Checkpoint, Checkpoints, folder_of, restore, run_key, snapshot, tidy_up


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", journal=tmp_path / "metrics.jsonl")


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(step, {"model.w": torch.full((2, 3), float(step))}, {"best": {"step": 2, "val/bpb": 1.5}})


def test_what_is_saved_comes_back(checkpoints: Checkpoints) -> None:
    checkpoints.save(checkpoint(4))
    found = checkpoints.newest()
    assert found is not None
    assert (found.step, found.facts) == (4, {"best": {"step": 2, "val/bpb": 1.5}})
    assert found.tensors["model.w"].equal(torch.full((2, 3), 4.0))


def test_nothing_saved_is_none(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest() is None


def test_the_two_newest_are_kept(checkpoints: Checkpoints) -> None:
    for step in (5, 10, 100_000_000, 20):  # the step's number decides, not its width or the order of saving
        checkpoints.save(checkpoint(step))
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == [
        "00000020.json",
        "00000020.safetensors",
        "100000000.json",
        "100000000.safetensors",
    ]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Any] = {
    "cut short": lambda folder: _cut(folder / "00000008.safetensors"),
    "empty": lambda folder: (folder / "00000008.safetensors").write_bytes(b""),
    "one bit flipped": lambda folder: _flip(folder / "00000008.safetensors"),
    "missing": lambda folder: (folder / "00000008.safetensors").unlink(),
    "facts cut short": lambda folder: _cut(folder / "00000008.json"),
    "facts of another kind": lambda folder: (folder / "00000008.json").write_text("{}"),
    "facts not an object": lambda folder: (folder / "00000008.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_newest_one_falls_back_to_the_one_before_with_one_line(
    checkpoints: Checkpoints, damage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints.save(checkpoint(4))
    checkpoints.save(checkpoint(8))
    damage(checkpoints.folder)
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 4
    (line,) = capsys.readouterr().out.splitlines()
    assert "00000008" in line


def test_tensors_without_facts_are_a_save_that_was_cut_short(checkpoints: Checkpoints) -> None:
    checkpoints.save(checkpoint(4))
    checkpoints.save(checkpoint(8))
    (checkpoints.folder / "00000008.json").unlink()
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 4


def test_the_metric_log_comes_back_after_dvc_cleared_the_outputs(checkpoints: Checkpoints) -> None:
    checkpoints.journal.write_text('{"step": 4}\n')
    checkpoints.save(checkpoint(4))
    checkpoints.journal.unlink()
    checkpoints.newest()
    assert checkpoints.journal.read_text() == '{"step": 4}\n'


class Rates(Section):
    rate: float


def test_the_key_depends_on_parameters_inputs_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text"
    text.write_text("a")
    key = partial(run_key, "pretrain")
    keys = [key({"pretrain": Rates(rate=0.1)}, [text])]
    assert key({"pretrain": Rates(rate=0.1)}, [text]) == keys[0]
    keys.append(key({"pretrain": Rates(rate=0.2)}, [text]))
    keys.append(key({"moe": Rates(rate=0.1)}, [text]))
    keys.append(run_key("moe", {"pretrain": Rates(rate=0.1)}, [text]))
    text.write_text("b")
    keys.append(key({"pretrain": Rates(rate=0.1)}, [text]))
    monkeypatch.setattr(checkpoint_module, "code_digest", lambda module: f"{module} was edited")
    keys.append(key({"pretrain": Rates(rate=0.1)}, [text]))
    assert len(set(keys)) == 6


def test_who_starts_the_processes_is_no_part_of_the_key() -> None:
    run = load_params(ROOT / "params.yaml").run
    plain, started_by_others, several = (
        run_key("pretrain", {"run": run.model_copy(update=change)}, [])
        for change in ({}, {"launcher": "torchrun"}, {"processes": 2})
    )
    assert plain == started_by_others != several


EAGER, COMPILED = (Arithmetic("cpu", "float32", compiled, 2, "2.0") for compiled in (False, True))


def test_another_arithmetic_starts_afresh_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # at first there is none, then its own
        Checkpoints(folder_of("pretrain", "key", EAGER), None).save(checkpoint(4))
    assert capsys.readouterr().out == ""
    assert Checkpoints(folder_of("pretrain", "key", COMPILED), None).newest() is None
    assert capsys.readouterr().out == (
        "pretrain: starts afresh as cpu2-float32-compiled-torch2.0; the checkpoints at hand are of "
        "cpu2-float32-eager-torch2.0\n"
    )


def test_what_is_tidied_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every fit: a run that has finished, one that was interrupted, and one that nobody came back to."""
    monkeypatch.chdir(tmp_path)
    for name in ("pretrain", "moe", "moe-control"):
        for key in ("done", "interrupted", "old"):
            run = Checkpoints(folder_of(name, key, EAGER), None)
            run.save(checkpoint(4))
            run.save(checkpoint(8))
            if key == "done":
                run.finish()
        os.utime(run.folder, (0, time.time() - STALE - 60))
    tidy_up("moe", "moe-control")
    left = {f"{path.parts[-4]} {path.parts[-3]} {path.stem}" for path in CHECKPOINTS.rglob("*.json")}
    assert left == {
        *("pretrain interrupted 00000004", "pretrain interrupted 00000008"),
        *("moe done 00000008", "moe interrupted 00000004", "moe interrupted 00000008"),
        *("moe-control done 00000008", "moe-control interrupted 00000004", "moe-control interrupted 00000008"),
    }
    assert {path.name for path in CHECKPOINTS.glob("*/*")} == {"done", "interrupted"}


def test_the_random_state_is_that_of_the_device_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that appears or disappears beside a run on the CPU changes nothing."""
    optimizer = torch.optim.SGD([torch.zeros(2, requires_grad=True)])
    saved = snapshot(1, {}, [optimizer], {})
    drawn = torch.rand(3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert snapshot(1, {}, [optimizer], {}).tensors.keys() == saved.tensors.keys() == {f"random.0.{CPU.type}"}
    restore(saved, [optimizer])
    assert torch.rand(3).equal(drawn)
