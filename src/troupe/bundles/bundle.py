"""A stage's model on disk: model.safetensors, tokenizer.json and config.json, with the digests of both."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from troupe.data.tokenizer import FILE, Tokenizer, load_tokenizer
from troupe.errors import ArtifactError, ParamsError, UnsupportedError
from troupe.files import read_json, sha256_file, write_atomic, write_json
from troupe.models.config import dense
from troupe.models.gpt2 import GPT

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", FILE
FILES = (WEIGHTS, CONFIG, TOKENIZER)
REMEDY = "restore it with `dvc checkout`, or run the stage that writes it again"
# What Python and torch raise who are told of a network what is missing, of another type, negative or beyond any memory.
NO_DESCRIPTION = (AttributeError, KeyError, TypeError, ValueError, ArithmeticError, MemoryError, RuntimeError)
Network = TypeVar("Network", bound=nn.Module)
Architectures = Mapping[str, Callable[[Mapping[str, Any]], GPT]]  # by name: builds a model from dimensions
DENSE: Architectures = {"gpt2": lambda dims: GPT(dense(dims))}


@dataclass(frozen=True)
class Bundle:
    model: GPT
    tokenizer: Tokenizer
    config: dict[str, Any]  # all of config.json
    sha256: str  # its `identity`


def save_bundle(folder: Path, model: GPT, tokenizer: Tokenizer, provenance: dict[str, Any]) -> str:
    """Write a model and what it needs; return its `identity`. Equal weights give equal bytes.

    config.json comes last: a save that was cut short is an absent bundle or a digest that does not match, never a
    wrong model.
    """
    architecture, dims = model.description()
    config = {"architecture": architecture, "model": dims, "provenance": provenance}
    config["weights_sha256"] = _write_weights(folder / WEIGHTS, model)
    tokenizer.save(folder / TOKENIZER)
    config["tokenizer_sha256"] = sha256_file(folder / TOKENIZER)
    write_json(folder / CONFIG, config)
    return identity(config)


def load_dense(folder: Path, device: str | torch.device = "cpu") -> Bundle:
    """Read a model of stage pretrain, as `read_bundle` does."""
    return read_bundle(folder, DENSE, device)


def read_bundle(folder: Path, architectures: Architectures, device: str | torch.device) -> Bundle:
    """Read a model of one of these architectures in eval mode, onto `device`.

    Raises ArtifactError, naming the file, if one is missing or corrupted, if it does not have the recorded digest
    (checked before it is parsed), or if the architecture is another; UnsupportedError if it carries a discriminator.
    """
    config = _config(folder)
    build = partial(_build, folder / CONFIG, config, architectures)
    _without_memory(build)  # whether it is a description, before anything else is asked of it
    model = _filled(build, folder / WEIGHTS, config.get("weights_sha256"), device)
    _checked(folder / TOKENIZER, config.get("tokenizer_sha256"))
    tokenizer = load_tokenizer(folder / TOKENIZER)
    return Bundle(model, tokenizer, config, identity(config))


def identity(config: dict[str, Any]) -> str:
    """Of all that decides what a bundle writes, from its config.json: the sha256 of weights, tokenizer, architecture
    and dimensions. Provenance is no part of it."""
    parts = [config.get(name) for name in ("weights_sha256", "tokenizer_sha256", "architecture", "model")]
    parts.append(None)  # where a discriminator was described: so models registered before keep their digest
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def found_identity(folder: Path) -> str:
    """The identity that a bundle has by the files that are there, whatever digests config.json says they have.

    Raises as `read_bundle` does for a config.json that is missing or describes no model that this version knows.
    """
    config = _config(folder)
    config["weights_sha256"], config["tokenizer_sha256"] = (sha256_file(folder / name) for name in (WEIGHTS, TOKENIZER))
    return identity(config)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    config = read_json(path)
    if not isinstance(config, dict):
        raise ArtifactError(f"{path}: not the description of a model; {REMEDY}")
    if "resampling" in config:
        raise UnsupportedError(
            f"{path}: this model draws among candidates by a discriminator, which this version of troupe does not do; "
            "train it again"
        )
    return config


def _build(path: Path, config: Any, architectures: Architectures) -> GPT:
    try:
        name, dims = config["architecture"], config["model"]
        build = architectures.get(name)
        if build is None:
            raise ArtifactError(f"{path}: unknown architecture {name!r}; this version knows {', '.join(architectures)}")
        return build(dims)
    except NO_DESCRIPTION as error:
        raise ArtifactError(f"{path}: not the description of a model{_reason(error)}; {REMEDY}") from None


def _reason(error: Exception) -> str:
    """The field and what is wrong with it, where that is what an error says."""
    match error:
        case KeyError(args=[str(name)]):
            return f": {name} is missing"
        case ValueError() | ParamsError():
            return f": {error}"
    return ""


def _without_memory(build: Callable[[], Network]) -> Network:
    with torch.device("meta"):
        return build()


def _write_weights(path: Path, network: nn.Module) -> str:
    """The sha256 of what was written."""
    weights = safetensors.torch.save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    write_atomic(path, weights)
    return hashlib.sha256(weights).hexdigest()


def _filled(build: Callable[[], Network], path: Path, recorded: str | None, device: str | torch.device) -> Network:
    """With the weights of a file; on `device`, in eval mode. It gets memory when it is known that they fit it."""
    weights = _checked(path, recorded)
    try:
        tensors = safetensors.torch.load(weights)
        if _shapes(_without_memory(build).state_dict()) != _shapes(tensors):
            raise RuntimeError
        network = build()
        network.load_state_dict(tensors)
    except (SafetensorError, RuntimeError, MemoryError):
        raise ArtifactError(f"{path}: does not hold the model that {CONFIG} describes; {REMEDY}") from None
    return network.to(device).eval()


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _checked(path: Path, recorded: str | None) -> bytes:
    """The content of a file, whose digest is checked before anyone parses it."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; {REMEDY}") from None
    if (found := hashlib.sha256(content).hexdigest()) != recorded:
        raise ArtifactError(f"{path}: sha256 is {found[:12]}, not {str(recorded)[:12]} as in {CONFIG}; {REMEDY}")
    return content
