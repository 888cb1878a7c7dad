"""What a language model is built from, and how that is read from a file that may be damaged."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

LARGEST = 2**24  # of any dimension: what is beyond is damage, not a model
Size = Annotated[int, Field(ge=1, le=LARGEST)]
Entries = Annotated[int, Field(ge=1, le=2**32)]  # of a table of what was counted
Layers = Annotated[int, Field(ge=1, le=1000)]
Dropout = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ONLY_FIELDS = ConfigDict(extra="forbid")
Described = TypeVar("Described")


@dataclass(frozen=True)
class GPTConfig:
    """The dimensions, and where a model departs from GPT-2, which is what the defaults give exactly."""

    __pydantic_config__ = ONLY_FIELDS

    vocab_size: Size
    block_size: Size  # tokens of context
    n_layer: Layers
    n_head: Size
    n_embd: Size
    dropout: Dropout  # of embeddings and of what joins the residual stream; attention weights are left whole
    positions: Literal["learned", "rotary"] = "learned"
    norm: Literal["layer", "rms"] = "layer"
    activation: Literal["gelu", "relu2", "swiglu"] = "gelu"
    qk_norm: bool = False
    conv: Annotated[int, Field(ge=0, le=1000)] = 0  # tokens that convolutions before attention and MLP mix; 0 for none
    bias: bool = True
    head_width: Size | None = None  # of queries, keys and values; None: n_embd / n_head
    # What public weights bring (bundles/shapes.py) and params.yaml does not set.
    n_kv_head: Size | None = None  # heads of keys and values, each for as many heads of queries; None: n_head
    mlp_width: Size | None = None  # hidden units; None: what `MLP` says
    rotary_base: Positive = 10_000.0
    norm_eps: Positive | None = None  # None: torch's, 1e-5 for layer and the input type's smallest step from 1 for rms
    tied: bool = True  # the output head is the token embedding

    @property
    def attention_width(self) -> int:
        """Of the queries of all heads together, side by side."""
        return self.n_head * (self.head_width or self.n_embd // self.n_head)

    @property
    def cache_width(self) -> int:
        """Of the keys, or the values, of all heads together."""
        return self.attention_width // self.n_head * (self.n_kv_head or self.n_head)

    def brought(self) -> dict[str, Any]:
        """The fields that params.yaml does not set, where they differ from what its models have."""
        return {field: getattr(self, field) for field in BROUGHT if getattr(self, field) != BROUGHT[field]}

    def dimensions(self) -> dict[str, Any]:
        """What a file says of a model. A model without brought fields is described as it was before there were any, so
        that digests stay."""
        return {name: value for name, value in asdict(self).items() if name not in BROUGHT} | self.brought()


BROUGHT: dict[str, Any] = {
    field.name: field.default
    for field in fields(GPTConfig)
    if field.name in ("n_kv_head", "mlp_width", "rotary_base", "norm_eps", "tied")
}


def described(kind: type[Described], values: object) -> Described:
    """A configuration from the JSON that describes it. Raises ValueError, naming the field, if a value is missing,
    unknown, of another type or out of range."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "all of it"
        match first["type"]:
            case "missing":
                raise ValueError(f"{field} is missing") from None
            case "unexpected_keyword_argument" | "extra_forbidden":
                raise ValueError(f"{field} is unknown") from None
        raise ValueError(f"{field} is {first['input']!r}: {first['msg']}") from None


def dense(values: object) -> GPTConfig:
    """The configuration of a GPT with attention of one width, as `described` reads it."""
    config = described(GPTConfig, values)
    if config.head_width is None and config.n_embd % config.n_head:
        raise ValueError(f"n_embd ({config.n_embd}) must be divisible by n_head ({config.n_head})")
    if config.n_kv_head is not None and config.n_head % config.n_kv_head:
        raise ValueError(f"n_kv_head ({config.n_kv_head}) must divide n_head ({config.n_head})")
    if config.positions == "rotary" and config.attention_width // config.n_head % 2:
        raise ValueError("positions is rotary, which turns pairs of features: n_embd / n_head must be even")
    return config
