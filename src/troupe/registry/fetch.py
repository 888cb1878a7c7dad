"""Get a registered model's files: only with the weights and the sampler that were registered, else not at all."""

from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.artifacts import download_artifacts, list_artifacts
from mlflow.exceptions import MlflowException

from troupe.errors import ArtifactError, RegistryError
from troupe.files import read_json
from troupe.models.bundle import CONFIG, Bundle, files_of, found_identity, load_bundle
from troupe.registry.versions import Version, resolve
from troupe.tracking.connection import connection

BUNDLE = "artifacts/bundle"  # in the folder of a registered model
REMEDY = "run `make pipeline` where it was made, which registers it anew, or `make rollback` to the champion before"


def load(uri: str, device: str = "cpu") -> Bundle:
    """The model that models:/NAME@ALIAS or models:/NAME/VERSION names.

    Raises RegistryError if there is none or its files are not the registered ones.
    """
    with connection() as client, TemporaryDirectory() as folder:
        return load_bundle(_download(resolve(client, uri), Path(folder)), device)


def verify(uri: str) -> Version:
    """Download a version and compare its files with the digest in its tags. Raises RegistryError as `load` does."""
    with connection() as client, TemporaryDirectory() as folder:
        version = resolve(client, uri)
        _download(version, Path(folder))
        return version


def is_whole(version: Version) -> bool:
    """Whether all of a version's files are still where the registry says; inside a `connection`."""
    with TemporaryDirectory() as folder:
        try:
            wanted = files_of(read_json(_get(version, f"{BUNDLE}/{CONFIG}", Path(folder))))
            found = {Path(file.path).name for file in list_artifacts(f"{version.uri}/{BUNDLE}")}
        except (MlflowException, OSError, ArtifactError, AttributeError, TypeError):  # the last two: another JSON
            return False
        return found.issuperset(wanted)


def _download(version: Version, folder: Path) -> Path:
    try:
        bundle = _get(version, BUNDLE, folder)
    except (MlflowException, OSError):
        raise RegistryError(f"{version.uri}: its files are gone, or their store does not answer; {REMEDY}") from None
    try:
        found = found_identity(bundle)
        gone = [name for name in files_of(read_json(bundle / CONFIG)) if not (bundle / name).exists()]
    except ArtifactError as error:  # "FILE: ...", with a remedy that is one for stages
        gone = [Path(str(error).partition(":")[0]).name]
    if gone:
        raise RegistryError(f"{version.uri}: {gone[0]} is gone from the store, or broken; {REMEDY}")
    if not (registered := version.tags.get("weights_sha256")):
        raise RegistryError(f"{version.uri}: not registered by troupe, it has no tag weights_sha256")
    if found != registered:
        raise RegistryError(
            f"{version.uri}: refused: its files have sha256 {found[:12]}, registered were {registered[:12]}"
        )
    return bundle


def _get(version: Version, path: str, folder: Path) -> Path:
    return Path(download_artifacts(f"{version.uri}/{path}", dst_path=str(folder)))
