"""Where things lie in a workspace, relative to its root (the folder with dvc.yaml). The one home of every path."""

import sys
from pathlib import Path

PARAMS = Path("params.yaml")
GRAPH = Path("dvc.yaml")
ARTIFACTS = Path("artifacts")  # outputs of stages, owned by DVC
EFFECTIVE_PARAMS = ARTIFACTS / "params.yaml"  # params.yaml with the overrides of this run
SOURCE = ARTIFACTS / "source.json"  # what data.source names, with its digest
CODE = ARTIFACTS / "code.json"  # of each stage, the digest of the code that it runs
INITIAL = ARTIFACTS / "init.json"  # what pretrain.init_from names, with its digest
CORPUS = ARTIFACTS / "corpus"
TOKENS = ARTIFACTS / "tokens"
USAGE = ARTIFACTS / "moe" / "usage.json"  # how the experts are used
REPORTS = Path("reports")
METRICS = REPORTS / "metrics.json"
EMBEDDED = REPORTS / "embedded.json"  # the model for the page
ROUTING = REPORTS / "routing.json"  # which experts a sentence took
REPORT = REPORTS / "report.html"
INDEX = REPORTS / "index.html"  # of all pages in REPORTS
STUDIES = REPORTS / "studies"  # pages of studies
STATE = Path(".troupe")  # locks, checkpoints, run records: this machine's, never versioned
CHECKPOINTS = STATE / "checkpoints"
RUNS = STATE / "runs"
HISTORY = STATE / "history.jsonl"  # every decision about the release line: appended to, never changed
MODEL_STAGES = (
    "pretrain",
    "moe",
    "adversarial",
)  # the stages that write a model, in the order they build on each other


def model_dir(stage: str) -> Path:
    """The folder of a stage's model: weights, config, tokenizer, metrics and summary."""
    return ARTIFACTS / stage


def own(program: str) -> str:
    """What a user types for a program of this environment: its path where that lies in the workspace, as `make` sets it
    up; else its name."""
    path, here = Path(sys.prefix, "bin", program), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else program
