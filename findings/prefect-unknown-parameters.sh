#!/usr/bin/env bash
# Prefect checks the parameters of a run against the deployment's schema before the run exists (enforce_parameter_schema,
# on by default), and lets names pass that the flow does not have. The run is then created, and dies when it is started.
#
# Where: prefect 3.9.1, prefect/utilities/callables: ParameterSchema has no `additionalProperties`, so the JSON schema
#   that `parameter_schema(flow)` makes allows any; prefect/utilities/schema_tools/validation.py: `validate` is what the
#   server calls for POST /deployments/<id>/create_flow_run.
# Seen: a value of a wrong type is refused, "Validation failed for field 'steps'"; the misspelt name `step` passes; calling
#   the flow with it raises SignatureMismatchError.
# Why it matters: a misspelt name in a call of the API, or in a schedule's parameters, is found hours later, by a crash.
# Way out: give the server a schema of one's own with additionalProperties: false (DeploymentUpdate).
#
# Exits with 0 while Prefect behaves so, with 1 when it does not any more.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'prefect==3.9.1' 2>/dev/null
export PREFECT_HOME="$folder/home" DO_NOT_TRACK=true
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import prefect
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate


@prefect.flow
def train(steps: int = 1) -> None: ...


def refused(parameters: dict) -> str:
    try:
        validate(parameters, schema, raise_on_error=True)
    except ValidationError as error:
        return str(error)
    return ""


schema = parameter_schema(train).model_dump_for_openapi()
wrong_type, unknown_name = refused({"steps": "many"}), refused({"step": 3})
try:
    train.validate_parameters({"step": 3})
    at_the_start = "taken"
except Exception as error:
    at_the_start = type(error).__name__
closed = {**schema, "additionalProperties": False}
schema = closed
closed_refuses = refused({"step": 3})
print(f"prefect {prefect.__version__}: wrong type {wrong_type!r}; unknown name {unknown_name!r}; the flow: {at_the_start};")
print(f"with additionalProperties false: {closed_refuses!r}")
sys.exit(0 if wrong_type and not unknown_name and at_the_start != "taken" and closed_refuses else 1)
PYTHON
