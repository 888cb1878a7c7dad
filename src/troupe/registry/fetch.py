"""Get a registered model's files: only with the weights that were registered, else not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts, list_artifacts
from mlflow.exceptions import MlflowException
from mlflow.models.model import MLMODEL_FILE_NAME

from troupe.bundles.architectures import load_bundle
from troupe.bundles.bundle import FILES, Bundle, found_identity
from troupe.errors import ArtifactError, RegistryError, UnsupportedError
from troupe.registry.versions import Version, resolve
from troupe.tracking.connection import connection
from troupe.tracking.store import local_path

BUNDLE = "artifacts/bundle"  # in the folder of a registered model
REMEDY = (
    "`make pipeline` where it was made, with its files in artifacts/, puts them back; `make rollback` makes the "
    "champion before it champion again"
)


def load(uri: str, device: str = "cpu") -> Bundle:
    """The model that models:/NAME@ALIAS or models:/NAME/VERSION names.

    Raises RegistryError if there is none or its files are not the registered ones.
    """
    with connection() as client, _verified(client, resolve(client, uri)) as bundle:
        return load_bundle(bundle, device)


def copy(uri: str, folder: Path) -> Version:
    """Put a version's bundle into `folder`, its digest compared. Raises RegistryError as `load` does."""
    with connection() as client:
        version = resolve(client, uri)
        with _verified(client, version) as bundle:
            shutil.copytree(bundle, folder, dirs_exist_ok=True)
        return version


def verify(uri: str) -> Version:
    """Compare a version's files with the digest in its tags. Raises RegistryError as `load` does."""
    with connection() as client:
        version = resolve(client, uri)
        with _verified(client, version):
            return version


def fault(client: MlflowClient, version: Version) -> str | None:
    """What is wrong with a version's files, in a line with the remedy; None if they are whole.

    Files on this machine are digested. Of those in a remote store only the presence is looked at.
    """
    try:
        if folder := _here(client, version):
            _check(version, folder / BUNDLE)
            if not (folder / MLMODEL_FILE_NAME).is_file():
                return f"{version.uri}: {MLMODEL_FILE_NAME} is gone from the store; {REMEDY}"
        elif not _is_listed(version):
            return _gone(version)
    except RegistryError as error:
        return str(error)
    return None


@contextmanager
def _verified(client: MlflowClient, version: Version) -> Iterator[Path]:
    """The folder of a version's bundle, where it lies or downloaded, its digest compared."""
    with TemporaryDirectory() as temporary:
        try:
            here = _here(client, version)
            bundle = here / BUNDLE if here else _get(version, BUNDLE, temporary)
        except (MlflowException, OSError):
            raise RegistryError(_gone(version)) from None
        _check(version, bundle)
        yield bundle


def _check(version: Version, bundle: Path) -> None:
    if not bundle.is_dir():
        raise RegistryError(_gone(version))
    try:
        found = found_identity(bundle)
    except UnsupportedError as error:
        raise RegistryError(f"{version.uri}: {error}") from None
    except ArtifactError as error:  # "FILE: ...", with a remedy that is one for stages
        name = Path(str(error).partition(":")[0]).name
        raise RegistryError(f"{version.uri}: {name} is gone from the store, or broken; {REMEDY}") from None
    if not (registered := version.tags.get("weights_sha256")):
        raise RegistryError(f"{version.uri}: not registered by troupe, it has no tag weights_sha256")
    if found != registered:
        raise RegistryError(
            f"{version.uri}: refused: its files have sha256 {found[:12]}, registered were {registered[:12]}; {REMEDY}"
        )


def _gone(version: Version) -> str:
    return f"{version.uri}: its files are gone, or their store does not answer; {REMEDY}"


def _here(client: MlflowClient, version: Version) -> Path | None:
    """The folder of a registered model, if its store is one of this machine's folders."""
    return local_path(client.get_model_version_download_uri(version.name, version.number))


def _is_listed(version: Version) -> bool:
    try:
        found = {Path(file.path).name for file in list_artifacts(f"{version.uri}/{BUNDLE}")}
    except (MlflowException, OSError):
        return False
    return found.issuperset(FILES)


def _get(version: Version, path: str, folder: str) -> Path:
    return Path(download_artifacts(f"{version.uri}/{path}", dst_path=folder))
