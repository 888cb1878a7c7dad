"""The memory of a training step, by running one on tensors that have shapes and no content: in seconds, without a GPU.

What torch's FakeTensorMode sees is what the operations of an eager step ask for on a CPU, to the byte, autocast's
bfloat16 copies of the weights among it; the room that single operations need for a moment is not in it. For a GPU it
is an estimate: attention is a GPU's, the choice of what autocast leaves in float32 is a CPU's, and what CUDA, its
libraries and its allocator take for themselves comes on top. Steps that torch.compile has fused keep less.
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from troupe.models.gpt2 import GPT
from troupe.models.switchhead import SwitchHead
from troupe.params import TrainParams
from troupe.training.loop import cross_entropy
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
        """Of all, though gradients come while activations go: about the peak, without what operations need beside."""
        return self.weights + self.gradients + self.optimizer + self.best + self.activations


class GPUAttention(TorchFunctionMode):
    """Attention as a GPU computes it: in autocast's precision. On a CPU it is float32 (kernels/attention.py says why).

    A GPU's tensors cannot stand in, since torch fakes their backward pass only where it is built for CUDA.
    """

    def __init__(self, precision: torch.dtype) -> None:
        super().__init__()
        self.precision = precision

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            *q_k_v, mask = args
            args = (*(tensor.to(self.precision) for tensor in q_k_v), mask)
        return func(*args, **(kwargs or {}))


def training_memory(
    build: Callable[[], GPT],
    params: TrainParams,
    batch: int,
    context: int,
    precision: torch.dtype,
    device: Literal["cpu", "cuda"],
) -> TrainingMemory:
    """What one step of `train` on (batch, context) tokens holds, in float32 or under autocast to bfloat16."""
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=precision == torch.bfloat16)
    with FakeTensorMode(), GPUAttention(precision) if device == "cuda" else nullcontext():
        model = _computed_densely(build().train())
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


def _computed_densely(model: GPT) -> GPT:
    """In the other ways to compute experts, shapes depend on what tensors contain. They keep more: a copy of its token
    for every expert that is chosen."""
    for module in model.modules():
        if isinstance(module, SwitchHead):
            module.experts = replace(module.experts, compute="dense")
    return model


@dataclass(frozen=True, eq=False)
class _Saved:
    tensor: Tensor


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
