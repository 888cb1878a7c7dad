"""The decoding that was measured to suit a registered model best: a tag of its version, as JSON.

`troupe generate` and the server use it where they are told nothing else; `make study-decoding` writes it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict

from troupe.decoding import Decoding
from troupe.errors import ParamsError, RegistryError
from troupe.models.config import described
from troupe.registry.versions import Version, resolve
from troupe.tracking.connection import connection

TAG = "decoding"


def recommend(uri: str, decoding: Decoding) -> Version:
    """Write the tag of a version. Raises RegistryError if there is none, or if it may not be written."""
    with connection() as client:
        version = resolve(client, uri)
        client.set_model_version_tag(version.name, version.number, TAG, json.dumps(asdict(decoding), sort_keys=True))
        return resolve(client, version.uri)


def recommended(version: Version) -> Decoding | None:
    """What the tag of a version says; None without one. Raises RegistryError for one that is no decoding."""
    return _read(version.uri, version.tags)


def recommended_at(uri: str) -> Decoding | None:
    """Of the version that models:/NAME@ALIAS or models:/NAME/VERSION names."""
    with connection() as client:
        return recommended(resolve(client, uri))


def _read(uri: str, tags: Mapping[str, str]) -> Decoding | None:
    if TAG not in tags:
        return None
    try:
        return described(Decoding, json.loads(tags[TAG]))
    except (ValueError, ParamsError) as error:
        raise RegistryError(
            f"{uri}: its tag {TAG} is no decoding ({error}); delete the tag, or write it with `make study-decoding`"
        ) from None
