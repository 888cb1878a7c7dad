"""How a study reads its configuration: a YAML file against the study's own schema."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML

from troupe.errors import ParamsError
from troupe.overlay import read_yaml
from troupe.params import Section

Schema = TypeVar("Schema", bound=Section)


def read_configuration(path: Path, schema: type[Schema], quick: bool) -> Schema:
    """Read and check a configuration; with `quick`, what its section of that name holds is laid over the others.

    Raises ParamsError with one line per fault.
    """
    read_yaml(path)  # tells what is no YAML, by file and line
    tree: dict[str, Any] = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    tree.pop("about", None)
    small = tree.pop("quick", {})
    try:
        return schema.model_validate(_overlaid(tree, small) if quick else tree)
    except ValidationError as error:
        faults = [f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise ParamsError("\n".join(faults)) from None


def _overlaid(tree: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = {name: tree[name] | value if isinstance(value, dict) else value for name, value in over.items()}
    return {**tree, **merged}
