"""params.yaml read and written."""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML

from troupe.errors import ParamsError
from troupe.overlay import ParameterLayers, load_layers
from troupe.params.schema import Params

Schema = TypeVar("Schema", bound=BaseModel)


def load_params(path: Path, overrides: Sequence[str] = (), profile: str = "") -> Params:
    """Read and check a parameter file, with a profile of that name and overrides such as "pretrain.steps=500" over it.

    The value of an override is the very text after "=" where the schema wants a string, and YAML elsewhere.
    Raises ParamsError with one line per fault: file, line, field, what is wrong.
    """
    return checked(load_layers(path, profile, overrides, Params), Params)


def checked(layers: ParameterLayers, schema: type[Schema]) -> Schema:
    """What the layers hold, as a schema has it. Raises ParamsError with one line per fault, as `load_params`."""
    try:
        return schema.model_validate(layers.values)
    except ValidationError as error:
        raise ParamsError("\n".join(_fault(layers, e) for e in error.errors())) from None


def dump_params(params: Params, path: Path) -> None:
    """Write parameters as YAML, sections and keys in the order of the schema: equal parameters give equal bytes."""
    text = StringIO()
    yaml = YAML()
    yaml.allow_unicode, yaml.width = False, 2**31  # ruamel loses characters such as U+0085, and some where it folds
    yaml.dump(params.model_dump(), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8")


def _fault(layers: ParameterLayers, error: Any) -> str:
    field = ".".join(str(part) for part in error["loc"])
    message = {
        "extra_forbidden": "unknown parameter; remove it or correct its name",
        "missing": "missing; add it",
        "model_type": f"a section of parameters, got {error['input']!r}",
    }.get(error["type"], error["msg"].removeprefix("Value error, "))
    if error["type"] not in ("extra_forbidden", "missing", "model_type", "value_error"):
        message += f", got {error['input']!r}"
    if error["type"] == "string_type" and error["input"] is not None:
        message += "; put the text in quotes"
    return ": ".join(filter(None, [layers.place(error["loc"]), field, message]))
