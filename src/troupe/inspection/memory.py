"""The memory of a training step, by running one on tensors that have shapes and no content: exact, at no cost.

What torch's FakeTensorMode sees is what a CPU would allocate, autocast's bfloat16 copies of the weights among it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from troupe.models.gpt2 import GPT
from troupe.params import TrainParams
from troupe.training.loss import Autocast, cross_entropy
from troupe.training.optim import build_optimizers


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes. `best` is the copy of the best weights that training keeps; `activations` what the backward pass needs."""

    weights: int
    gradients: int
    optimizer: int
    best: int
    activations: int

    @property
    def total(self) -> int:
        """A lower bound of the peak: what single operations need beside it comes on top."""
        return self.weights + self.gradients + self.optimizer + self.best + self.activations


def training_memory(
    build: Callable[[], GPT], params: TrainParams, batch: int, context: int, autocast: Autocast, fused: bool
) -> TrainingMemory:
    """What one step of `train` on (batch, context) tokens holds.

    `fused`: attention by a kernel that never stores its (T, T) matrix, as on a GPU, and on a CPU without dropout. With
    dropout a CPU stores it.
    """
    with FakeTensorMode():
        model = build().train()
        if fused:
            _leave_attention_whole(model)
        ids_BT = torch.zeros(batch, context, dtype=torch.int64)
        activations = activation_bytes(model, lambda: cross_entropy(model, ids_BT, ids_BT, autocast))
        weights = _bytes(model.state_dict().values())
        return TrainingMemory(weights, weights, _optimizer_bytes(model, params), weights, activations)


def activation_bytes(model: torch.nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that `forward` keeps for its backward pass, each storage once; parameters are no activations."""
    saved: WeakSet[_Saved] = WeakSet()  # what is not on the way from the loss to a parameter is let go at once

    def keep(tensor: Tensor) -> _Saved:
        saved.add(held := _Saved(tensor))
        return held

    with saved_tensors_hooks(keep, lambda held: held.tensor):
        loss = forward()
    storages = {held.tensor.untyped_storage()._cdata: held.tensor.untyped_storage().nbytes() for held in saved}
    for parameter in model.parameters():
        storages.pop(parameter.untyped_storage()._cdata, None)
    del loss  # till here it held the graph
    return sum(storages.values())


@dataclass(frozen=True, eq=False)
class _Saved:
    tensor: Tensor


def _leave_attention_whole(model: GPT) -> None:
    """Without dropout of its matrix no kernel stores it; the dropout of its output stays."""
    for block in model.blocks:
        attention: Any = block.attention
        attention.config = replace(attention.config, dropout=0.0)


def _optimizer_bytes(model: GPT, params: TrainParams) -> int:
    optimizers = build_optimizers(model, params)
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    for optimizer in optimizers:
        optimizer.step()
    states = [state for optimizer in optimizers for state in optimizer.state.values()]
    return _bytes(tensor for state in states for tensor in state.values())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)
