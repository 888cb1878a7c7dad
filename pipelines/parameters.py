"""The parameters of the deployments, as JSON schemas: what Prefect's form offers, and what its API refuses.

They are made from the schema of params.yaml and from the profiles when the deployments are served. Prefect checks the
parameters of a run against them before the run exists; what two fields ask of each other is checked when it begins.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prefect.utilities.callables import ParameterSchema
from pydantic import BaseModel

from troupe.errors import ParamsError
from troupe.layout import PARAMS
from troupe.overlay import ABOUT, join_overrides, leaves, read_yaml, split_overrides
from troupe.params import Params

Schema = dict[str, Any]
Comments = dict[str, Any]  # of a section: the help of each field, and of sections in it their own
WHEN_BUSY: Schema = {
    "title": "When busy",
    "description": "If somebody is at work in the workspace when this run is due: wait for it, or skip this run.",
    "type": "string",
    "enum": ["wait", "skip"],
    "default": "wait",
}
CATCH_UP: Schema = {
    "title": "Catch up",
    "description": "Scheduled times that passed while the machine was off: make up for none of them, for all of them "
    "with one run, or for each with a run. Of runs alike that wait for their turn `once` leaves the last.",
    "type": "string",
    "enum": ["never", "once", "all"],
    "default": "once",
}


class Form(ParameterSchema):
    """Unlike Prefect's own schema it refuses names that it does not have."""

    additionalProperties: bool = False  # JSON schema's own name


def form(properties: Mapping[str, Schema], definitions: Mapping[str, Schema] | None = None) -> Form:
    """A form with these fields, none of which need be given. Prefect passes on only what is set here."""
    placed = {name: {**schema, "position": number} for number, (name, schema) in enumerate(properties.items())}
    return Form(
        title="Parameters",
        type="object",
        properties=placed,
        required=[],
        definitions=dict(definitions or {}),
        additionalProperties=False,
    )


def params_form(*sections: str) -> Form:
    """The form for runs with parameters of `sections`; of all sections, and with profiles, if none is named."""
    whole = Params.model_json_schema()
    names = sections or tuple(whole["properties"])
    comments = _comments(PARAMS)
    definitions: dict[str, Schema] = {}
    for name in names:
        _define(definitions, whole, name, whole["properties"][name], comments.get(name, {}))
    properties: dict[str, Schema] = {}
    if not sections and (profiles := _profiles()):
        about = "; ".join(f"{name}: {what}" for name, what in profiles.items())
        properties["profile"] = {
            "title": "Profile",
            "description": f"A named set of parameters. {about}",
            "type": "string",
            "enum": list(profiles),
        }
    properties["when_busy"] = WHEN_BUSY
    properties["catch_up"] = CATCH_UP
    properties["overrides"] = {
        "title": "Overrides (advanced)",
        "description": "Parameters as text, which wins over the fields below, e.g. pretrain.steps=500 run.seed=7",
        "type": "string",
        "default": "",
        "pattern": overrides_pattern(names),
    }
    properties["params"] = {
        "title": "Params",
        "description": "What differs from params.yaml and the profile in this run.",
        "type": "object",
        "properties": {name: {"$ref": f"#/definitions/{name}", "title": name} for name in names},
        "additionalProperties": False,
    }
    return form(properties, definitions)


def overrides_pattern(sections: Iterable[str]) -> str:
    """A regular expression for lines of overrides of fields that there are, quoted as a shell would have it."""
    fields = (f"{section}\\.{_fields_pattern(Params.model_fields[section].annotation)}" for section in sections)
    name = f"(?:{'|'.join(fields)})="
    word = rf"(?:{name}(?:[^\s'\"\\]|\\.|'[^']*'|\"[^\"]*\")*|'{name}[^']*'|\"{name}[^\"]*\")"
    return rf"^\s*(?:{word}(?:\s+|$))*$"


def _fields_pattern(section: Any) -> str:
    """A regular expression for the names of a section's fields, those of sections in it after a dot."""
    names = []
    for name, field in section.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        names.append(re.escape(name) + (f"\\.{_fields_pattern(field.annotation)}" if nested else ""))
    return f"(?:{'|'.join(names)})"


def as_overrides(params: Mapping[str, Any] | None, overrides: str) -> str:
    """One line of overrides from the fields of a form and its free text, which wins. Raises ParamsError for no line."""
    typed = [f"{name}={literal(value)}" for name, value in leaves(params or {})]
    return join_overrides([*typed, *split_overrides(overrides)])


def literal(value: object) -> str:
    """A value as an override has it, which is YAML."""
    return value if isinstance(value, str) else json.dumps(value).replace("Infinity", ".inf")


def _define(definitions: dict[str, Schema], whole: Schema, place: str, section: Schema, comments: Comments) -> None:
    """Add a section of which nothing need be given, and the sections in it, each under its place in params.yaml, e.g.
    adversarial.gan.discriminator: what params.yaml says there of a field is its help."""
    kind, fields = whole["$defs"][section["$ref"].rpartition("/")[2]], {}
    for key, field in kind["properties"].items():
        about = comments.get(key)
        if "$ref" in field:
            inner = f"{place}.{key}"
            _define(definitions, whole, inner, field, about if isinstance(about, dict) else {})
            fields[key] = {"$ref": f"#/definitions/{inner}", "title": key}
        else:
            help_ = {"description": about} if isinstance(about, str) else {}
            fields[key] = {**_choice(field), "title": key, **help_}
    definitions[place] = {**{key: value for key, value in kind.items() if key != "required"}, "properties": fields}


def _choice(field: Schema) -> Schema:
    """A field that Prefect's form leaves out while nobody has touched it; a boolean it would send as false."""
    if field.get("type") != "boolean":
        return field
    return {"enum": [True, False], **{key: value for key, value in field.items() if key != "type"}}


def _comments(path: Path) -> dict[str, Comments]:
    """{section: {field: its value and the comment behind it}} of a parameter file; {} if there is none."""
    if not path.exists():
        return {}
    return {name: _comments_of(values) for name, values in read_yaml(path).items() if isinstance(values, Mapping)}


def _comments_of(values: Any) -> Comments:
    return {
        key: _comments_of(value) if isinstance(value, Mapping) else _help(values, key) for key, value in values.items()
    }


def _help(values: Any, key: str) -> str:
    token = (values.ca.items.get(key) or (None, None, None))[2]
    comment = token.value.partition("\n")[0].lstrip("# ").strip() if token else ""
    plain = values[key] if isinstance(values[key], str) else json.dumps(values[key], default=str)
    return "; ".join(filter(None, [f"params.yaml: {plain}", comment]))


def _profiles() -> dict[str, str]:
    """What each profile is, by name."""
    found = {}
    for path in sorted(PARAMS.with_name("profiles").glob("*.yaml")):
        try:
            found[path.stem] = str(read_yaml(path).get(ABOUT, {}).get("what", ""))
        except ParamsError:
            continue  # its own run says what is wrong with it
    return found
