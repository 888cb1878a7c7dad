"""A model written in the form of Hugging Face transformers: config.json, model.safetensors and its tokenizer."""

from pathlib import Path

import safetensors.torch

from troupe.bundles.huggingface import CONFIG, WEIGHTS
from troupe.bundles.huggingface_tokenizer import write_tokenizer
from troupe.bundles.shapes import HEAD, PublicShape, shape_for, their_config
from troupe.data.tokenizer import Tokenizer
from troupe.errors import ArtifactError
from troupe.files import write_atomic, write_json
from troupe.models.gpt2 import GPT


def export_model(folder: Path, model: GPT, tokenizer: Tokenizer) -> None:
    """Write a new folder that `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` open.

    Raises ArtifactError, before anything is written, if the folder holds something or the model has none of the shapes
    that transformers has a place for.
    """
    shape = shape_of(model)
    require_new(folder)
    tensors = {
        name if name == HEAD else shape.prefix + name: tensor.contiguous()
        for name, tensor in shape.their_tensors(model).items()
    }
    write_atomic(folder / WEIGHTS, safetensors.torch.save(tensors, {"format": "pt"}))
    write_tokenizer(folder, tokenizer, model.config.block_size)
    write_json(folder / CONFIG, their_config(model.config, shape, tokenizer.end_id))


def shape_of(model: GPT) -> PublicShape:
    """Raises ArtifactError for what no public shape has a place for."""
    architecture, _ = model.description()
    if architecture != "gpt2":
        parts = {"tilted": "a tilt and its n-grams", "mixed": "a mixture and its counts"}
        what = parts.get(architecture, "experts")
        raise ArtifactError(f"{what} cannot be exported, transformers has no place for them; give --model pretrain")
    return shape_for(model.config)


def require_new(folder: Path) -> None:
    """Raise ArtifactError if there is something in it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(f"{folder}: exists already; name a new or an empty folder")
