"""DVC's commands as the pipeline uses them: what has changed, run one stage, version a user's text."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pipelines.graph import stage_names
from pipelines.supervisor import supervise
from pipelines.versioning import version_source
from pipelines.workspace import Outcome, Run
from troupe.errors import TroupeError
from troupe.tracking import records

DVC = (sys.executable, "-m", "dvc")
DVC_LOCAL_CONFIG = Path(".dvc/config.local")
INPUTS = "inputs"  # the stage that always runs: it checks the parameters before anything is touched
USER_ERRORS = (2, 75)  # exit statuses of TroupeError: trying again would end the same way
EXIT_STATUS = re.compile(r"exited with (-?\d+)$")
# What DVC says to someone who uses it by hand; it stays in the log.
CHATTER = re.compile(r"(Updating|Generating) lock|Use `dvc push`|To (track|enable)|\t|> |ERROR: failed to rep|\s*$")


class StageFailed(TroupeError):
    """A stage ended with an error; `again` says whether another attempt can help."""

    def __init__(self, message: str, again: bool) -> None:
        super().__init__(message)
        self.again = again


def changed_stages(run: Run) -> list[str]:
    """Check the parameters, version the user's text, and name the stages to run: from the first changed one on.

    Costs one `dvc repro` of `inputs` and one `dvc status`. Raises TroupeError when a parameter or the text is at fault,
    before anything is deleted.
    """
    if not Path(".git").exists() and not DVC_LOCAL_CONFIG.exists():
        _dvc("config", "--local", "core.no_scm", "true")  # a copy of the sources without git
    run_stage(INPUTS, run, on_line=_said)
    run.note_params()
    status = _status()
    version_source(_add)
    stages = [stage for stage in stage_names() if stage != INPUTS]
    first = min((stages.index(stage) for stage in stages if stage in status), default=len(stages))
    for stage in stages[:first]:
        run.note_cached(stage)
    return stages[first:]


def run_stage(stage: str, run: Run, on_line: Callable[[str], None]) -> Outcome:
    """Bring one stage up to date: run it, restore it from DVC's cache, or find that it is. Raises StageFailed."""
    log, lines = run.folder / f"{stage}.log", [""]

    def heard(line: str) -> None:
        lines.append(line)
        if not CHATTER.match(line):
            on_line(line)

    with run.attempt(stage) as ended:
        command = [*DVC, "repro", "--single-item", stage]
        if supervise(command, heard, log, run.folder / f"{stage}.system.jsonl", run.environment()):
            raise _failure(stage, lines, log)
        outcome = _outcome(stage, lines)
        if outcome != "cached":
            records.keep(run.folder, stage)
        ended(outcome)
    return outcome


def _said(line: str) -> None:
    """Show progress and remarks of `inputs`; its errors are raised."""
    if not line.startswith(("Running stage", f"{INPUTS}: ")):
        print(line, flush=True)


def _add(paths: list[str]) -> None:
    if (result := _dvc("add", *paths)).returncode:
        raise TroupeError(f"data.source: {_last_line(result.stderr)}")


def _status() -> dict[str, object]:
    result = _dvc("status", "--json", *stage_names())  # not of notes: that looks at every file of the user's
    if result.returncode:
        raise TroupeError(f"dvc status: {_last_line(result.stderr)}")
    return dict(json.loads(result.stdout))


def _dvc(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DVC, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)


def _outcome(stage: str, lines: Sequence[str]) -> Outcome:
    if f"Running stage '{stage}':" in lines:
        return "ran"
    return "restored" if any(line.startswith(f"Stage '{stage}' is cached") for line in lines) else "cached"


def _failure(stage: str, lines: Sequence[str], log: Path) -> StageFailed:
    """What went wrong, in the stage's own words, or in DVC's if the stage did not start."""
    status = next((int(match[1]) for line in lines if (match := EXIT_STATUS.search(line))), 0)
    started = f"Running stage '{stage}':" in lines
    said = [line for line in lines if not CHATTER.match(line) and not line.startswith("Running stage")]
    if status in USER_ERRORS:
        first = max((n for n, line in enumerate(said) if line.startswith(f"{stage}: ")), default=-1)
        return StageFailed("\n".join(said[first:]), again=False)
    last_words = said[-1:] if started else said or [_last_line("\n".join(lines))]
    reason = f"killed by signal {-status}" if status < 0 else " ".join(map(str.strip, last_words))
    kept = "" if stage == INPUTS else f" (log: {log})"  # a run that ends before its first stage leaves no record
    return StageFailed(f"{stage} failed: {reason}{kept}", again=started)


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no reason given")
