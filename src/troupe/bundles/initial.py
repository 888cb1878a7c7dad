"""The weights that `pretrain.init_from` names: a bundle that a stage wrote, or a GPT-2 of Hugging Face's.

They bring their dimensions and their tokenizer with them; what params.yaml says must agree, and a line that says how is
all a user needs to make it so. Of the hub config.json, safetensors and vocabulary are taken, never a pickle; they go to
its own cache (HF_HOME), where other programs' downloads are found too.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from tokenizers import Tokenizer as LibraryTokenizer

from troupe.bundles import huggingface
from troupe.bundles.bundle import CONFIG, TOKENIZER, WEIGHTS, load_dense
from troupe.bundles.huggingface_tokenizer import vocabulary
from troupe.data.tokenizer import Tokenizer, load_tokenizer
from troupe.errors import ArtifactError, ParamsError
from troupe.files import read_json, sha256_file
from troupe.layout import ARTIFACTS
from troupe.models.config import GPTConfig, dense
from troupe.models.gpt2 import GPT
from troupe.params import Params

GPT2_NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
OWNER_AND_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
HUB_FILES = ["config.json", "model*.safetensors", "model.safetensors.index.json", "vocab.json", "tokenizer.json"]
REMEDY = "connect to the network, or name a folder that holds config.json and model.safetensors"
SCRATCH = "scratch"
FREE = {"vocab_size", "block_size", "dropout"}  # of a GPTConfig: what need not be equal, or is checked otherwise
GPT2_VOCABULARY = 50_257


@dataclass(frozen=True)
class InitialWeights:
    """Weights to start from: `revision` is the hub's commit, `sha256` digests architecture and weights."""

    name: str
    folder: Path
    revision: str | None
    sha256: str
    config: GPTConfig

    def identity(self) -> dict[str, str]:
        """What training depends on: not the revision, for a commit of the hub may change no weights."""
        return {"init_from": self.name, "sha256": self.sha256}


def find_initial(name: str) -> InitialWeights:
    """Look up what init_from names, without loading it; a folder comes before a name of the hub.

    Raises ArtifactError: nothing of that name, no dense model, broken files, a folder that a stage rewrites.
    """
    folder, from_hub = Path(name), not Path(name).is_dir()
    if from_hub:
        if not is_hub_name(name):
            raise ArtifactError(
                f"pretrain.init_from {name!r}: no such folder; name one, scratch, gpt2 or owner/name[@revision]"
            )
        folder = fetch_from_hub(name)
    elif folder.resolve().is_relative_to(ARTIFACTS.resolve()):
        raise ArtifactError(f"pretrain.init_from {name!r}: stages rewrite what is in {ARTIFACTS}; copy the folder")
    if huggingface.is_huggingface(folder):
        config, weights = huggingface.read_config(folder), huggingface.weight_files(folder)
        huggingface.require_weights(folder, config)
    else:
        config, weights = _bundle_config(folder), [folder / WEIGHTS]
    return InitialWeights(name, folder, folder.name if from_hub else None, _digest(config, weights), config)


def has_seen(initial: InitialWeights, corpus_sha256: str, block_bytes: int) -> Literal["training text", "unknown"]:
    """What the weights have been trained on: this run's training text and no other, or nobody knows what.

    Raises ParamsError if it is this very text cut into other blocks, so that they know what is now held out.
    """
    provenance = {} if huggingface.is_huggingface(initial.folder) else _provenance(initial.folder)
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
    if kind not in (None, params.tokens.kind):
        differing = {"tokens.kind": kind, **differing}
    if differing:
        line = " ".join(f"{name}={_yaml(value)}" for name, value in differing.items())
        raise ParamsError(f'pretrain.init_from {initial.name}: its dimensions are others; set them: SET="{line}"')


def load_initial(initial: InitialWeights, tokenizer_file: Path, block_size: int, dropout: float) -> GPT:
    """The model, with the positions beyond `block_size` cut off. Raises ArtifactError if its tokens are others."""
    _require_tokenizer(initial, tokenizer_file)
    from_huggingface = huggingface.is_huggingface(initial.folder)
    model = huggingface.import_gpt2(initial.folder) if from_huggingface else load_dense(initial.folder).model
    shorter = GPT(replace(model.config, block_size=block_size, dropout=dropout))
    weights = model.state_dict()
    if "position_embedding.weight" in weights:
        weights["position_embedding.weight"] = weights["position_embedding.weight"][:block_size]
    shorter.load_state_dict(weights)
    return shorter


def _bundle_config(folder: Path) -> GPTConfig:
    content = read_json(folder / CONFIG)
    if not isinstance(content, dict) or not {"architecture", "model"} <= content.keys():
        raise ArtifactError(f"{folder / CONFIG}: describes neither a bundle nor a GPT-2 of Hugging Face's")
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
    parts = {"config": asdict(config), "weights": {file.name: sha256_file(file) for file in weights}}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _kind(initial: InitialWeights) -> str | None:
    """The tokens.kind that the weights are for, where it is known without looking at the tokens."""
    if not huggingface.is_huggingface(initial.folder):
        load_tokenizer(initial.folder / TOKENIZER)  # or it raises
        return str(read_json(initial.folder / TOKENIZER)["kind"])
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
    if not _same_tokens(initial.folder, tokenizer, file):
        raise ArtifactError(
            f"pretrain.init_from {initial.name}: its tokens are not those of {file}; a bpe or chars tokenizer belongs "
            "to the text that it was made from: keep data.source, or start from a model of gpt2 or bytes"
        )


def _same_tokens(folder: Path, tokenizer: Tokenizer, file: Path) -> bool:
    """Whether ids mean the same; a folder without a tokenizer is taken at its number of tokens."""
    if not huggingface.is_huggingface(folder):
        return sha256_file(folder / TOKENIZER) == sha256_file(file)
    if (path := folder / "tokenizer.json").is_file():
        try:
            theirs = LibraryTokenizer.from_file(str(path))
        except Exception as error:  # the library has no class of its own for it
            raise ArtifactError(f"{path}: not a tokenizer of Hugging Face's: {error}") from None
        return dict(theirs.get_vocab()) == vocabulary(tokenizer)
    if (folder / "vocab.json").is_file():
        return bool(read_json(folder / "vocab.json") == vocabulary(tokenizer))
    return True


def is_hub_name(name: str) -> bool:
    """Whether a name is one of GPT-2's sizes or looks like "owner/name", either with or without "@revision"."""
    name = name.partition("@")[0]
    return name in GPT2_NAMES or OWNER_AND_NAME.fullmatch(name) is not None


def fetch_from_hub(name: str) -> Path:
    """The folder of a model's newest revision, or of the one after "@"; its name is the revision, a commit.

    Without a network, the newest that the cache holds. Raises ArtifactError, in one line, if there is none.
    """
    model, _, revision = name.partition("@")
    try:
        return Path(huggingface_hub.snapshot_download(model, revision=revision or None, allow_patterns=HUB_FILES))
    except HFValidationError as error:
        raise ArtifactError(f"{name}: no name of the Hugging Face hub: {_line(error)}") from None
    except LocalEntryNotFoundError:
        raise ArtifactError(f"{name}: no such folder, not in the cache, and no way to the hub; {REMEDY}") from None
    except HfHubHTTPError as error:
        raise ArtifactError(f"{name}: the Hugging Face hub refuses: {_line(error)}; {REMEDY}") from None
    except OSError as error:
        raise ArtifactError(f"{name}: cannot be downloaded ({type(error).__name__}); {REMEDY}") from None


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
