"""GGUF files, llama.cpp's form of a model: read with the package `gguf`, in the terms of Hugging Face transformers.

Of a file's own description every key of the architecture must be one that is known here, so that nothing that the model
does not compute is passed over. llama.cpp turns neighbouring features of a Llama's heads where transformers turns the
two halves, and its converter reorders the rows of queries and keys for that; `read` puts them back.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from troupe.errors import ArtifactError, ParamsError

Fields = dict[str, Any]
FAULTS = (ValueError, IndexError, KeyError, TypeError, OverflowError, OSError)  # of the reader, where a file is damaged
PERMUTED = "llama"
ARCHITECTURES = (PERMUTED, "qwen3")
# A key of an architecture, and the field of config.json that says the same.
KEYS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
OPTIONAL = ("attention.head_count_kv", "attention.key_length", "rope.freq_base")
IMPLIED = {"vocab_size", "rope.dimension_count", "attention.value_length"}  # given by others, or checked below
OUTSIDE = {"token_embd": "embed_tokens", "output_norm": "norm", "output": "lm_head"}
IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def is_gguf(place: Path) -> bool:
    return place.suffix == ".gguf" and place.is_file()


@dataclass(frozen=True)
class GGUF:
    """An open file: `config` as config.json would say it, `shapes` by transformers' names without their prefix."""

    path: Path
    fields: Fields  # all that the file says of itself
    config: Fields
    shapes: dict[str, list[int]]
    tensors: dict[str, Any]  # the package's, by the same names

    @classmethod
    def open(cls, path: Path) -> "GGUF":
        """Raises ArtifactError for a file that is damaged or that describes another architecture, ParamsError without
        the package."""
        return _opened(path, path.stat().st_mtime_ns)

    def read(self, name: str) -> NDArray[np.float32]:
        """A tensor, dequantised. Raises ArtifactError for a kind of quantisation that the package does not undo."""
        from gguf.quants import dequantize

        tensor = self.tensors[name]
        try:
            found: NDArray[np.float32] = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        except (NotImplementedError, *FAULTS) as error:
            raise ArtifactError(f"{self.path}: {name} cannot be dequantised ({error!r})") from None
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
        part = name.split(".")[-2]
        if self.config["model_type"] == PERMUTED and part in heads:
            n_head = self.config[heads[part]]
            return found.reshape(n_head, -1, 2, found.shape[1]).swapaxes(1, 2).reshape(found.shape)
        return found


@lru_cache(maxsize=1)  # a large vocabulary takes a second to read, and several ask
def _opened(path: Path, modified: int) -> GGUF:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ParamsError(f"{path}: GGUF files are read by the package gguf: pip install 'troupe[gguf]'") from None
    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {_their_name(tensor.name): tensor for tensor in reader.tensors}
        config = _config(path, fields, tensors)
    except FAULTS as error:
        raise ArtifactError(f"{path}: not a whole GGUF file of a model ({error!r})") from None
    shapes = {name: [int(size) for size in tensor.shape[::-1]] for name, tensor in tensors.items()}
    return GGUF(path, fields, config, shapes, tensors)


def _config(path: Path, fields: Fields, tensors: Fields) -> Fields:
    kind = fields["general.architecture"]
    if kind not in ARCHITECTURES:
        raise ArtifactError(f"{path}: general.architecture is {kind!r}; {', '.join(ARCHITECTURES)} are read")
    given = {key.removeprefix(f"{kind}."): value for key, value in fields.items() if key.startswith(f"{kind}.")}
    if given.get("rope.scaling.type", "none") == "none":
        given.pop("rope.scaling.type", None)
    if unknown := sorted(given.keys() - KEYS.keys() - IMPLIED):
        raise ArtifactError(f"{path}: {kind}.{unknown[0]} is {given[unknown[0]]!r}, which is not read")
    for key in KEYS:
        if key not in given and key not in OPTIONAL:
            raise ArtifactError(f"{path}: {kind}.{key} is missing")
        value = given.get(key, 1)
        if type(value) not in (int, float) or not value > 0:
            raise ArtifactError(f"{path}: {kind}.{key} is {value!r:.60}, no number above zero")
    config = {KEYS[key]: value for key, value in given.items() if key in KEYS}
    heads = config["num_attention_heads"]
    width = config.setdefault("head_dim", config["hidden_size"] // heads)
    config.setdefault("num_key_value_heads", heads)
    for key in ("rope.dimension_count", "attention.value_length"):
        if given.get(key, width) != width:
            raise ArtifactError(f"{path}: {kind}.{key} is {given[key]!r}, heads are {width} wide; nothing else is read")
    return config | {
        "model_type": kind,
        "vocab_size": int(tensors["embed_tokens.weight"].shape[1]),
        "rms_norm_eps": float(str(np.float32(config["rms_norm_eps"]))),  # 1e-5, which float32 makes 9.99999975e-6
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "eos_token_id": fields.get("tokenizer.ggml.eos_token_id"),
    }


def _their_name(name: str) -> str:
    """ "blk.3.attn_q.weight" is "layers.3.self_attn.q_proj.weight"; a name that is not known stays, to be refused."""
    module, _, kind = name.rpartition(".")
    if module.startswith("blk."):
        _, number, module = module.split(".", 2)
        return f"layers.{number}.{IN_BLOCK.get(module, module)}.{kind}"
    return f"{OUTSIDE.get(module, module)}.{kind}"
