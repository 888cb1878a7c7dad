"""The model of the decoding study as a folder: a stage's, a registered version's, or a public GPT-2's."""

from dataclasses import dataclass
from pathlib import Path

from troupe.bundles.bundle import CONFIG, found_identity, save_bundle
from troupe.bundles.huggingface import import_model, is_public
from troupe.cli.common import folder_of
from troupe.data.bpe import make_tokenizer
from troupe.data.corpus import read_manifest
from troupe.data.public import fetch_from_hub, is_hub_name, tokenizer_of
from troupe.files import read_json
from troupe.layout import CORPUS
from troupe.registry import fetch


@dataclass(frozen=True)
class Studied:
    """A model's folder, the identity of its files, and the registered version that they are, if they are one."""

    folder: Path
    identity: str
    version: str | None

    @property
    def has_seen_other_text(self) -> bool:
        """Whether it was not trained on the text that lies in the workspace, split as it is there: what is held out
        here it may have learned."""
        manifest, provenance = read_manifest(CORPUS), read_json(self.folder / CONFIG).get("provenance", {})
        known = (provenance.get("corpus_sha256"), provenance.get("block_bytes"))
        return known != (manifest["sha256"], manifest["block_bytes"])


def fetched(model: str, work: Path) -> Studied:
    """The model that is named, copied to `work` if it does not lie in a folder of ours.

    Raises ArtifactError or RegistryError, with what to do, if there is no such model.
    """
    folder, version = work / "model", None
    if model.startswith("models:"):
        version = fetch.copy(model, folder).uri
    else:
        from_hub = is_hub_name(model) and not Path(model).is_dir()
        folder = _ours(fetch_from_hub(model) if from_hub else folder_of(model), folder)
    return Studied(folder, found_identity(folder), version)


def _ours(found: Path, folder: Path) -> Path:
    """A folder of Hugging Face's rewritten as one of ours; any other as it is."""
    if not is_public(found):
        return found
    model = import_model(found)
    tokenizer = make_tokenizer("gpt2", "", 0) if model.config.positions == "learned" else tokenizer_of(found)
    save_bundle(folder, model, tokenizer, {"imported": found.name})
    return folder
