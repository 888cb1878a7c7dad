"""The layers of a run's parameters: params.yaml, over it a profile, over both the overrides of a command line.

A profile is a file profiles/<name>.yaml beside params.yaml that holds only what differs, section by section, and under
`about` what a person wants to know first. Every value remembers its file and line, for messages about it.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError

from troupe.errors import ParamsError

ABOUT = "about"  # of a profile: what, hardware, time, figure, measured; not a section of parameters
Location = tuple[str | int, ...]  # of a field, e.g. ("model", "n_layer"); () is the whole


class Layers:
    """Plain values by section, and the place that each came from."""

    def __init__(self, path: Path) -> None:
        """Start from a parameter file. Raises ParamsError if it is missing or no YAML of sections."""
        self.values: dict[str, Any] = {}
        self._places: dict[Location, str] = {(): str(path)}
        self._lay(path)

    def add_profile(self, path: Path) -> None:
        """Lay a profile over what is there."""
        self._places[()] += f" with {path}"
        self._lay(path)
        self.values.pop(ABOUT, None)

    def add_override(self, override: str) -> None:
        """Lay one "section.key=value" over what is there; the value is read as YAML."""
        name, equals, text = override.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot and section and key):
            raise ParamsError(f"override {override!r}: write section.key=value, e.g. pretrain.steps=500")
        if not isinstance(self.values.get(section), dict):
            raise ParamsError(f"override {override!r}: no section {section!r}; there are {', '.join(self.values)}")
        try:
            self.values[section][key] = YAML(typ="safe").load(text)
        except MarkedYAMLError as error:
            raise ParamsError(f"override {override!r}: not a YAML value: {error.problem}") from None
        self._places[section, key] = "override"

    def place(self, location: Location) -> str:
        """Where a field was set, "params.yaml:17" or "override"; of one that nobody set, where it belongs."""
        while location not in self._places:
            location = location[:-1]
        return self._places[location]

    def _lay(self, path: Path) -> None:
        for section, values in (tree := read_yaml(path)).items():
            place, before = f"{path}:{_line(tree, section)}", self._places.get((section,))
            self._places[section,] = f"{before} with {place}" if before else place
            if isinstance(values, CommentedMap):
                self._places |= {(section, key): f"{path}:{_line(values, key)}" for key in values}
                below = self.values.get(section)
                self.values[section] = {**(below if isinstance(below, dict) else {}), **_plain(values)}
            else:
                self.values[section] = _plain(values)


def load_layers(path: Path, profile: str, overrides: Sequence[str]) -> Layers:
    """params.yaml at `path`, the profile of that name ("" for none), the overrides: the later wins.

    Raises ParamsError with one line for what cannot be read; whether the values are right is for the schema to say.
    """
    layers = Layers(path)
    if profile:
        layers.add_profile(profile_path(path, profile))
    for override in overrides:
        layers.add_override(override)
    return layers


def profile_path(params: Path, name: str) -> Path:
    """The file of a profile. Raises ParamsError, naming those there are, if there is none of that name."""
    known = {path.stem: path for path in sorted((params.parent / "profiles").glob("*.yaml"))}
    if name not in known:
        raise ParamsError(f"profile {name!r}: no such profile; there are {', '.join(known) or 'none'}")
    return known[name]


def fields_of(params: Path, profile: str, overrides: Sequence[str]) -> list[str]:
    """The fields, as section.key, that a profile and overrides set."""
    tree = read_yaml(profile_path(params, profile)) if profile else {}
    named = [f"{section}.{key}" for section, values in tree.items() for key in values if section != ABOUT]
    return sorted({*named, *(override.partition("=")[0].strip() for override in overrides)})


def split_overrides(text: str) -> list[str]:
    """The overrides in a line such as "pretrain.steps=500 evaluate.prompt='Once upon'", split as a shell would."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ParamsError(f"override {text!r}: {str(error).lower()}") from None


def read_yaml(path: Path) -> CommentedMap:
    """A YAML file of sections, each line remembered. Raises ParamsError with file and line if it is none."""
    try:
        tree = YAML().load(path.read_text(encoding="utf-8"))  # YAML 1.2: unlike PyYAML's 1.1, `3e-4` is a number
    except FileNotFoundError:
        raise ParamsError(
            f"{path}: no such file; run from the folder that holds it, or name it with --params"
        ) from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not UTF-8 at byte {error.start}") from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ParamsError(f"{path}:{line}: not YAML: {error.problem}") from None
    if not isinstance(tree, CommentedMap):
        raise ParamsError(f"{path}: expected sections such as `run:` and `model:`")
    return tree


def _line(tree: CommentedMap, key: str) -> int:
    return int(tree.lc.data[key][0]) + 1


def _plain(value: Any) -> Any:
    """ruamel's containers and scalars as plain Python ones, which strict validation wants."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, bool) or value is None:
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value
