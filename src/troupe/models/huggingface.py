"""GPT-2 in the form of Hugging Face transformers: a folder with config.json and model.safetensors, read and written.

The architecture is one and the same; names differ, and transformers keeps its matrices (`Conv1D`) as (in, out), the
transpose of a linear layer's. What is read here computes what transformers computes from the same folder; a folder
that asks for something that our GPT-2 does not express is refused. Only safetensors are read, never a pickle.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from troupe.data.tokenizer import Tokenizer
from troupe.errors import ArtifactError
from troupe.files import read_json, write_atomic, write_json
from troupe.models.architectures import dimensions_of
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT, INIT_STD
from troupe.models.huggingface_tokenizer import write_tokenizer

CONFIG, WEIGHTS, SHARDS = "config.json", "model.safetensors", "model.safetensors.index.json"
SIZES = {"vocab_size": 50_257, "n_positions": 1024, "n_layer": 12, "n_head": 12, "n_embd": 768}  # where it is silent
# What our GPT-2 computes; the first value is what transformers takes where a config.json is silent.
EXPRESSED: dict[str, tuple[Any, ...]] = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),  # two names of one function
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
# Our modules and theirs, outside the blocks and in each.
OUTSIDE = {"token_embedding": "wte", "position_embedding": "wpe", "norm": "ln_f"}
IN_BLOCK = {
    "attention_norm": "ln_1",
    "attention.query_key_value": "attn.c_attn",
    "attention.output": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.input": "mlp.c_fc",
    "mlp.output": "mlp.c_proj",
}
PREFIX, HEAD = "transformer.", "lm_head.weight"
MASKS = (".attn.bias", ".attn.masked_bias")  # constants that older versions of transformers saved


def is_huggingface(folder: Path) -> bool:
    """Whether a folder's config.json is one of transformers, of whatever architecture."""
    config = read_json(folder / CONFIG)
    return isinstance(config, dict) and "model_type" in config


def read_config(folder: Path) -> GPTConfig:
    """The dimensions in config.json. Raises ArtifactError, naming the field, for what our GPT-2 does not express."""
    path, theirs = folder / CONFIG, read_json(folder / CONFIG)
    for field, values in EXPRESSED.items():
        if theirs.get(field, values[0]) not in values:
            raise ArtifactError(f"{path}: {field} is {theirs[field]!r}; GPT-2 has {values[0]!r}, nothing else is read")
    size = {field: theirs.get(field, default) for field, default in SIZES.items()}
    if theirs.get("n_inner") not in (None, 4 * size["n_embd"]):
        raise ArtifactError(f"{path}: n_inner is {theirs['n_inner']}; GPT-2 has 4 x n_embd, nothing else is read")
    block_size = size.pop("n_positions")
    return GPTConfig(**size, block_size=block_size, dropout=theirs.get("resid_pdrop", 0.1))


def import_gpt2(folder: Path) -> GPT:
    """The model in a folder, float32, in eval mode.

    Raises ArtifactError: a file that is missing or broken, a field, tensor or shape that GPT-2 does not have.
    """
    config, tensors = read_config(folder), _read_tensors(folder)
    with torch.device("meta"):
        model = GPT(config)
    state = {}
    for name, expected in model.state_dict().items():
        theirs = their_name(name)
        tensor = tensors.pop(theirs, None)
        if tensor is None:
            raise ArtifactError(f"{folder}: there is no tensor {theirs}")
        state[name] = (tensor.T if _is_transposed(theirs) else tensor).to(torch.float32).contiguous()
        if state[name].shape != expected.shape:
            raise ArtifactError(f"{folder}: {theirs} is {tuple(tensor.shape)}, which {CONFIG} does not describe")
    _refuse_others(folder, tensors, state["token_embedding.weight"])
    model.load_state_dict(state, assign=True)
    return model.eval()


def export_gpt2(folder: Path, model: GPT, tokenizer: Tokenizer) -> None:
    """Write a new folder that `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` open.

    Raises ArtifactError, before anything is written, if the folder holds something or the model is no exact GPT-2.
    """
    _require_gpt2(model)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(f"{folder}: exists already; name a new or an empty folder")
    tensors = {}
    for name, tensor in model.state_dict().items():
        theirs = their_name(name)
        tensors[PREFIX + theirs] = (tensor.T if _is_transposed(theirs) else tensor).contiguous()
    write_atomic(folder / WEIGHTS, safetensors.torch.save(tensors, {"format": "pt"}))
    write_tokenizer(folder, tokenizer, model.config.block_size)
    write_json(folder / CONFIG, _their_config(model.config, tokenizer.end_id))


def their_name(ours: str) -> str:
    """ "blocks.3.mlp.input.weight" is "h.3.mlp.c_fc.weight"."""
    module, _, kind = ours.rpartition(".")
    if module in OUTSIDE:
        return f"{OUTSIDE[module]}.{kind}"
    _, index, inside = module.split(".", 2)
    return f"h.{index}.{IN_BLOCK[inside]}.{kind}"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a folder: one, or the shards that its index lists. Raises ArtifactError if there is none."""
    if (folder / SHARDS).is_file():
        return [folder / name for name in sorted(set(read_json(folder / SHARDS)["weight_map"].values()))]
    if not (folder / WEIGHTS).is_file():
        raise ArtifactError(
            f"{folder}: neither {WEIGHTS} nor {SHARDS}; pickles are never read: open the model with transformers and "
            "save_pretrained it"
        )
    return [folder / WEIGHTS]


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        try:
            tensors |= safetensors.torch.load_file(path)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(f"{path}: not the safetensors of a model: {error}") from None
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if not name.endswith(MASKS)}


def _refuse_others(folder: Path, others: Mapping[str, Tensor], embedding_VD: Tensor) -> None:
    """What is left over may be a copy of the tied head, nothing else."""
    for name, tensor in others.items():
        if name != HEAD:
            raise ArtifactError(f"{folder}: {name} is no part of GPT-2")
        if not torch.equal(tensor.to(torch.float32), embedding_VD):
            raise ArtifactError(f"{folder}: {HEAD} is not wte.weight; GPT-2's head is tied, nothing else is read")


def _is_transposed(theirs: str) -> bool:
    return ".c_" in theirs and theirs.endswith(".weight")


def _require_gpt2(model: GPT) -> None:
    architecture, _ = dimensions_of(model)
    if architecture != "gpt2":
        what = "a tilt and its n-grams" if architecture == "tilted" else "experts"
        raise ArtifactError(f"{what} cannot be exported, transformers has no place for them; give --model pretrain")
    gpt2 = {field.name: field.default for field in fields(GPTConfig) if field.default is not MISSING}
    departures = {name: getattr(model.config, name) for name in gpt2 if getattr(model.config, name) != gpt2[name]}
    if departures:
        remedy = _as_set({name: value for name, value in gpt2.items() if value is not None})  # None follows from others
        raise ArtifactError(
            f"transformers has a place for GPT-2's architecture, this model departs from it ({_as_set(departures)}); "
            f'train one with PROFILE=gpu2-124m or SET="{remedy}"'
        )


def _as_set(values: Mapping[str, Any]) -> str:
    """As SET takes them: "model.norm=layer model.bias=true"."""
    return " ".join(f"model.{name}={str(value).lower()}" for name, value in values.items())


def _their_config(config: GPTConfig, end_of_text: int | None) -> dict[str, Any]:
    return {
        **{field: values[0] for field, values in EXPRESSED.items()},
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_inner": None,
        "attn_pdrop": 0.0,
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "initializer_range": INIT_STD,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": "float32",
    }
