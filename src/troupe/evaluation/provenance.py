"""What was trained on what: the facts above the figures of the report, gathered from the files of a finished run."""

import subprocess
from collections.abc import Sequence
from typing import Any

from troupe.data.corpus import read_manifest
from troupe.errors import ArtifactError
from troupe.files import read_json, sha256_file
from troupe.layout import CORPUS, EFFECTIVE_PARAMS, MODEL_STAGES, PARAMS, TOKENS, model_dir
from troupe.overlay import fields_of
from troupe.params import load_params


def gather_provenance(overrides: Sequence[str] = (), profile: str = "") -> dict[str, Any]:
    """{"corpus", "tokens", "stages": {stage: summary}, "params", "profile", "overrides", "changed", "git_commit"}.

    `overrides` are this run's, e.g. ["pretrain.steps=500"], as `profile` is; both are in "params" already, and
    "changed" names the fields that they set. Raises ArtifactError if the corpus or the tokens are missing; a stage
    without a summary is left out.
    """
    from troupe.data.dataset import TokenDataset  # late: numpy, and most runs of the pipeline gather nothing
    from troupe.data.tokenizer import FILE as TOKENIZER

    data = TokenDataset.open()
    effective = EFFECTIVE_PARAMS if EFFECTIVE_PARAMS.exists() else PARAMS
    return {
        "corpus": read_manifest(CORPUS),
        "tokens": {
            "vocab_size": data.vocab_size,
            "tokens": data.n_tokens,
            "sha256": sha256_file(TOKENS / TOKENIZER),  # as stage tokens names it
        },
        "stages": {stage: summary for stage in MODEL_STAGES if (summary := _summary(stage))},
        "params": load_params(effective).model_dump(),
        "profile": profile,
        "overrides": list(overrides),
        "changed": fields_of(PARAMS, profile, overrides),
        "git_commit": git_commit(),
    }


def git_commit() -> str:
    """The commit checked out here, "+" after it if tracked files differ; "unknown" outside a repository."""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def _summary(stage: str) -> dict[str, Any] | None:
    try:
        summary: dict[str, Any] = read_json(model_dir(stage) / "summary.json")
        return summary
    except ArtifactError:
        return None
