"""What a model was made from that another engine has trained (`run.launcher`): noted beside it, compared later.

Of what DVC runs itself it notes the parameters and inputs. What an engine has trained are files that have appeared:
the pipeline takes them for a stage's result only if they were made from what lies in the workspace now.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from troupe.dependencies import code_digest
from troupe.errors import ArtifactError
from troupe.files import digest_of, read_json, write_json
from troupe.layout import EFFECTIVE_PARAMS, GRAPH, model_dir
from troupe.overlay import leaves
from troupe.params import Params

NOTE = "made_from.json"  # in the folder of the stage's model


@dataclass(frozen=True)
class MadeFrom:
    """All that a stage depends on, by dvc.yaml: parameters, the digest of each file or folder, and that of its code."""

    params: dict[str, Any]
    inputs: dict[str, str]
    code: str

    @classmethod
    def now(cls, stage: str, params: Params) -> "MadeFrom":
        """As it lies in the workspace. Raises ArtifactError where an input is missing."""
        wanted = YAML(typ="safe").load(GRAPH.read_text(encoding="utf-8"))["stages"][stage]
        keys = [key for entry in wanted["params"] for key in entry.get(EFFECTIVE_PARAMS.as_posix(), ())]
        named = dict(leaves(params.model_dump(mode="json")))
        used = {name: value for name, value in named.items() if any(f"{name}.".startswith(f"{key}.") for key in keys)}
        return cls(
            used, {path: digest_of(Path(path)) for path in wanted["deps"]}, code_digest(f"troupe.stages.{stage}")
        )

    def difference(self, other: "MadeFrom") -> str:
        """The first thing in which another differs, in words; "" where nothing does."""
        for name in sorted({*self.params, *other.params}):
            if (ours := self.params.get(name)) != (theirs := other.params.get(name)):
                return f"{name}={theirs}, not {ours}"
        for path in sorted({*self.inputs, *other.inputs}):
            if self.inputs.get(path) != other.inputs.get(path):
                return f"another {path}"
        return "other code" if self.code != other.code else ""


def noted(body: Callable[[Params], None]) -> Callable[[Params], None]:
    """A stage's body that notes, when it is done, what its result was made from, and the digest of that result."""

    @wraps(body)
    def run(params: Params) -> None:
        stage, made = body.__name__, MadeFrom.now(body.__name__, params)
        body(params)
        result = digest_of(model_dir(stage), but=note_of(stage))
        write_json(note_of(stage), {"made_from": asdict(made), "result": result})

    return run


def forget(stage: str) -> None:
    """Before a stage makes its result anew: until it has, nothing is noted of it."""
    note_of(stage).unlink(missing_ok=True)


def note_of(stage: str) -> Path:
    """Where it is, if the stage's result has come from another engine."""
    return model_dir(stage) / NOTE


def require_made_from_this(stage: str, params: Params) -> None:
    """Raises ArtifactError, in one line, unless what another engine has trained is as the engine left it and was made
    from what lies here now."""
    note, folder = note_of(stage), model_dir(stage)
    try:
        noted = read_json(note)
        made, result = MadeFrom(**noted["made_from"]), noted["result"]
    except (TypeError, KeyError):
        raise ArtifactError(f"{note}: not the note of a stage; remove {folder}") from None
    if digest_of(folder, but=note) != result:
        raise ArtifactError(
            f"{folder}: its files are not those that were trained elsewhere; bring them again, or remove it"
        )
    if different := MadeFrom.now(stage, params).difference(made):
        raise ArtifactError(
            f"{folder}: was trained elsewhere with {different}; ask for the same again, or remove the folder "
            "to have it trained anew"
        )
