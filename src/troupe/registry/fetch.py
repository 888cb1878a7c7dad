"""Get a registered model's files: only with the weights and the sampler that were registered, else not at all."""

from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException

from troupe.errors import RegistryError
from troupe.models.bundle import CONFIG, Bundle, found_identity, load_bundle
from troupe.registry.versions import Version, resolve
from troupe.tracking.connection import connection

BUNDLE = "artifacts/bundle"  # in the folder of a registered model


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
    """Whether a version's files are still where the registry says; inside a `connection`."""
    with TemporaryDirectory() as folder:
        try:
            _get(version, f"{BUNDLE}/{CONFIG}", Path(folder))
        except (MlflowException, OSError):
            return False
        return True


def _download(version: Version, folder: Path) -> Path:
    try:
        bundle = _get(version, BUNDLE, folder)
    except OSError as error:
        raise RegistryError(f"{version.uri}: its files are gone from the store: {error}") from None
    found, registered = found_identity(bundle), version.tags.get("weights_sha256", "none")
    if found != registered:
        raise RegistryError(
            f"{version.uri}: refused: its files have sha256 {found[:12]}, registered were {registered[:12]}"
        )
    return bundle


def _get(version: Version, path: str, folder: Path) -> Path:
    return Path(download_artifacts(f"{version.uri}/{path}", dst_path=str(folder)))
