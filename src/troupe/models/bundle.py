"""A stage's model on disk: model.safetensors, config.json (with the digest of the weights) and tokenizer.json."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from troupe.data.tokenizer import Tokenizer, load_tokenizer
from troupe.errors import ArtifactError
from troupe.files import read_json, write_atomic, write_json
from troupe.models.architectures import ARCHITECTURES, dimensions_of
from troupe.models.gpt2 import GPT

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
REMEDY = "restore it with `dvc checkout`, or run the stage that writes it again"


@dataclass(frozen=True)
class Bundle:
    model: GPT
    tokenizer: Tokenizer
    config: dict[str, Any]  # all of config.json
    sha256: str  # of the weights file


def save_bundle(folder: Path, model: GPT, tokenizer: Tokenizer, provenance: dict[str, Any]) -> str:
    """Write a model and what it needs; return the sha256 of its weights. Equal weights give equal bytes.

    config.json comes last: a save that was cut short is an absent bundle or a digest that does not match, never a
    wrong model.
    """
    architecture, dims = dimensions_of(model)
    weights = safetensors.torch.save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    sha256 = hashlib.sha256(weights).hexdigest()
    write_atomic(folder / WEIGHTS, weights)
    tokenizer.save(folder / TOKENIZER)
    config = {"architecture": architecture, "model": dims, "weights_sha256": sha256, "provenance": provenance}
    write_json(folder / CONFIG, config)
    return sha256


def load_bundle(folder: Path, device: str | torch.device = "cpu") -> Bundle:
    """Read a model, in eval mode, onto `device`.

    Raises ArtifactError, naming the file, if one is missing or corrupted, if the weights do not have the recorded
    digest (checked before they are parsed), or if the architecture is unknown.
    """
    config = read_json(folder / CONFIG)
    model = _build(folder / CONFIG, config)
    weights = _read_weights(folder / WEIGHTS, config)
    try:
        model.load_state_dict(safetensors.torch.load(weights))
    except (SafetensorError, RuntimeError):
        raise ArtifactError(f"{folder / WEIGHTS}: does not hold the model that {CONFIG} describes; {REMEDY}") from None
    tokenizer = load_tokenizer(folder / TOKENIZER)
    return Bundle(model.to(device).eval(), tokenizer, config, config["weights_sha256"])


def _build(path: Path, config: Any) -> GPT:
    try:
        name, dims, _ = config["architecture"], config["model"], config["weights_sha256"]
        build = ARCHITECTURES.get(name)
        if build is None:
            raise ArtifactError(f"{path}: unknown architecture {name!r}; this version knows {', '.join(ARCHITECTURES)}")
        return build(dims)
    except (KeyError, TypeError):
        raise ArtifactError(f"{path}: not the description of a model; {REMEDY}") from None


def _read_weights(path: Path, config: dict[str, Any]) -> bytes:
    try:
        weights = path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; {REMEDY}") from None
    found, recorded = hashlib.sha256(weights).hexdigest(), config["weights_sha256"]
    if found != recorded:
        raise ArtifactError(f"{path}: sha256 is {found[:12]}, not {str(recorded)[:12]} as in {CONFIG}; {REMEDY}")
    return weights
