"""The model of the decoding study as a folder: a stage's, a registered version's, or a public GPT-2's."""

from pathlib import Path

from troupe.bundles.bundle import found_identity, save_bundle
from troupe.bundles.huggingface import import_gpt2, is_huggingface
from troupe.bundles.initial import fetch_from_hub, is_hub_name
from troupe.cli.common import folder_of
from troupe.data.bpe import make_tokenizer
from troupe.registry import fetch


def folder_with(model: str, work: Path) -> tuple[Path, str]:
    """Where the model lies, in `work` if it had to be fetched, and the identity of its files.

    Raises ArtifactError or RegistryError, with what to do, if there is no such model.
    """
    folder = work / "model"
    if model.startswith("models:"):
        fetch.copy(model, folder)
    else:
        from_hub = is_hub_name(model) and not Path(model).is_dir()
        folder = _public(fetch_from_hub(model) if from_hub else folder_of(model), folder)
    return folder, found_identity(folder)


def _public(found: Path, folder: Path) -> Path:
    """A folder of Hugging Face's rewritten as one of ours; any other as it is."""
    if not is_huggingface(found):
        return found
    save_bundle(folder, import_gpt2(found), make_tokenizer("gpt2", "", 0), {"imported": found.name})
    return folder
