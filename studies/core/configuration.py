"""How a study reads its configuration: YAML against its own schema, in layers as params.yaml (troupe/overlay.py).

A file holds every value. One that begins with `over: FILE` holds only what differs from that file beside it. Section
`quick` of either holds what --quick changes.
"""

from pathlib import Path
from typing import TypeVar

from troupe.errors import ParamsError
from troupe.overlay import ABOUT, ParameterLayers, read_yaml
from troupe.params import Section, checked

OVER, QUICK = "over", "quick"
Schema = TypeVar("Schema", bound=Section)


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


def _there(path: Path) -> Path:
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml"))) or "none"
        raise ParamsError(f"{path}: no such file; configurations in its folder: {names}")
    return path
