"""The stages of dvc.yaml in the order in which they build on each other. There is no second list of stages."""

from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from troupe.errors import TroupeError

GRAPH = Path("dvc.yaml")


def stage_names(path: Path = GRAPH) -> list[str]:
    """Every stage after the stages whose outputs it reads; those that are free of each other in the order of the file.

    Raises TroupeError when there is no graph, or one without stages or with a cycle.
    """
    stages = _read(path)
    outputs = {name: list(_paths(stage, "outs", "metrics", "plots")) for name, stage in stages.items()}
    needs = {
        name: [other for other in stages if other != name and _overlap(_inputs(stage), outputs[other])]
        for name, stage in stages.items()
    }
    try:
        return list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        raise TroupeError(f"{path}: stages that wait for each other: {' -> '.join(error.args[1])}") from None


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        tree = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
        return dict(tree["stages"])
    except FileNotFoundError:
        raise TroupeError(f"{path}: no such file in {Path.cwd()}; run from the folder that holds it") from None
    except (YAMLError, TypeError, KeyError):
        raise TroupeError(f"{path}: not a DVC graph: expected YAML with `stages:`") from None


def _inputs(stage: dict[str, Any]) -> list[PurePosixPath]:
    # An entry of `params` is a key of params.yaml, or {file: [keys]}; a file can be what another stage wrote.
    files = [file for entry in stage.get("params", ()) if isinstance(entry, dict) for file in entry]
    return [*_paths(stage, "deps"), *map(PurePosixPath, files)]


def _paths(stage: dict[str, Any], *sections: str) -> Iterator[PurePosixPath]:
    """The paths of some sections of a stage; an entry is a path or {path: options}."""
    for section in sections:
        for entry in stage.get(section, ()):
            yield from map(PurePosixPath, entry if isinstance(entry, dict) else [entry])


def _overlap(inputs: Iterable[PurePosixPath], outputs: Iterable[PurePosixPath]) -> bool:
    return any(a == b or a in b.parents or b in a.parents for a in inputs for b in outputs)
