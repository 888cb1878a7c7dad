"""The shape of a model without its weights: of one that is there, or of those that params.yaml asks for."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from troupe.data.tokenizer import GPT2_SPECIAL
from troupe.errors import ArtifactError, ParamsError
from troupe.files import read_json
from troupe.inspection.structure import without_weights
from troupe.layout import TOKENS
from troupe.models import huggingface
from troupe.models.architectures import ARCHITECTURES, dimensions_of
from troupe.models.bundle import CONFIG
from troupe.models.gpt2 import GPT
from troupe.params import Params


@dataclass(frozen=True)
class Shape:
    architecture: str
    dims: Mapping[str, Any]

    @property
    def block_size(self) -> int:
        return int(self.dims["block_size"])

    def build(self) -> GPT:
        return ARCHITECTURES[self.architecture](self.dims)


def shape_of(model: GPT) -> Shape:
    return Shape(*dimensions_of(model))


def shape_in(folder: Path) -> Shape:
    """The shape of a bundle, or of a GPT-2 in Hugging Face's form. Raises ArtifactError if config.json is neither."""
    if huggingface.is_huggingface(folder):
        return Shape("gpt2", asdict(huggingface.read_config(folder)))
    try:
        content = read_json(folder / CONFIG)
        shape = Shape(content["architecture"], content["model"])
        without_weights(shape.build)  # a description that does not build is none
        return shape
    except (KeyError, TypeError):
        raise ArtifactError(f"{folder / CONFIG}: describes neither a bundle nor a GPT-2 of Hugging Face's") from None


def shapes_wanted(params: Params) -> dict[str, Shape]:
    """The models that stages pretrain and moe would make."""
    dense = {"vocab_size": _vocab_size(params), **params.model.model_dump()}
    moe = params.moe
    experts = {"n_expert": moe.n_expert, "top_k": moe.top_k, "router": moe.router}
    return {"pretrain": Shape("gpt2", dense), "moe": Shape("switchhead", dense | experts)}


def _vocab_size(params: Params) -> int:
    """Exact, but a text too small for tokens.vocab_size gives a smaller bpe."""
    match params.tokens.kind:
        case "bytes":
            return 256
        case "bpe":
            return params.tokens.vocab_size
        case "gpt2":
            return max(GPT2_SPECIAL.values()) + 1
        case "chars":
            if not (TOKENS / "meta.json").exists():
                raise ParamsError("tokens.kind chars: how many there are only the text says; run `make pipeline` first")
            return int(read_json(TOKENS / "meta.json")["vocab_size"])
