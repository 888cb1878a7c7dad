"""The stages of dvc.yaml, which lists each after those that it builds on. There is no second list of stages."""

from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from troupe.errors import TroupeError
from troupe.layout import GRAPH


def stage_names(path: Path = GRAPH) -> list[str]:
    """Every stage, in the order of the file. Raises TroupeError when there is no graph, or one without stages."""
    try:
        return list(YAML(typ="safe").load(path.read_text(encoding="utf-8"))["stages"].keys())
    except FileNotFoundError:
        raise TroupeError(f"{path}: no such file in {Path.cwd()}; run from the folder that holds it") from None
    except (YAMLError, TypeError, KeyError, AttributeError):
        raise TroupeError(f"{path}: not a DVC graph: expected YAML with `stages:`") from None
