"""The shape of a model without its weights: of one that is there, or of those that params.yaml asks for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from troupe.bundles import huggingface
from troupe.bundles.architectures import ARCHITECTURES
from troupe.bundles.bundle import CONFIG, TOKENIZER
from troupe.data.tokenizer import GPT2_SPECIAL, CharTokenizer, load_tokenizer
from troupe.errors import ArtifactError, ParamsError
from troupe.files import read_json
from troupe.inspection.structure import without_weights
from troupe.layout import MODEL_STAGES, TOKENS
from troupe.models.gpt2 import GPT
from troupe.params import Params

# the stage, where a model does not name its own
TRAINED_IN = {"gpt2": "pretrain", "switchhead": "moe", "tilted": "adversarial", "mixed": "adversarial"}


@dataclass(frozen=True)
class Shape:
    architecture: str
    dims: Mapping[str, Any]
    stage: str  # whose parameters train it

    @property
    def block_size(self) -> int:
        return int(self.dims["block_size"])

    def build(self) -> GPT:
        return ARCHITECTURES[self.architecture](self.dims)


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The shape of a bundle, from its config.json. Raises KeyError or TypeError if it is none."""
    architecture, stage = config["architecture"], config.get("provenance", {}).get("stage")
    return Shape(architecture, config["model"], stage if stage in MODEL_STAGES else TRAINED_IN[architecture])


def shape_in(folder: Path) -> Shape:
    """The shape of a bundle, or of public weights: a folder or a GGUF file.

    Raises ArtifactError if config.json is neither, or a damaged one.
    """
    if huggingface.is_public(folder):
        return Shape("gpt2", huggingface.read_config(folder).dimensions(), "pretrain")
    try:
        shape = shape_of(read_json(folder / CONFIG))
        without_weights(shape.build)  # a description that does not build is none
        return shape
    except (KeyError, TypeError, AttributeError):
        raise ArtifactError(f"{folder / CONFIG}: describes neither a bundle nor a model of Hugging Face's") from None
    except ValueError as error:
        raise ArtifactError(f"{folder / CONFIG}: not the description of a model: {error}") from None


def shapes_wanted(params: Params, vocab_size: int | None = None) -> dict[str, Shape]:
    """The models that stages pretrain and moe would make, by the stage; `vocab_size` None: as `tokens` says.

    Raises ParamsError where `tokens` does not say: characters are counted when the text is read.
    """
    dense = {"vocab_size": vocab_size or _vocab_size(params), **params.model.model_dump()}
    moe = params.moe
    heads = {"n_head": params.model.n_head, "head_width": params.model.n_embd // params.model.n_head}
    experts = heads | {"n_expert": moe.n_expert, "top_k": moe.top_k, "router": moe.router}
    return {
        "pretrain": Shape("gpt2", dense, "pretrain"),
        "moe": Shape("switchhead", dense | {"experts": experts}, "moe"),
    }


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
            return _characters_read()
        case "pretrained":
            raise ParamsError(
                "tokens.kind pretrained: it comes with weights; give --model, the weights that init_from names"
            )


def _characters_read() -> int:
    """The vocabulary of the last run's tokenizer, if that counted characters too."""
    path = TOKENS / TOKENIZER
    tokenizer = load_tokenizer(path) if path.exists() else None
    if not isinstance(tokenizer, CharTokenizer):
        raise ParamsError(
            "tokens.kind chars: the vocabulary is not known before the text is read; give --vocab N, the number of its "
            "different characters + 256"
        )
    return tokenizer.vocab_size
