"""What the registry holds: names, versions, aliases, and the table of them that a person reads."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from troupe.errors import RegistryError
from troupe.layout import MODEL_STAGES
from troupe.tracking.connection import connection, shown, tracking_uri

RELEASE = "troupe"  # the release line: its versions are the history of promotions
CHAMPION, PREVIOUS = "champion", "previous"  # aliases in the release line
URI = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@dataclass(frozen=True)
class Version:
    name: str
    number: str
    tags: Mapping[str, str]
    run_id: str | None = None  # the MLflow run that made it
    aliases: tuple[str, ...] = ()
    description: str = ""

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.number}"


def model_name(stage: str) -> str:
    """The registered model of a stage, e.g. troupe-pretrain."""
    return f"{RELEASE}-{stage}"


def resolve(client: MlflowClient, uri: str) -> Version:
    """The version that models:/NAME@ALIAS or models:/NAME/VERSION names. Raises RegistryError if there is none."""
    match = URI.fullmatch(uri)
    if not match:
        raise RegistryError(f"{uri}: write models:/NAME@ALIAS or models:/NAME/VERSION, e.g. models:/troupe@champion")
    name, alias, number = match["name"], match["alias"], match["version"]
    found = aliased(client, name, alias) if alias else _numbered(client, name, number)
    if not found:
        raise RegistryError(
            f"{uri}: not in the registry at {shown(tracking_uri())}; `troupe versions` lists what is there"
        )
    return found


def aliased(client: MlflowClient, name: str, alias: str) -> Version | None:
    """The version of a model with an alias."""
    try:
        return of(client.get_model_version_by_alias(name, alias))
    except MlflowException as error:
        only_if_absent(error)
        return None


def newest(client: MlflowClient, name: str) -> Version | None:
    """The version of a model with the highest number."""
    found = client.search_model_versions(f"name = '{name}'", order_by=["version_number DESC"], max_results=1)
    return of(found[0]) if found else None


def create(
    client: MlflowClient, name: str, source: str, run_id: str | None, tags: dict[str, str], model_id: str | None = None
) -> Version:
    """A new version of a registered model, which is made if need be, of what `source` (models:/...) holds."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return of(client.create_model_version(name, source, run_id, tags, model_id=model_id))


def of(version: ModelVersion) -> Version:
    """MLflow's version as ours."""
    return Version(
        version.name,
        str(version.version),
        dict(version.tags),
        version.run_id,
        tuple(version.aliases),
        version.description or "",
    )


def table() -> list[Version]:
    """Every version of the release line and of each stage, newest first, with its aliases."""
    with connection() as client:
        names = [RELEASE, *map(model_name, MODEL_STAGES)]
        return [version for name in names for version in versions_of(client, name)]


def versions_of(client: MlflowClient, name: str) -> list[Version]:
    """Every version of a registered model, newest first, with its aliases; none if there is no such model."""
    try:
        aliases = client.get_registered_model(name).aliases  # searches leave a version's own aliases empty
    except MlflowException as error:
        only_if_absent(error)
        return []
    found, token = list[ModelVersion](), None
    while True:
        page = client.search_model_versions(
            f"name = '{name}'", order_by=["version_number DESC"], max_results=100, page_token=token
        )
        found += page
        if not (token := page.token):
            break
    named = {str(number): [alias for alias, n in aliases.items() if n == number] for number in aliases.values()}
    return [replace(of(version), aliases=tuple(named.get(str(version.version), ()))) for version in found]


def _numbered(client: MlflowClient, name: str, number: str) -> Version | None:
    try:
        return of(client.get_model_version(name, number))
    except MlflowException as error:
        only_if_absent(error)
        return None


def only_if_absent(error: MlflowException) -> None:
    """Let pass what MLflow says of something that does not exist; raise anything else."""
    if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        raise error
