"""The language models by name: how to build one from the dimensions in its config.json."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from troupe.bundles.bundle import DENSE, Architectures, Bundle, read_bundle
from troupe.models.config import Entries, GPTConfig, Size, dense, described
from troupe.models.contexts import Contexts
from troupe.models.gpt2 import GPT, CausalSelfAttention
from troupe.models.mixing import Mixed, Mixture
from troupe.models.ngrams import NGrams
from troupe.models.switchhead import SwitchHead, SwitchHeadConfig
from troupe.models.tilted import Tilted


def _build_switchhead(dims: Mapping[str, Any]) -> GPT:
    return GPT(_of_all(dims), _experts(dims["experts"]))


def _build_tilted(dims: Mapping[str, Any]) -> GPT:
    config, experts = _of_all(dims), dims.get("experts")
    attention = CausalSelfAttention if experts is None else _experts(experts)
    return Tilted(config, attention, _ngrams(config, dims))


def _build_mixed(dims: Mapping[str, Any]) -> GPT:
    config, experts = _of_all(dims), dims.get("experts")
    attention = CausalSelfAttention if experts is None else _experts(experts)
    return Mixed(config, attention, Mixture(_ngrams(config, dims), Contexts(config.vocab_size, *_size(dims))))


def _ngrams(config: GPTConfig, dims: Mapping[str, Any]) -> NGrams:
    return NGrams(config.vocab_size, described(list[tuple[Size, Size]], dims.get("ngrams")))


def _size(dims: Mapping[str, Any]) -> tuple[int, int]:
    return described(tuple[Entries, Entries], dims.get("contexts"))


def _of_all(dims: Mapping[str, Any]) -> GPTConfig:
    return dense({name: value for name, value in dims.items() if name not in ("experts", "ngrams", "contexts")})


def _experts(dims: Mapping[str, Any]) -> Callable[[GPTConfig], nn.Module]:
    experts = described(SwitchHeadConfig, dims)
    if experts.top_k > experts.n_expert:
        raise ValueError(f"top_k ({experts.top_k}) must not exceed n_expert ({experts.n_expert})")
    return partial(SwitchHead, experts=experts)


ARCHITECTURES: Architectures = {
    **DENSE,
    "switchhead": _build_switchhead,
    "tilted": _build_tilted,
    "mixed": _build_mixed,
}


def load_bundle(folder: Path, device: str | torch.device = "cpu") -> Bundle:
    """Read a model of any stage in eval mode, onto `device`. Raises as `bundle.read_bundle` does."""
    return read_bundle(folder, ARCHITECTURES, device)
