"""What the next update depends on, as named tensors: networks, optimisers and the random state of their device."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from troupe.training.checkpoint import Checkpoint
from troupe.training.parallel import Team

Tensors = Mapping[str, Tensor]


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
