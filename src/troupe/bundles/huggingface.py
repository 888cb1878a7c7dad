"""GPT-2 in the form of Hugging Face transformers: a folder with config.json and model.safetensors, read and written.

The architecture is one and the same; names differ, and transformers keeps its matrices (`Conv1D`) as (in, out), the
transpose of a linear layer's. What is read here computes what transformers computes from the same folder; a folder
that asks for something that our GPT-2 does not express is refused. Only safetensors are read, never a pickle.
"""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from troupe.bundles.huggingface_tokenizer import write_tokenizer
from troupe.data.tokenizer import Tokenizer
from troupe.errors import ArtifactError
from troupe.files import read_json, write_atomic, write_json
from troupe.models.config import GPTConfig, dense
from troupe.models.gpt2 import GPT, INIT_STD

CONFIG, WEIGHTS, SHARDS = "config.json", "model.safetensors", "model.safetensors.index.json"
SIZES = {  # where it is silent
    "vocab_size": 50_257, "n_positions": 1024, "n_layer": 12, "n_head": 12, "n_embd": 768, "resid_pdrop": 0.1,
}  # fmt: skip
NAMES = {"n_positions": "block_size", "resid_pdrop": "dropout"}  # ours, where they differ
THEIR_NAMES = {ours: theirs for theirs, ours in NAMES.items()}
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
PREFIX, HEAD, EMBEDDING = "transformer.", "lm_head.weight", "wte.weight"
MASKS = (".attn.bias", ".attn.masked_bias")  # constants that older versions of transformers saved


def is_huggingface(folder: Path) -> bool:
    """Whether a folder's config.json is one of transformers, of whatever architecture."""
    config = read_json(folder / CONFIG)
    return isinstance(config, dict) and "model_type" in config


def read_config(folder: Path) -> GPTConfig:
    """The dimensions in config.json.

    Raises ArtifactError, naming the field, for what is no dimension and for what our GPT-2 does not express.
    """
    path, theirs = folder / CONFIG, read_json(folder / CONFIG)
    for field, values in EXPRESSED.items():
        if theirs.get(field, values[0]) not in values:
            raise ArtifactError(f"{path}: {field} is {theirs[field]!r}; GPT-2 has {values[0]!r}, nothing else is read")
    ours = {NAMES.get(field, field): theirs.get(field, default) for field, default in SIZES.items()}
    try:
        config = dense(ours)
    except ValueError as error:
        ours_name, _, what = str(error).partition(" ")
        raise ArtifactError(f"{path}: {THEIR_NAMES.get(ours_name, ours_name)} {what}") from None
    if theirs.get("n_inner") not in (None, 4 * config.n_embd):
        raise ArtifactError(f"{path}: n_inner is {theirs['n_inner']!r}; GPT-2 has 4 x n_embd, nothing else is read")
    return config


def import_gpt2(folder: Path) -> GPT:
    """The model in a folder, float32, in eval mode.

    Raises ArtifactError: a file that is missing or broken, a field, tensor or shape that GPT-2 does not have.
    """
    config = read_config(folder)
    require_weights(folder, config)
    tensors = _read_tensors(folder)
    embedding_VD = tensors[EMBEDDING]
    if not torch.equal(tensors.get(HEAD, embedding_VD).float(), embedding_VD.float()):
        raise ArtifactError(f"{folder}: {HEAD} is not {EMBEDDING}; GPT-2's head is tied, nothing else is read")
    with torch.device("meta"):
        model = GPT(config)
    state = {}
    for name in model.state_dict():
        tensor = tensors[their_name(name)]
        state[name] = (tensor.T if _is_transposed(their_name(name)) else tensor).to(torch.float32).contiguous()
    model.load_state_dict(state, assign=True)
    return model.eval()


def require_weights(folder: Path, config: GPTConfig) -> None:
    """Raise ArtifactError if the files of weights do not hold the tensors of this GPT-2; only their heads are read."""
    shapes = _read_shapes(folder)
    layers = {name.split(".")[1] for name in shapes if name.startswith("h.")}
    if len(layers) < config.n_layer:
        raise ArtifactError(f"{folder / CONFIG}: n_layer is {config.n_layer}, the weights are of {len(layers)} layers")
    with torch.device("meta"):
        expected = {their_name(name): list(tensor.shape) for name, tensor in GPT(config).state_dict().items()}
    for name, shape in expected.items():
        if name not in shapes:
            raise ArtifactError(f"{folder}: there is no tensor {name}")
        if (shape[::-1] if _is_transposed(name) else shape) != shapes[name]:
            raise ArtifactError(f"{folder}: {name} is {tuple(shapes[name])}, which {CONFIG} does not describe")
    if others := shapes.keys() - expected.keys() - {HEAD}:
        raise ArtifactError(f"{folder}: {min(others)} is no part of GPT-2")


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


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    return {name: file.get_tensor(key) for name, key, file in _stored(folder)}


def _read_shapes(folder: Path) -> dict[str, list[int]]:
    return {name: file.get_slice(key).get_shape() for name, key, file in _stored(folder)}


def _stored(folder: Path) -> Iterator[tuple[str, str, Any]]:
    """Each tensor's name in GPT-2, its name in the file, and the open file."""
    for path in weight_files(folder):
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - no dict
                    if not key.endswith(MASKS):
                        yield key.removeprefix(PREFIX), key, file
        except (OSError, SafetensorError) as error:
            raise ArtifactError(f"{path}: not the safetensors of a model: {error}") from None


def _is_transposed(theirs: str) -> bool:
    return ".c_" in theirs and theirs.endswith(".weight")


def _require_gpt2(model: GPT) -> None:
    architecture, _ = model.description()
    if architecture != "gpt2":
        parts = {"tilted": "a tilt and its n-grams", "mixed": "a mixture and its counts"}
        what = parts.get(architecture, "experts")
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
