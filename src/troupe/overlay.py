"""The layers of a run's parameters: params.yaml, over it a profile, over both the overrides of a command line.

A profile is a file profiles/<name>.yaml beside params.yaml that holds only what differs, section by section, and under
`about` what a person wants to know first. Every value remembers its file and line, for messages about it.

An override's value is read as its field's type asks: where the schema wants a string, it is what was typed, character
by character; everywhere else it is YAML 1.2.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from troupe.errors import ParamsError

ABOUT = "about"  # of a profile: what, hardware, time, figure, measured; not a section of parameters
Location = tuple[str | int, ...]  # of a field, e.g. ("model", "n_layer"); () is the whole


class ParameterLayers:
    """Plain values by section, and the place that each came from."""

    def __init__(self, path: Path, schema: type[BaseModel]) -> None:
        """Start from a parameter file. Raises ParamsError if it is missing or no YAML of sections.

        `schema` has a model of fields for each section; their types say how overrides are read.
        """
        self.values: dict[str, Any] = {}
        self._schema = schema
        self._places: dict[Location, str] = {(): str(path)}
        self._lay(path)

    def add_profile(self, path: Path) -> None:
        """Lay a profile over what is there."""
        self._places[()] += f" with {path}"
        self._lay(path)
        self.values.pop(ABOUT, None)

    def add_section(self, path: Path, name: str) -> None:
        """Lay what section `name` of a file holds over what is there, if the file has such a section."""
        file = read_yaml(path)
        section = file.get(name, CommentedMap())
        if not isinstance(section, CommentedMap):
            raise ParamsError(f"{path}:{_line(file, name)}: {name}: expected sections to lay over the others")
        self.values = self._laid(self.values, section, path, ())

    def add_override(self, override: str) -> None:
        """Lay one "section.key=value", or "section.subsection.key=value", over what is there.

        Raises ParamsError if it is not of that form.
        """
        name, equals, text = override.partition("=")
        path = tuple(name.strip().split("."))
        *sections, key = path
        if not (equals and sections and all(path)):
            raise ParamsError(
                f"override {override!r}: write section.key=value, e.g. pretrain.steps=500, "
                "and quotes round a value with blanks, e.g. evaluate.prompt='Once upon'"
            )
        values = self.values
        for depth, section in enumerate(sections, 1):
            if not isinstance(values.get(section), dict):
                there = ", ".join(name for name, value in values.items() if isinstance(value, dict)) or "none there"
                wanted = ".".join(sections[:depth])
                raise ParamsError(f"override {override!r}: no section {wanted!r}; there are {there}")
            values = values[section]
        try:
            values[key] = _typed(text, self._options(path))
        except _NOT_YAML as error:
            raise ParamsError(f"override {override!r}: not a YAML value: {_problem(error)}") from None
        self._places = {at: place for at, place in self._places.items() if at[: len(path)] != path}
        self._places[path] = "override"

    def place(self, location: Location) -> str:
        """Where a field was set, "params.yaml:17" or "override"; of one that nobody set, where it belongs."""
        while location not in self._places:
            location = location[:-1]
        return self._places[location]

    def _options(self, path: Location) -> set[Any]:
        """The types that a field may have; an unknown field's is str, for the schema refuses it whatever it holds."""
        annotation: Any = self._schema
        for name in path:
            if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
                return {str}
            field = annotation.model_fields.get(str(name))
            if field is None:
                return {str}
            annotation = field.annotation
        return _options(annotation)

    def _lay(self, path: Path) -> None:
        self.values = self._laid(self.values, read_yaml(path), path, ())

    def _laid(self, below: Any, tree: CommentedMap, path: Path, at: Location) -> dict[str, Any]:
        """`below` with a tree of sections over it; the place of everything in the tree is noted."""
        laid = dict(below) if isinstance(below, dict) else {}
        for name, value in tree.items():
            here, place = (*at, str(name)), f"{path}:{_line(tree, name)}"
            section = isinstance(value, CommentedMap)
            before = self._places.get(here) if section or not at else None
            self._places[here] = f"{before} with {place}" if before else place
            laid[str(name)] = self._laid(laid.get(str(name)), value, path, here) if section else _plain(value)
        return laid


def load_layers(path: Path, profile: str, overrides: Sequence[str], schema: type[BaseModel]) -> ParameterLayers:
    """params.yaml at `path`, the profile of that name ("" for none), the overrides: the later wins.

    Raises ParamsError with one line for what cannot be read; whether the values are right is for the schema to say.
    """
    layers = ParameterLayers(path, schema)
    if profile:
        layers.add_profile(profile_path(path, profile))
    for override in overrides:
        layers.add_override(override)
    return layers


def profiles(params: Path) -> dict[str, dict[str, str]]:
    """What each profile beside a parameter file says of itself, by name. Raises ParamsError if one is no YAML."""
    return {name: _plain(read_yaml(path).get(ABOUT, {})) for name, path in _profiles(params).items()}


def profile_path(params: Path, name: str) -> Path:
    """The file of a profile. Raises ParamsError, naming those there are, if there is none of that name."""
    known = _profiles(params)
    if name not in known:
        raise ParamsError(f"profile {name!r}: no such profile; there are {', '.join(known) or 'none'}")
    return known[name]


def _profiles(params: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted((params.parent / "profiles").glob("*.yaml"))}


def fields_of(params: Path, profile: str, overrides: Sequence[str]) -> list[str]:
    """The fields, as section.key or section.subsection.key, that a profile and overrides set."""
    tree = read_yaml(profile_path(params, profile)) if profile else {}
    named = [name for name, _ in leaves({name: values for name, values in tree.items() if name != ABOUT})]
    return sorted({*named, *(override.partition("=")[0].strip() for override in overrides)})


def leaves(sections: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(section.key, value) of every field, in sections within sections too."""
    for name, value in sections.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def split_overrides(text: str) -> list[str]:
    """The overrides in a line such as "pretrain.steps=500 evaluate.prompt='Once upon'", split as a shell would.

    Raises ParamsError for an open quote, and for what no file and no environment can hold: NUL and what is not UTF-8.
    """
    try:
        text.encode()
        if "\0" in text:
            raise ValueError("it holds a NUL character")
        return shlex.split(text)
    except UnicodeEncodeError:
        raise ParamsError(f"override {text!r}: not UTF-8") from None
    except ValueError as error:
        fault = str(error)
        raise ParamsError(f"override {text!r}: {fault[:1].lower()}{fault[1:]}") from None


def join_overrides(overrides: Sequence[str]) -> str:
    """The line that `split_overrides` splits into these again, quoted where need be."""
    return shlex.join(overrides)


def as_typed(overrides: Sequence[str]) -> str:
    """What a person types after `make pipeline` for these overrides, e.g. SET="run.seed=1"."""
    line = join_overrides(overrides)
    return f"SET={shlex.quote(line)}" if set('"$`\\!') & set(line) else f'SET="{line}"'


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
    except _NOT_YAML as error:
        place = f"{path}:{line}" if (line := _line_of_fault(error)) else str(path)
        raise ParamsError(f"{place}: not YAML: {_problem(error)}") from None
    if not isinstance(tree, CommentedMap):
        raise ParamsError(f"{path}: expected sections such as `run:` and `model:`")
    return tree


def _typed(text: str, options: set[Any]) -> Any:
    if options <= {str, NoneType}:
        return None if NoneType in options and text == "null" else text
    return YAML(typ="safe").load(text)


def _options(annotation: Any) -> set[Any]:
    """The types in an annotation, e.g. {int, NoneType} of `Annotated[int, Field(ge=1)] | None`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _options(arguments[0])
    if origin in (Union, UnionType):
        return set().union(*map(_options, arguments))
    return {type(value) for value in arguments} if origin is Literal else {annotation}


# A tag or a date that its text does not fit (`!!int x`, `!!bool x`, 2001-99-99) and 3,000 brackets are no YAMLError.
_NOT_YAML = (YAMLError, ValueError, KeyError, RecursionError)


def _problem(error: Exception) -> str:
    """What is wrong, in one line."""
    if isinstance(error, MarkedYAMLError):
        return str(error.problem)
    if isinstance(error, ReaderError):
        return f"it holds the character U+{error.character:04X}, which YAML does not allow"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return " ".join(str(error).split())


def _line_of_fault(error: Exception) -> int | None:
    mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
    return int(mark.line) + 1 if mark else None


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
