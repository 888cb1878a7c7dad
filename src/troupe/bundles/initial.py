"""The weights that `pretrain.init_from` names: a bundle that a stage wrote, or public weights (bundles/huggingface.py).

They bring their dimensions and their tokenizer with them; what params.yaml says must agree, and a line that says how is
all a user needs to make it so.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from troupe.bundles import huggingface
from troupe.bundles.bundle import CONFIG, TOKENIZER, WEIGHTS, load_dense
from troupe.data import public
from troupe.data.tokenizer import PretrainedTokenizer, Tokenizer, load_tokenizer
from troupe.errors import ArtifactError, ParamsError
from troupe.files import read_json, sha256_file
from troupe.layout import ARTIFACTS
from troupe.models.config import GPTConfig, dense
from troupe.models.gpt2 import GPT
from troupe.params import Params

SCRATCH = "scratch"
FREE = {"vocab_size", "block_size", "dropout"}  # of a GPTConfig: what need not be equal, or is checked otherwise
GPT2_VOCABULARY = 50_257
BYTES_PER_PARAMETER = 16  # of training, at least: float32 weights, gradients, an optimiser's memory, the best weights


@dataclass(frozen=True)
class InitialWeights:
    """Weights to start from, in a folder or a GGUF file: `revision` is the hub's commit, `sha256` digests architecture
    and weights."""

    name: str
    place: Path
    revision: str | None
    sha256: str
    config: GPTConfig

    def identity(self) -> dict[str, str]:
        """What training depends on: not the revision, for a commit of the hub may change no weights."""
        return {"init_from": self.name, "sha256": self.sha256}


def find_initial(name: str) -> InitialWeights:
    """Look up what init_from names, without loading it; what is on disk comes before a name of the hub.

    Raises ArtifactError: nothing of that name, no dense model, broken files, a folder that a stage rewrites.
    """
    place = public.find(name)
    from_hub = place != Path(name)
    if not from_hub and place.resolve().is_relative_to(ARTIFACTS.resolve()):
        raise ArtifactError(f"pretrain.init_from {name!r}: stages rewrite what is in {ARTIFACTS}; copy it")
    if huggingface.is_public(place):
        config, weights = huggingface.read_config(place), huggingface.open_weights(place).files
    else:
        config, weights = _bundle_config(place), [place / WEIGHTS]
    return InitialWeights(name, place, place.name if from_hub else None, _digest(config, weights), config)


def has_seen(initial: InitialWeights, corpus_sha256: str, block_bytes: int) -> Literal["training text", "unknown"]:
    """What the weights have been trained on: this run's training text and no other, or nobody knows what.

    Raises ParamsError if it is this very text cut into other blocks, so that they know what is now held out.
    """
    provenance = {} if huggingface.is_public(initial.place) else _provenance(initial.place)
    if provenance.get("corpus_sha256") != corpus_sha256 or "block_bytes" not in provenance:
        return "unknown"
    if (before := provenance["block_bytes"]) != block_bytes:
        raise ParamsError(
            f"pretrain.init_from {initial.name}: trained on text that is now held out, for it was cut into blocks of "
            f'{before} bytes; cut it so again: SET="data.block_bytes={before}"'
        )
    match provenance:
        case {"initial": {"has_seen": "training text"}}:
            return "training text"
        case {"stage": "pretrain"} if "initial" not in provenance:  # other stages do not say how it all began
            return "training text"
    return "unknown"


def require_agreement(initial: InitialWeights, params: Params) -> None:
    """Raise ParamsError, with a line for SET, where params.yaml asks for another model than the weights are."""
    wanted, given = initial.config, params.model
    fields = [field for field in given.model_dump() if field not in FREE]
    differing = {f"model.{f}": getattr(wanted, f) for f in fields if getattr(given, f) != getattr(wanted, f)}
    if given.block_size > wanted.block_size:
        differing["model.block_size"] = wanted.block_size
    kind = _kind(initial)
    if params.tokens.kind != "pretrained" and kind not in (None, params.tokens.kind):
        differing = {"tokens.kind": kind, **differing}
    if differing:
        line = " ".join(f"{name}={_yaml(value)}" for name, value in differing.items())
        raise ParamsError(f'pretrain.init_from {initial.name}: its dimensions are others; set them: SET="{line}"')


def tokenizer_digest(initial: InitialWeights) -> str:
    """The sha256 of the tokenizer that the weights bring: of what tells a text's ids and the bytes of an id.

    Raises ArtifactError if they bring none, one that is not read, or another model's.
    """
    tokenizer = public.tokenizer_of(initial.place)
    if tokenizer.vocab_size != initial.config.vocab_size:
        raise ArtifactError(
            f"pretrain.init_from {initial.name}: it knows {initial.config.vocab_size} tokens, its tokenizer has "
            f"{tokenizer.vocab_size}"
        )
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder) / TOKENIZER)
        return sha256_file(Path(folder) / TOKENIZER)


def require_memory(initial: InitialWeights) -> None:
    """Raise ParamsError if this machine cannot hold what training keeps of each parameter, activations left out."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in GPT(initial.config).parameters())
    needed, there = BYTES_PER_PARAMETER * parameters, _memory()
    if needed > there:
        raise ParamsError(
            f"pretrain.init_from {initial.name}: training its {parameters:,} parameters takes at least "
            f"{needed / 1e9:.1f} GB of memory, and here are {there / 1e9:.1f} GB; start from a smaller model"
        )


def _memory() -> int:
    """Bytes of the largest device: the machine's or a GPU's."""
    gpus = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    return max([int(psutil.virtual_memory().total), *gpus])


def load_initial(initial: InitialWeights, tokenizer_file: Path, block_size: int, dropout: float) -> GPT:
    """The model, with the positions beyond `block_size` cut off. Raises ArtifactError if its tokens are others."""
    _require_tokenizer(initial, tokenizer_file)
    if huggingface.is_public(initial.place):
        return huggingface.import_model(initial.place, block_size, dropout).train()
    model = load_dense(initial.place).model
    shorter = GPT(replace(model.config, block_size=block_size, dropout=dropout))
    weights = model.state_dict()
    if "position_embedding.weight" in weights:
        weights["position_embedding.weight"] = weights["position_embedding.weight"][:block_size]
    shorter.load_state_dict(weights)
    return shorter


def _bundle_config(folder: Path) -> GPTConfig:
    content = read_json(folder / CONFIG)
    if not isinstance(content, dict) or not {"architecture", "model"} <= content.keys():
        raise ArtifactError(f"{folder / CONFIG}: describes neither a bundle nor a model of Hugging Face's")
    if content["architecture"] != "gpt2":
        raise ArtifactError(f"{folder}: a {content['architecture']} model; pretrain starts from a dense one")
    try:
        return dense(content["model"])
    except ValueError as error:
        raise ArtifactError(f"{folder / CONFIG}: not the description of a model: {error}") from None


def _provenance(folder: Path) -> dict[str, Any]:
    provenance = read_json(folder / CONFIG).get("provenance")
    return provenance if isinstance(provenance, dict) else {}


def _digest(config: GPTConfig, weights: Iterable[Path]) -> str:
    parts = {"config": config.dimensions(), "weights": {file.name: sha256_file(file) for file in weights}}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _kind(initial: InitialWeights) -> str | None:
    """The tokens.kind that the weights are for, where it is known without looking at the tokens."""
    if not huggingface.is_public(initial.place):
        load_tokenizer(initial.place / TOKENIZER)  # or it raises
        return str(read_json(initial.place / TOKENIZER)["kind"])
    if initial.config.positions != "learned":  # no GPT-2
        return "pretrained"
    return "gpt2" if initial.config.vocab_size == GPT2_VOCABULARY else None


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _require_tokenizer(initial: InitialWeights, file: Path) -> None:
    tokenizer = load_tokenizer(file)
    if tokenizer.vocab_size != initial.config.vocab_size:
        raise ArtifactError(
            f"pretrain.init_from {initial.name}: it knows {initial.config.vocab_size} tokens, {file} has "
            f"{tokenizer.vocab_size}; set tokens.kind and tokens.vocab_size as they were for it"
        )
    if not _same_tokens(initial.place, tokenizer, file):
        raise ArtifactError(
            f"pretrain.init_from {initial.name}: its tokens are not those of {file}; a bpe or chars tokenizer belongs "
            "to the text that it was made from: keep data.source, or start from a model of gpt2 or bytes"
        )


def _same_tokens(place: Path, tokenizer: Tokenizer, file: Path) -> bool:
    """Whether ids mean the same; a folder without a tokenizer is taken at its number of tokens."""
    if not huggingface.is_public(place):
        return sha256_file(place / TOKENIZER) == sha256_file(file)
    if isinstance(tokenizer, PretrainedTokenizer):
        theirs = public.tokenizer_of(place)
        return isinstance(theirs, PretrainedTokenizer) and theirs.library == tokenizer.library
    tokens = public.tokens_of(place)
    return tokens is None or tokens == [tokenizer.decode_bytes([i]) for i in range(tokenizer.vocab_size)]
