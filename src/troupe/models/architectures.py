"""The language models by name: how to build one from the dimensions in its config.json, and how to read them back."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT
from troupe.models.switchhead import SwitchHead, SwitchHeadConfig


def _build_gpt2(dims: Mapping[str, Any]) -> GPT:
    return GPT(GPTConfig(**dims))


def _build_switchhead(dims: Mapping[str, Any]) -> GPT:
    of_all = {name: value for name, value in dims.items() if name != "experts"}
    experts = SwitchHeadConfig(**dims["experts"])
    return GPT(GPTConfig(**of_all), attention=partial(SwitchHead, experts=experts))


ARCHITECTURES: dict[str, Callable[[Mapping[str, Any]], GPT]] = {
    "gpt2": _build_gpt2,
    "switchhead": _build_switchhead,
}


def dimensions_of(model: GPT) -> tuple[str, dict[str, Any]]:
    """The name and dimensions from which `ARCHITECTURES[name](dims)` builds a model of the same shape."""
    dims = asdict(model.config)
    for module in model.modules():
        if isinstance(module, SwitchHead):
            return "switchhead", dims | {"experts": asdict(module.experts)}
    return "gpt2", dims
