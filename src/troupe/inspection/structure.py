"""What a model is made of and what a token costs, from its shape alone: nothing is computed, weights may be absent.

A MAC is one multiplication with its addition; FLOPs are twice as many. Only matrix products count: norms, activation
functions, softmax and gates are a few percent. Axes: B batch, T tokens of context, D model width, V vocabulary.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from troupe.inspection.attention import AttentionShape, attention_shape
from troupe.models.gpt2 import GPT
from troupe.models.switchhead import SwitchHead

LAYER = re.compile(r"blocks\.\d+\.")


@dataclass(frozen=True)
class ModelPart:
    """Modules of one name, in all layers together: how many, their parameters, the MACs of their matrices per token.

    `useful` counts of SwitchHead's experts those that are chosen, `executed` those that are computed.
    """

    name: str
    modules: int
    parameters: int
    useful: int
    executed: int


def without_weights(build: Callable[[], GPT]) -> GPT:
    """A model on torch's meta device: shapes without memory, so that any size costs nothing."""
    with torch.device("meta"):
        return build()


def parts(model: GPT) -> list[ModelPart]:
    """The model by its modules' names, in the order of the computation; the tied head's MACs stand with the embedding.

    Scores and weighted values, which no matrix of weights has a part in, are not among them: inspection/attention.py.
    """
    experts = _experts(model)
    found: dict[str, list[tuple[int, int, int]]] = {}
    for name, module in model.named_modules():
        parameters = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if parameters:
            costs = (parameters, *_macs(model, module, experts.get(module)))
            found.setdefault(LAYER.sub("blocks.", name) or _own(module), []).append(costs)
    return [ModelPart(name, len(of), *map(sum, zip(*of, strict=True))) for name, of in found.items()]


def _own(model: nn.Module) -> str:
    """The names of parameters that are in no module of the model: a tilt."""
    return ", ".join(name for name, _ in model.named_parameters(recurse=False))


def _experts(model: GPT) -> dict[nn.Module, AttentionShape]:
    """The matrices that hold a layer's experts side by side, and the layer's dimensions."""
    layers = [module for module in model.modules() if isinstance(module, SwitchHead)]
    return {matrix: attention_shape(layer) for layer in layers for matrix in (layer.value, layer.output)}


def _macs(model: GPT, module: nn.Module, experts: AttentionShape | None) -> tuple[int, int]:
    """Useful and executed."""
    if not (isinstance(module, nn.Linear) or (module is model.token_embedding and _is_tied(model))):
        return 0, 0
    macs = module.weight.numel()
    if experts is None:
        return macs, macs
    return macs * experts.top_k // experts.n_expert, macs * experts.computed // experts.n_expert


def _is_tied(model: GPT) -> bool:
    return not any(isinstance(child, nn.Linear) for child in model.children())
