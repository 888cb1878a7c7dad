"""A model of the Hugging Face hub as a folder on this machine: config.json, safetensors and vocabulary, never a pickle.

Files go to the hub's own cache (HF_HOME), where other programs' downloads are found too.
"""

import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from troupe.errors import ArtifactError

GPT2_NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
OWNER_AND_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
FILES = ["config.json", "model*.safetensors", "model.safetensors.index.json", "vocab.json", "tokenizer.json"]
REMEDY = "connect to the network, or name a folder that holds config.json and model.safetensors"


def is_hub_name(name: str) -> bool:
    """Whether a name is one of GPT-2's sizes or looks like "owner/name", either with or without "@revision"."""
    name = name.partition("@")[0]
    return name in GPT2_NAMES or OWNER_AND_NAME.fullmatch(name) is not None


def fetch(name: str) -> Path:
    """The folder of a model's newest revision, or of the one after "@"; its name is the revision, a commit.

    Without a network, the newest that the cache holds. Raises ArtifactError, in one line, if there is none.
    """
    model, _, revision = name.partition("@")
    try:
        return Path(huggingface_hub.snapshot_download(model, revision=revision or None, allow_patterns=FILES))
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
