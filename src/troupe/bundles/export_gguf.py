"""A model written as a GGUF file, llama.cpp's form, in float32, with its tokenizer and a Modelfile for Ollama.

Names are those of the package `gguf`; the rows of a Llama's queries and keys are put in llama.cpp's order, which turns
neighbouring features of a head (data/gguf.py has the way back).
"""

from pathlib import Path
from typing import Any

import numpy as np

from troupe.bundles.export import require_new, shape_of
from troupe.bundles.huggingface_tokenizer import merges
from troupe.bundles.shapes import HEAD, LLAMA, QWEN3, PublicShape, their_config
from troupe.data.gguf import PERMUTED
from troupe.data.public import PIECES, cuts
from troupe.data.tokenizer import BytePairTokenizer, ByteTokenizer, PretrainedTokenizer, Tokenizer, to_printable
from troupe.errors import ArtifactError, ParamsError
from troupe.files import write_atomic
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT

FILE, MODELFILE = "model.gguf", "Modelfile"
NORMAL, CONTROL = 1, 3  # token types


def export_gguf(folder: Path, model: GPT, tokenizer: Tokenizer) -> None:
    """Write a new folder with model.gguf and a Modelfile that has `ollama create` take it as it is, without a template.

    Raises ArtifactError, before anything is written, if the folder holds something or the file has no place for the
    model or its tokenizer; ParamsError without the package.
    """
    try:
        from gguf import GGUFWriter
    except ImportError:
        raise ParamsError("--format gguf: files are written by the package gguf: pip install 'troupe[gguf]'") from None
    shape = shape_of(model)
    if shape not in (LLAMA, QWEN3):
        raise ArtifactError(f"--format gguf: written are the shapes of Llama and Qwen3, not {shape.title}'s")
    vocabulary = _vocabulary(tokenizer)
    require_new(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = their_config(model.config, shape, tokenizer.end_id)
    writer = GGUFWriter(folder / FILE, config["model_type"])
    _describe(writer, model.config, config)
    writer.add_tokenizer_model("gpt2")
    for name, value in vocabulary.items():
        getattr(writer, f"add_{name}")(value)
    if tokenizer.end_id is not None:
        writer.add_eos_token_id(tokenizer.end_id)
    writer.add_add_bos_token(False)
    _add_tensors(writer, model, shape, config["model_type"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    lines = [f"FROM ./{FILE}", 'TEMPLATE "{{ .Prompt }}"', f"PARAMETER num_ctx {model.config.block_size}", ""]
    write_atomic(folder / MODELFILE, "\n".join(lines).encode())


def _describe(writer: Any, config: GPTConfig, theirs: dict[str, Any]) -> None:
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.block_size)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(theirs["intermediate_size"])
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(theirs["num_key_value_heads"])
    writer.add_key_length(theirs["head_dim"])
    writer.add_value_length(theirs["head_dim"])
    writer.add_rope_dimension_count(theirs["head_dim"])
    writer.add_rope_freq_base(config.rotary_base)
    writer.add_layer_norm_rms_eps(theirs["rms_norm_eps"])
    writer.add_vocab_size(config.vocab_size)


def _add_tensors(writer: Any, model: GPT, shape: PublicShape, kind: str) -> None:
    from gguf import MODEL_ARCH, get_tensor_name_map

    config = model.config
    names = get_tensor_name_map(MODEL_ARCH[kind.upper()], config.n_layer)
    heads = {"q_proj": config.n_head, "k_proj": config.n_kv_head or config.n_head}
    for name, tensor in shape.their_tensors(model).items():
        array, part = tensor.float().numpy(force=True), name.split(".")[-2]
        if kind == PERMUTED and part in heads:
            array = array.reshape(heads[part], 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        theirs = names.get_name(name if name == HEAD else shape.prefix + name, try_suffixes=(".weight",))
        writer.add_tensor(theirs, np.ascontiguousarray(array))


def _vocabulary(tokenizer: Tokenizer) -> dict[str, Any]:
    """By the names of the writer's methods. Raises ArtifactError for a tokenizer that is not over bytes."""
    if isinstance(tokenizer, ByteTokenizer):
        tokens: list[str] = to_printable([bytes([byte]) for byte in range(256)])
        return _listed("gpt-2", tokens, [], frozenset())
    if isinstance(tokenizer, BytePairTokenizer):
        pairs = [" ".join(to_printable(pair)) for pair in merges(tokenizer.tokens)]
        special = ["<|endoftext|>"] if tokenizer.end_id is not None else []
        tokens = to_printable(tokenizer.tokens) + special
        return _listed("gpt-2", tokens, pairs, frozenset(special))
    if isinstance(tokenizer, PretrainedTokenizer):
        theirs = cuts(tokenizer.library["pre_tokenizer"])
        alike = [name for name, known in PIECES.items() if theirs == cuts(known)]
        if alike:
            return _of_library(tokenizer, alike[0])
    raise ArtifactError(
        "--format gguf: the file has a place for tokenizers over bytes that cut a text as GPT-2, SmolLM2 or Qwen2 do, "
        "not for this model's; give --format huggingface"
    )


def _of_library(tokenizer: PretrainedTokenizer, pieces: str) -> dict[str, Any]:
    model = tokenizer.library["model"]
    tokens = [f"[unused {number}]" for number in range(tokenizer.vocab_size)]
    for token, number in {**model["vocab"], **tokenizer.special}.items():
        tokens[number] = token
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    return _listed(pieces, tokens, pairs, frozenset({*tokens} - model["vocab"].keys() | tokenizer.special.keys()))


def _listed(pieces: str, tokens: list[str], pairs: list[str], special: frozenset[str]) -> dict[str, Any]:
    types = [CONTROL if token in special else NORMAL for token in tokens]
    return {"tokenizer_pre": pieces, "token_list": tokens, "token_types": types, "token_merges": pairs}
