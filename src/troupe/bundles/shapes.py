"""The shapes of public weights that our model has too: GPT-2, Llama (SmolLM2, TinyLlama) and Qwen3.

What a config.json of transformers says, in our terms and back, and which of its tensors is which of ours. A field that
asks for something that our model does not compute is refused by its name. transformers keeps GPT-2's matrices
(`Conv1D`) as (in, out), the transpose of a linear layer's, and what is one matrix here may be several there.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from troupe.errors import ArtifactError
from troupe.models.config import GPTConfig, dense
from troupe.models.gpt2 import GPT, INIT_STD

HEAD = "lm_head.weight"
FLOAT32_STEP = torch.finfo(torch.float32).eps  # the epsilon of our RMSNorm that names none
Config = dict[str, Any]


@dataclass(frozen=True)
class PublicShape:
    """`sizes`: a field of GPTConfig, its name there and its value where config.json is silent. `expressed`: the values
    of other fields that our model computes; the first is what transformers takes where config.json is silent. `always`:
    what every model of the shape has in GPTConfig. `parts`: our modules and theirs, in `layers`.N if in a block."""

    title: str
    architecture: str
    prefix: str  # of all tensors but the head's
    layers: str
    embedding: str
    sizes: Mapping[str, tuple[str, Any]]
    expressed: Mapping[str, tuple[Any, ...]]
    always: Mapping[str, Any]
    parts: Mapping[str, tuple[str, ...]]
    transposed: bool = False
    ignored: tuple[str, ...] = ()  # endings of constants that older versions of transformers saved

    def their_names(self, ours: str) -> list[str]:
        """Without the prefix: "blocks.3.mlp.input.weight" is ["h.3.mlp.c_fc.weight"] in GPT-2."""
        module, _, kind = ours.rpartition(".")
        if module == "head":
            return [HEAD]
        before = ""
        if module.startswith("blocks."):
            _, number, module = module.split(".", 2)
            before = f"{self.layers}.{number}."
        return [f"{before}{part}.{kind}" for part in self.parts[module]]

    def their_tensors(self, model: GPT) -> dict[str, Tensor]:
        """All of a model's, by their names without the prefix."""
        found: dict[str, Tensor] = {}
        for ours, tensor in model.state_dict().items():
            names = self.their_names(ours)
            turned = self.turned(ours, tensor)
            rows = _rows(model.config, ours, len(turned)) if len(names) > 1 else [len(turned)]
            found |= dict(zip(names, torch.split(turned, rows), strict=True))
        return found

    def turned(self, ours: str, tensor: Tensor) -> Tensor:
        """A matrix as they keep it, or back."""
        return tensor.T if self.transposed and tensor.dim() == 2 and "embedding" not in ours else tensor

    def our_tensors(self, names: Mapping[str, Any], read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """In float32, by our `names`; `read` gives one of theirs."""
        found = {}
        for ours in names:
            theirs = [self.turned(ours, read(name)).to(torch.float32) for name in self.their_names(ours)]
            found[ours] = (theirs[0] if len(theirs) == 1 else torch.cat(theirs)).contiguous()
        return found

    def departures(self, config: GPTConfig) -> dict[str, Any]:
        """What a model of this shape would have instead, where `config` has something else."""
        return {name: value for name, value in self.always.items() if getattr(config, name) != value}


def _rows(config: GPTConfig, ours: str, total: int) -> list[int]:
    if "query_key_value" in ours:
        return [config.attention_width, config.cache_width, config.cache_width]
    return [total // 2, total // 2]


GPT2 = PublicShape(
    title="GPT-2",
    architecture="GPT2LMHeadModel",
    prefix="transformer.",
    layers="h",
    embedding="wte.weight",
    sizes={
        "vocab_size": ("vocab_size", 50_257),
        "block_size": ("n_positions", 1024),
        "n_layer": ("n_layer", 12),
        "n_head": ("n_head", 12),
        "n_embd": ("n_embd", 768),
        "dropout": ("resid_pdrop", 0.1),
    },
    expressed={
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),  # two names of one function
        "layer_norm_epsilon": (1e-5,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "tie_word_embeddings": (True,),
    },
    always={one.name: one.default for one in fields(GPTConfig) if one.default is not MISSING},
    parts={
        "token_embedding": ("wte",),
        "position_embedding": ("wpe",),
        "norm": ("ln_f",),
        "attention_norm": ("ln_1",),
        "attention.query_key_value": ("attn.c_attn",),
        "attention.output": ("attn.c_proj",),
        "mlp_norm": ("ln_2",),
        "mlp.input": ("mlp.c_fc",),
        "mlp.output": ("mlp.c_proj",),
    },
    transposed=True,
    ignored=(".attn.bias", ".attn.masked_bias"),
)
_GATED = {"positions": "rotary", "norm": "rms", "activation": "swiglu", "conv": 0, "bias": False}
_GATED_PARTS: dict[str, tuple[str, ...]] = {
    "token_embedding": ("embed_tokens",),
    "norm": ("norm",),
    "attention_norm": ("input_layernorm",),
    "attention.query_key_value": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.output": ("self_attn.o_proj",),
    "mlp_norm": ("post_attention_layernorm",),
    "mlp.input": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.output": ("mlp.down_proj",),
}
_GATED_EXPRESSED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "rope_type": ("default",),
    "partial_rotary_factor": (1.0,),
    "quantization_config": (None,),
}


def _gated_sizes(vocab_size: int, hidden: int, context: int, head_width: int | None) -> dict[str, tuple[str, Any]]:
    """Of a shape whose config.json is silent."""
    return {
        "vocab_size": ("vocab_size", vocab_size),
        "block_size": ("max_position_embeddings", context),
        "n_layer": ("num_hidden_layers", 32),
        "n_head": ("num_attention_heads", 32),
        "n_embd": ("hidden_size", 4096),
        "n_kv_head": ("num_key_value_heads", None),
        "head_width": ("head_dim", head_width),
        "mlp_width": ("intermediate_size", hidden),
        "rotary_base": ("rope_theta", 10_000.0),
        "norm_eps": ("rms_norm_eps", 1e-6),
        "tied": ("tie_word_embeddings", False),
    }


LLAMA = PublicShape(
    title="Llama",
    architecture="LlamaForCausalLM",
    prefix="model.",
    layers="layers",
    embedding="embed_tokens.weight",
    sizes=_gated_sizes(32_000, 11_008, 2048, None),
    expressed=_GATED_EXPRESSED | {"mlp_bias": (False,), "rope_interleaved": (False,)},
    always={**_GATED, "qk_norm": False},
    parts=_GATED_PARTS,
    ignored=(".rotary_emb.inv_freq",),
)
QWEN3 = PublicShape(
    title="Qwen3",
    architecture="Qwen3ForCausalLM",
    prefix="model.",
    layers="layers",
    embedding="embed_tokens.weight",
    sizes=_gated_sizes(151_936, 22_016, 32_768, 128),
    expressed=_GATED_EXPRESSED | {"use_sliding_window": (False,)},
    always={**_GATED, "qk_norm": True},
    parts=_GATED_PARTS
    | {"attention.prepare.query_norm": ("self_attn.q_norm",), "attention.prepare.key_norm": ("self_attn.k_norm",)},
)
SHAPES = {"gpt2": GPT2, "llama": LLAMA, "qwen3": QWEN3}


def shape_named(theirs: Config, place: Path) -> PublicShape:
    """The shape that `model_type` names. Raises ArtifactError for one that is not read."""
    kind = theirs.get("model_type")
    if kind not in SHAPES:
        raise ArtifactError(f"{place}: model_type is {kind!r}; {', '.join(SHAPES)} are read, nothing else")
    return SHAPES[kind]


def our_config(theirs: Config, place: Path) -> GPTConfig:
    """The dimensions that a config.json gives.

    Raises ArtifactError, naming the field, for what is no dimension and for what our model does not express.
    """
    shape, theirs = shape_named(theirs, place), _flat(theirs)
    for name, values in shape.expressed.items():
        if theirs.get(name, values[0]) not in values:
            has = f"{shape.title} has {values[0]!r}, nothing else is read"
            raise ArtifactError(f"{place}: {name} is {theirs[name]!r}; {has}")
    layers = theirs.get("layer_types") or []
    for kind in layers if isinstance(layers, list) else [layers]:
        if kind != "full_attention":
            raise ArtifactError(f"{place}: layer_types has {kind!r}; full_attention is read, nothing else")
    ours = {name: theirs.get(field, default) for name, (field, default) in shape.sizes.items()}
    try:
        config = dense({"dropout": 0.0, **shape.always, **_as_ours(ours)})
    except ValueError as error:
        name, _, what = str(error).partition(" ")
        raise ArtifactError(f"{place}: {shape.sizes.get(name, (name,))[0]} {what}") from None
    if theirs.get("n_inner") not in (None, 4 * config.n_embd):
        raise ArtifactError(f"{place}: n_inner is {theirs['n_inner']!r}; GPT-2 has 4 x n_embd, nothing else is read")
    return config


def _flat(theirs: Config) -> Config:
    """With the rotation's parameters beside the other fields, whichever version of transformers wrote them; of both
    places transformers takes the older, `rope_scaling`, unless it is empty."""
    rope = theirs.get("rope_scaling") or theirs.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        rope = {"rope_type": rope}
    kind = rope.get("rope_type", rope.get("type", "default"))
    return {**theirs, **rope, "rope_type": kind}


def _as_ours(sizes: Config) -> Config:
    """None where that means the same, so that equal models have equal descriptions."""
    same = dict(sizes)
    if sizes.get("n_kv_head") == sizes["n_head"]:
        same["n_kv_head"] = None
    heads, width, n_embd = sizes["n_head"], sizes.get("head_width"), sizes["n_embd"]
    if isinstance(heads, int) and isinstance(width, int) and heads * width == n_embd:
        same["head_width"] = None
    if isinstance(n_embd, int) and sizes.get("mlp_width") == 8 * n_embd // 3 // 8 * 8:
        same["mlp_width"] = None
    if sizes.get("norm_eps") == FLOAT32_STEP:
        same["norm_eps"] = None
    return same


def shape_for(config: GPTConfig) -> PublicShape:
    """The shape in which transformers computes what a model of this configuration computes.

    Raises ArtifactError where there is none: what the nearest would have, as SET takes it.
    """
    shape = min((GPT2, QWEN3, LLAMA), key=lambda shape: len(shape.departures(config)))
    if departures := shape.departures(config):
        has = _as_set({name: getattr(config, name) for name in departures})
        raise ArtifactError(
            f"transformers has a place for the shapes of GPT-2, Llama and Qwen3; from {shape.title}'s, the nearest, "
            f'this model departs ({has}); train one with SET="{_as_set(departures)}"'
        )
    if shape is LLAMA and config.n_embd % config.n_head:
        raise ArtifactError(
            f"transformers' Llama takes an n_embd that n_head divides, and this model's are {config.n_embd} and "
            f"{config.n_head}"
        )
    return shape


def _as_set(values: Mapping[str, Any]) -> str:
    """As SET takes them: "model.norm=layer model.bias=true"."""
    return " ".join(f"model.{name}={str(value).lower()}" for name, value in values.items() if value is not None)


def their_config(config: GPTConfig, shape: PublicShape, end_of_text: int | None) -> Config:
    """What config.json is to say."""
    found = {
        "model_type": next(name for name, known in SHAPES.items() if known is shape),
        "architectures": [shape.architecture],
        **{name: values[0] for name, values in shape.expressed.items() if values[0] is not None},
        **{field: getattr(config, name) for name, (field, _) in shape.sizes.items()},
        "initializer_range": INIT_STD,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": "float32",
    }
    if shape is GPT2:
        return found | {"n_inner": None, "attn_pdrop": 0.0, "embd_pdrop": config.dropout}
    for name in ("rope_type", "partial_rotary_factor", "rope_interleaved"):
        found.pop(name, None)
    heads = config.attention_width // config.n_head
    with torch.device("meta"):
        hidden = GPT(config).get_parameter("blocks.0.mlp.output.weight").size(1)
    return found | {
        "num_key_value_heads": config.n_kv_head or config.n_head,
        "head_dim": heads,
        "intermediate_size": hidden,
        "rms_norm_eps": config.norm_eps or FLOAT32_STEP,
        "rope_parameters": {"rope_theta": config.rotary_base, "rope_type": "default"},
        "rope_theta": config.rotary_base,  # where older versions of transformers, and other programs, look
    }
