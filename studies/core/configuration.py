"""How a study reads its configuration: YAML against its own schema, in layers as params.yaml (troupe/overlay.py).

A file holds every value. One that begins with `over: FILE` holds only what differs from that file beside it. Section
`quick` of either holds what --quick changes.
"""

from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import model_validator

from troupe.errors import ParamsError
from troupe.overlay import ABOUT, ParameterLayers, read_yaml
from troupe.params import Count, Section, checked

OVER, QUICK = "over", "quick"
Schema = TypeVar("Schema", bound=Section)


class Looks(Section):
    """Of a training of so many `steps`, measured so many times."""

    steps: Count
    looks: Count

    @model_validator(mode="after")
    def looks_fit(self) -> Self:
        if self.looks > self.steps:
            raise ValueError(f"looks ({self.looks}) must not exceed steps ({self.steps})")
        return self


def read_configuration(path: Path, schema: type[Schema], quick: bool) -> Schema:
    """Read and check a configuration. Raises ParamsError with one line per fault: file, line, field, what is wrong."""
    below = read_yaml(_there(path)).get(OVER)
    files = [_there(path.parent / str(below)), path] if below else [path]
    layers = ParameterLayers(files[0], schema)
    for file in files[1:]:
        layers.add_profile(file)
    for file in files if quick else ():
        layers.add_section(file, QUICK)
    for name in (ABOUT, OVER, QUICK):
        layers.values.pop(name, None)
    return checked(layers, schema)


def part_of(settings: Section, schema: type[Section]) -> dict[str, Any]:
    """What `schema` names of a configuration, as JSON can hold it."""
    return settings.model_dump(include={*schema.model_fields})


def _there(path: Path) -> Path:
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml"))) or "none"
        raise ParamsError(f"{path}: no such file; configurations in its folder: {names}")
    return path
