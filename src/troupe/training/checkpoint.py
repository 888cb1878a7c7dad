"""Crash-safe checkpoints: everything that the next update depends on, on disk whole or not at all.

A checkpoint is two files in one folder: `00000100.safetensors` with every tensor, and `00000100.json` with the numbers
and the digest of the first, written last, so that its presence says the pair is complete. The two newest are kept; a
newest one that is cut short or damaged is passed over with one printed line. Beside them lies a copy of the metric log,
because DVC clears a stage's outputs before it runs the stage again.

`snapshot` and `restore` turn networks, optimisers and the random state of their device into named tensors and back.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.optim import Optimizer

from troupe.compute import Arithmetic
from troupe.dependencies import code_digest
from troupe.errors import ArtifactError
from troupe.files import read_json, sha256_file, write_atomic, write_json
from troupe.layout import CHECKPOINTS
from troupe.params import INCIDENTAL, Section
from troupe.training.parallel import Team

Tensors = Mapping[str, Tensor]
KEPT = 2  # the newest and the one to fall back to
FINISHED = "finished"  # a file beside the checkpoints of a run whose result is written
STALE = 30 * 24 * 3600  # seconds after which nobody will come back to a run


@dataclass(frozen=True)
class Checkpoint:
    """The state after `step` updates: named tensors and plain JSON facts."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, in a folder of their own; `journal` is the metric log that is kept with them.

    Without a journal they are for reading only, by a process that trains along with the one that writes.
    """

    def __init__(self, folder: Path, journal: Path | None) -> None:
        self.folder, self.journal = folder, journal

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint and forget all but the `KEPT` newest."""
        weights = safetensors.torch.save({name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()})
        write_atomic(self._tensors(checkpoint.step), weights)
        if self.journal and self.journal.exists():
            write_atomic(self.folder / self.journal.name, self.journal.read_bytes())
        digest = hashlib.sha256(weights).hexdigest()
        write_json(self._facts(checkpoint.step), {"step": checkpoint.step, "sha256": digest, "facts": checkpoint.facts})
        self._thin_out(KEPT)

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint, with the metric log put back; None where there is none."""
        for step in reversed(self._steps()):
            try:
                checkpoint = self._read(step)
            except ArtifactError as error:
                print(f"checkpoint passed over: {error}", flush=True)
                continue
            self._restore_journal()
            return checkpoint
        return None

    def before(self, step: int) -> Path | None:
        """The tensors of the newest checkpoint of fewer than `step` steps; None where there is none."""
        return next((self._tensors(found) for found in reversed(self._steps()) if found < step), None)

    def finish(self) -> None:
        """Mark the run as finished and keep its newest checkpoint, which resumes to its result at once."""
        self._thin_out(1)
        if self._steps():  # a game that ends early may have saved none
            (self.folder / FINISHED).touch()

    def _thin_out(self, kept: int) -> None:
        for step in self._steps()[:-kept]:
            self._facts(step).unlink()
            self._tensors(step).unlink(missing_ok=True)

    def _read(self, step: int) -> Checkpoint:
        found = read_json(self._facts(step))
        if not isinstance(found, dict) or sha256_file(self._tensors(step)) != found.get("sha256"):
            raise ArtifactError(f"{self._tensors(step)}: does not match its digest")
        return Checkpoint(found["step"], safetensors.torch.load_file(self._tensors(step)), found["facts"])

    def _restore_journal(self) -> None:
        if self.journal is None or self.journal.exists():
            return
        copy = self.folder / self.journal.name
        if copy.exists():
            write_atomic(self.journal, copy.read_bytes())

    def _steps(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("*.json"))

    def _tensors(self, step: int) -> Path:
        return self.folder / f"{step:08d}.safetensors"

    def _facts(self, step: int) -> Path:
        return self.folder / f"{step:08d}.json"


def run_key(stage: str, sections: Mapping[str, Section], inputs: Iterable[Path]) -> str:
    """32 hex digits that change with any parameter, input byte or line of the code of a stage: a changed run starts
    afresh, in a folder of its own. Only what no result depends on is left out (params.INCIDENTAL)."""
    parts = {
        "params": {
            name: section.model_dump(exclude=set(INCIDENTAL.get(name, ()))) for name, section in sections.items()
        },
        "inputs": [sha256_file(path) for path in inputs],
        "code": code_digest(f"troupe.stages.{stage}"),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def folder_of(name: str, key: str, how: Arithmetic) -> Path:
    """Where the checkpoints of a run lie, `<name>/<key>/<how>`; one line says so if they lie there for another `how`.

    Going on with another arithmetic would end with weights that neither computes: such a run starts afresh.
    """
    folder = CHECKPOINTS / name / key / str(how)
    others = sorted(other.name for other in folder.parent.glob("*"))
    if others and not folder.exists():
        print(f"{name}: starts afresh as {how}; the checkpoints at hand are of {', '.join(others)}", flush=True)
    return folder


def tidy_up(*current: str) -> None:
    """Called when a stage, of the fits `current`, has finished: delete the finished runs of all other fits.

    Not its own: if it is killed before DVC has noted its result, it resumes to it. Whoever came before it in a
    pipeline has been noted. And delete every run, of whatever parameters, that nobody has touched for `STALE` seconds.
    """
    for folder in CHECKPOINTS.glob("*/*/*"):
        finished = (folder / FINISHED).exists() and folder.parts[-3] not in current
        if finished or time.time() - folder.stat().st_mtime > STALE:
            shutil.rmtree(folder, ignore_errors=True)
            _remove_empty(folder.parent, folder.parent.parent)


def _remove_empty(*folders: Path) -> None:
    for folder in folders:
        if not any(folder.iterdir()):
            folder.rmdir()


def snapshot(
    step: int, networks: Mapping[str, Tensors], optimizers: Sequence[Optimizer], facts: Any, team: Team | None = None
) -> Checkpoint:
    """The state after `step` updates. `networks` are state dicts by name; `facts` whatever JSON can hold.

    Of a team, every process must call it: networks and optimisers are alike in all, the random state is each one's own.
    """
    random = (team or Team()).gather(_random_state(_device(optimizers)))
    parts = {**networks, "optimizer": _optimizer_tensors(optimizers), "random": random}
    tensors = {f"{part}.{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
    return Checkpoint(step, tensors, facts)


def restore(checkpoint: Checkpoint, optimizers: Sequence[Optimizer], rank: int = 0) -> dict[str, dict[str, Tensor]]:
    """Put optimisers and this process's random state back, and return the state dicts of the networks by name."""
    parts: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in checkpoint.tensors.items():
        part, _, name = full_name.partition(".")
        parts.setdefault(part, {})[name] = tensor
    _restore_optimizers(optimizers, parts.pop("optimizer", {}))
    _restore_random_state(parts.pop("random"), rank, _device(optimizers))
    return parts


def _optimizer_tensors(optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """Named "<which optimiser>.<which parameter>.<slot>", e.g. "0.12.momentum_buffer"."""
    return {
        f"{which}.{index}.{slot}": tensor
        for which, optimizer in enumerate(optimizers)
        for index, slots in optimizer.state_dict()["state"].items()
        for slot, tensor in slots.items()
    }


def _restore_optimizers(optimizers: Sequence[Optimizer], tensors: Tensors) -> None:
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for name, tensor in tensors.items():
        which, index, slot = name.split(".")
        states[int(which)].setdefault(int(index), {})[slot] = tensor
    for optimizer, state in zip(optimizers, states, strict=True):  # rates and the like stay as they were built
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _device(optimizers: Sequence[Optimizer]) -> torch.device:
    """Where the weights are, and dropout with them."""
    groups = (group for optimizer in optimizers for group in optimizer.param_groups)
    weight: Tensor = next(weight for group in groups for weight in group["params"])  # a group may be empty
    return weight.device


def _random_state(device: torch.device) -> dict[str, Tensor]:
    on_gpu = device.type == "cuda"
    return {device.type: torch.cuda.get_rng_state(device) if on_gpu else torch.get_rng_state()}


def _restore_random_state(states: Tensors, rank: int, device: torch.device) -> None:
    state = states[f"{rank}.{device.type}"]
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
