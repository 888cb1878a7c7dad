#!/usr/bin/env bash
# DVC draws a JSON list of records only if its first record has every key that any record has. A training log, with a loss
# at every step and a validation loss at some, is not drawn, though x and y are in every record that is wanted.
#
# Where: dvc 3.67.1, dvc/render/converter/vega.py, _is_datapoints(): the keys of the first record must be the keys of all.
# Seen: `dvc plots show --json` exits with 0; for the complete list "data" holds one plot, for the ragged list it holds none
#   and "errors" one, TypeError: argument of type 'NoneType' is not iterable, which names neither file nor record.
# Why it matters: a list of records is how logs are written, and documented as the structure that plots take.
# Way out: a file for each figure, with the records that have it; or CSV, where a missing value is an empty cell.
#
# Exits with 0 while DVC behaves so, with 1 when it does not any more.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'dvc==3.67.1' 2>/dev/null
mkdir "$folder/repository"
cd "$folder/repository"
export DVC_NO_ANALYTICS=1 PATH="$folder/venv/bin:$PATH"
dvc init --no-scm --quiet

show() { # a list of records, drawn: how many plots, and what went wrong
    printf '%s\n' "$1" >log.json
    printf 'plots:\n  - loss:\n      x: step\n      y:\n        log.json: loss\n' >dvc.yaml
    dvc plots show --json 2>/dev/null | python3 -c '
import json, sys
shown = json.load(sys.stdin)
errors = [error["type"] + ": " + error["msg"] for error in shown.get("errors", [])]
print(len(shown["data"].get("loss", [])), "plots,", "; ".join(errors) or "no error")'
}

complete=$(show '[{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]')
ragged=$(show '[{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0, "validation": 2.5}]')
first=$(show '[{"step": 1, "loss": 3.0, "validation": 3.5}, {"step": 2, "loss": 2.0}]')
echo "complete records:                 $complete"
echo "a later record has more:          $ragged"
echo "the first record has the most:    $first"
[ "$complete" = "1 plots, no error" ] && [ "$first" = "1 plots, no error" ] && [ "${ragged%%,*}" = "0 plots" ]
