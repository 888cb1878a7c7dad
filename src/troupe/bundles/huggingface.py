"""Public weights: a folder of Hugging Face's, with config.json and safetensors, or a GGUF file, read as our model.

The architectures are the same as ours; names and the way in which matrices are kept differ (bundles/shapes.py). What is
read here computes what transformers computes from the same files; files that ask for something that our model does not
express are refused. Only safetensors are read, never a pickle.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import SafetensorError
from torch import Tensor

from troupe.bundles.shapes import HEAD, PublicShape, our_config, shape_named
from troupe.data.gguf import GGUF, is_gguf
from troupe.errors import ArtifactError
from troupe.files import read_json
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT
from troupe.models.layers import QueryKey, Rotary

CONFIG, WEIGHTS, SHARDS = "config.json", "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Stored:
    """What lies on disk: `theirs` is the content of config.json, `read` gives a tensor by its name in `shapes`."""

    place: Path  # that messages name: the folder, or the file
    files: list[Path]  # that hold the weights
    theirs: dict[str, Any]
    shapes: dict[str, list[int]]
    read: Callable[[str], Tensor]

    @property
    def shape(self) -> PublicShape:
        return shape_named(self.theirs, self.place)


def is_public(place: Path) -> bool:
    """Whether it is a GGUF file, or a folder whose config.json is one of transformers, of whatever architecture."""
    if is_gguf(place):
        return True
    config = read_json(place / CONFIG)
    return isinstance(config, dict) and "model_type" in config


def read_config(place: Path) -> GPTConfig:
    """The dimensions in config.json, or in a GGUF file.

    Raises ArtifactError, naming the field, for what is no dimension and for what our model does not express.
    """
    if is_gguf(place):
        return our_config(GGUF.open(place).config, place)
    return our_config(read_json(place / CONFIG), place / CONFIG)


def open_weights(place: Path) -> Stored:
    """What lies in a folder or a GGUF file, of which only the heads are read. Raises ArtifactError for files that are
    missing or broken, or whose tensors are not those of `read_config`."""
    stored = _open_gguf(place) if is_gguf(place) else _open_folder(place)
    _require_tensors(stored, read_config(place))
    return stored


def import_model(place: Path, block_size: int | None = None, dropout: float | None = None) -> GPT:
    """The model in a folder or a file, float32, in eval mode, with the positions beyond `block_size` cut off.

    Raises ArtifactError: a file that is missing or broken, a field, tensor or shape that the model does not have.
    """
    config, stored = read_config(place), open_weights(place)
    shape = stored.shape
    if config.tied and HEAD in stored.shapes:
        embedding_VD = stored.read(shape.embedding)
        if not torch.equal(stored.read(HEAD).float(), embedding_VD.float()):
            raise ArtifactError(
                f"{place}: {HEAD} is not {shape.embedding}, though the head is tied to it in {shape.title}"
            )
    if block_size is not None and dropout is not None:
        config = replace(config, block_size=block_size, dropout=dropout)
    with torch.device("meta"):
        model = GPT(config)
    state = shape.our_tensors(model.state_dict(), stored.read)
    if (positions := "position_embedding.weight") in state:
        state[positions] = state[positions][: config.block_size].clone()
    model.load_state_dict(state, assign=True)
    for module in model.modules():
        if isinstance(module, QueryKey) and module.rotary is not None:  # its tables are in no file
            module.rotary = Rotary(config.attention_width // config.n_head, config.block_size, config.rotary_base)
    return model.eval()


def _require_tensors(stored: Stored, config: GPTConfig) -> None:
    place, shape, shapes = stored.place, stored.shape, stored.shapes
    layers = {name.split(".")[1] for name in shapes if name.startswith(f"{shape.layers}.")}
    described = CONFIG if place.is_dir() else "its description"
    if len(layers) < config.n_layer:
        field = shape.sizes["n_layer"][0]
        raise ArtifactError(
            f"{place / CONFIG if place.is_dir() else place}: {field} is {config.n_layer}, the weights are of "
            f"{len(layers)} layers"
        )
    with torch.device("meta"):
        expected = {name: list(tensor.shape) for name, tensor in shape.their_tensors(GPT(config)).items()}
    for name, wanted in expected.items():
        if name not in shapes:
            raise ArtifactError(f"{place}: there is no tensor {name}")
        if wanted != shapes[name]:
            raise ArtifactError(f"{place}: {name} is {tuple(shapes[name])}, which {described} does not describe")
    if others := shapes.keys() - expected.keys() - {HEAD}:
        raise ArtifactError(f"{place}: {min(others)} is no part of {shape.title}")


def _open_folder(folder: Path) -> Stored:
    theirs = read_json(folder / CONFIG)
    shape = shape_named(theirs, folder / CONFIG)
    shapes, places, files = {}, {}, weight_files(folder)
    for name, key, path, file in _tensors_of(files, shape):
        shapes[name] = list(file.get_slice(key).get_shape())
        places[name] = (path, key)

    def read(name: str) -> Tensor:
        path, key = places[name]
        with safetensors.safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(key)
        return tensor

    return Stored(folder, files, theirs, shapes, read)


def _open_gguf(path: Path) -> Stored:
    file = GGUF.open(path)
    return Stored(path, [path], file.config, file.shapes, lambda name: torch.tensor(file.read(name)))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a folder: one, or the shards that its index lists. Raises ArtifactError if there is none."""
    if (folder / SHARDS).is_file():
        try:
            names = sorted(set(read_json(folder / SHARDS)["weight_map"].values()))
            return [folder / Path(name).name for name in names]
        except (KeyError, TypeError, AttributeError):
            raise ArtifactError(f"{folder / SHARDS}: weight_map does not name the file of each tensor") from None
    if not (folder / WEIGHTS).is_file():
        raise ArtifactError(
            f"{folder}: neither {WEIGHTS} nor {SHARDS}; pickles are never read: open the model with transformers and "
            "save_pretrained it"
        )
    return [folder / WEIGHTS]


def _tensors_of(files: list[Path], shape: PublicShape) -> Iterator[tuple[str, str, Path, Any]]:
    """Each tensor's name in its shape, its name in the file, the file, and that file open."""
    for path in files:
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - no dict
                    if not key.endswith(shape.ignored or "\0"):
                        yield key.removeprefix(shape.prefix), key, path, file
        except (OSError, SafetensorError) as error:
            raise ArtifactError(f"{path}: not the safetensors of a model: {error}") from None
