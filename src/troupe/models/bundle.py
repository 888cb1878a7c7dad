"""A stage's model on disk: model.safetensors, tokenizer.json and config.json, with the digests of both.

A model that writes by resampling has files more, its sampler: critic.safetensors and reference-1.safetensors, ..., the
discriminator that chooses among candidates. Their shapes and digests stand in config.json too.
"""

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
from troupe.errors import ArtifactError, ParamsError
from troupe.files import read_json, sha256_file, write_atomic, write_json
from troupe.models.architectures import ARCHITECTURES, dimensions_of
from troupe.models.config import LARGEST
from troupe.models.discriminator import LSTMDiscriminator
from troupe.models.features import ReferenceFeatures
from troupe.models.gpt2 import GPT
from troupe.models.reader import Discriminator
from troupe.params import MOST_CANDIDATES

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", FILE
CRITIC = "critic.safetensors"
REMEDY = "restore it with `dvc checkout`, or run the stage that writes it again"
# What Python and torch raise who are told of a network what is missing, of another type, negative or beyond any memory.
NO_DESCRIPTION = (AttributeError, KeyError, TypeError, ValueError, ArithmeticError, MemoryError, RuntimeError)
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Resampling:
    """How a model writes whose text a discriminator chooses: of `candidates` continuations of `span` tokens one is
    drawn in proportion to exp(score). troupe.resampling does it. Raises ParamsError for a value out of range."""

    discriminator: Discriminator
    candidates: int
    span: int  # tokens that are chosen together
    context: int  # tokens that the discriminator reads: the span and what stands before it

    def __post_init__(self) -> None:
        if not 1 <= self.candidates <= MOST_CANDIDATES:
            raise ParamsError(
                f"candidates must be 1 to {MOST_CANDIDATES}, got {self.candidates}; 1: the model's own text"
            )
        if not 1 <= self.span < self.context:
            raise ParamsError(f"span must be at least 1 and below context ({self.context}), got {self.span}")
        if self.context > (most := self.discriminator.features.context):
            raise ParamsError(f"context ({self.context}) must not exceed the {most} tokens that the references read")


@dataclass(frozen=True)
class Bundle:
    model: GPT
    tokenizer: Tokenizer
    config: dict[str, Any]  # all of config.json
    sha256: str  # its `identity`
    resampling: Resampling | None = None  # None: it writes token by token


def save_bundle(
    folder: Path,
    model: GPT,
    tokenizer: Tokenizer,
    provenance: dict[str, Any],
    resampling: Resampling | None = None,
) -> str:
    """Write a model and what it needs; return its `identity`. Equal weights give equal bytes.

    config.json comes last: a save that was cut short is an absent bundle or a digest that does not match, never a
    wrong model.
    """
    architecture, dims = dimensions_of(model)
    config = {"architecture": architecture, "model": dims, "provenance": provenance}
    config["weights_sha256"] = _write_weights(folder / WEIGHTS, model)
    tokenizer.save(folder / TOKENIZER)
    config["tokenizer_sha256"] = sha256_file(folder / TOKENIZER)
    if resampling is not None:
        config["resampling"] = _write_sampler(folder, resampling)
    write_json(folder / CONFIG, config)
    return identity(config)


def load_bundle(folder: Path, device: str | torch.device = "cpu") -> Bundle:
    """Read a model and its sampler, if it has one, in eval mode, onto `device`.

    Raises ArtifactError, naming the file, if one is missing or corrupted, if it does not have the recorded digest
    (checked before it is parsed), or if the architecture is unknown.
    """
    config = read_json(folder / CONFIG)
    build = partial(_build, folder / CONFIG, config)
    _without_memory(build)  # whether it is a description, before anything else is asked of it
    model = _filled(build, folder / WEIGHTS, config.get("weights_sha256"), device)
    _checked(folder / TOKENIZER, config.get("tokenizer_sha256"))
    tokenizer = load_tokenizer(folder / TOKENIZER)
    resampling = _read_sampler(folder, config["resampling"], tokenizer, device) if "resampling" in config else None
    return Bundle(model, tokenizer, config, identity(config), resampling)


def identity(config: dict[str, Any]) -> str:
    """Of all that decides what a bundle writes, from its config.json: the sha256 of weights, tokenizer, architecture,
    dimensions and sampler. Provenance is no part of it."""
    parts = [config.get(name) for name in ("weights_sha256", "tokenizer_sha256", "architecture", "model", "resampling")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def found_identity(folder: Path) -> str:
    """The identity that a bundle has by the files that are there, whatever digests config.json says they have."""
    config = read_json(folder / CONFIG)
    try:
        names = files_of(config)
    except NO_DESCRIPTION:
        raise ArtifactError(f"{folder / CONFIG}: not the description of a model and its sampler; {REMEDY}") from None
    found = {name: sha256_file(folder / name) for name in names if name != CONFIG}
    config["weights_sha256"], config["tokenizer_sha256"] = found.pop(WEIGHTS), found.pop(TOKENIZER)
    if found:
        config["resampling"]["sha256"] = found
    return identity(config)


def files_of(config: dict[str, Any]) -> tuple[str, ...]:
    """The names of a bundle's files."""
    references = config.get("resampling", {}).get("references", ())
    return WEIGHTS, CONFIG, TOKENIZER, *(_sampler_files(len(references)) if references else ())


def _write_sampler(folder: Path, resampling: Resampling) -> dict[str, Any]:
    """Its entry in config.json; the tokenizer is the bundle's."""
    critic, references = resampling.discriminator.critic, resampling.discriminator.features.references
    shapes = [dimensions_of(reference) for reference in references]
    return {
        "candidates": resampling.candidates,
        "span": resampling.span,
        "context": resampling.context,
        "critic": critic.dimensions(),
        "references": [{"architecture": architecture, "model": dims} for architecture, dims in shapes],
        "sha256": {
            name: _write_weights(folder / name, network)
            for name, network in zip(_sampler_files(len(references)), (critic, *references), strict=True)
        },
    }


def _read_sampler(
    folder: Path, sampler: dict[str, Any], tokenizer: Tokenizer, device: str | torch.device
) -> Resampling:
    try:
        builds = [partial(_build, folder / CONFIG, reference) for reference in sampler["references"]]
        files = _sampler_files(len(builds))
        digests = [sampler["sha256"][name] for name in files]
        how = [sampler[name] for name in ("candidates", "span", "context")]
        for name, size in [*zip(("candidates", "span", "context"), how, strict=True), *sampler["critic"].items()]:
            if type(size) is not int or not 0 <= size <= LARGEST:
                raise ValueError(f"{name} is {size!r}")
        width = ReferenceFeatures(*map(_without_memory, builds)).width
        critic_of = partial(LSTMDiscriminator, **sampler["critic"], n_feature=width)
        _without_memory(critic_of)
        critic = _filled(critic_of, folder / files[0], digests[0], device)
        references = [
            _filled(build, folder / name, digest, device)
            for build, name, digest in zip(builds, files[1:], digests[1:], strict=True)
        ]
        return Resampling(Discriminator(critic, ReferenceFeatures(*references), tokenizer), *how)
    except (*NO_DESCRIPTION, ParamsError) as error:
        raise ArtifactError(f"{folder / CONFIG}: not the description of a sampler{_said(error)}; {REMEDY}") from None


def _sampler_files(references: int) -> list[str]:
    return [CRITIC, *(f"reference-{number}.safetensors" for number in range(1, references + 1))]


def _build(path: Path, config: Any) -> GPT:
    try:
        name, dims = config["architecture"], config["model"]
        build = ARCHITECTURES.get(name)
        if build is None:
            raise ArtifactError(f"{path}: unknown architecture {name!r}; this version knows {', '.join(ARCHITECTURES)}")
        return build(dims)
    except NO_DESCRIPTION as error:
        raise ArtifactError(f"{path}: not the description of a model{_said(error)}; {REMEDY}") from None


def _said(error: Exception) -> str:
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
