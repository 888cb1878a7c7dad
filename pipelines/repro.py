"""DVC's commands as the pipeline uses them: what has changed, run one stage, version a user's text."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipelines import cache
from pipelines.cache import DVC, dvc, last_line
from pipelines.supervisor import supervise
from pipelines.versioning import version_source
from pipelines.workspace import Outcome, Run
from troupe.errors import TroupeError
from troupe.layout import GRAPH
from troupe.tracking import records

DVC_LOCAL_CONFIG = Path(".dvc/config.local")
INPUTS = "inputs"  # the stage that always runs: it checks the parameters before anything is touched
USER_ERRORS = (2, 75)  # exit statuses of TroupeError: trying again would end the same way
EXIT_STATUS = re.compile(r"exited with (-?\d+)$")
# What DVC says to someone who uses it by hand; it stays in the log.
CHATTER = re.compile(
    r"(Updating|Generating) lock|Use `dvc push`|To (track|enable)|\t|> |ERROR: failed to rep"
    r"|WARNING: corrupted cache file|\s*$"  # half a note of an earlier run, left by a kill or a full disk; DVC drops it
)


class StageFailed(TroupeError):
    """A stage ended with an error; `again` says whether another attempt can help."""

    def __init__(self, message: str, again: bool) -> None:
        super().__init__(message)
        self.again = again


def changed_stages(run: Run) -> list[str]:
    """Check the parameters, version the user's text, and name the stages to run: from the first changed one on.

    What DVC's cache has lost is written into it again where the workspace still holds it. Costs one `dvc repro` of
    `inputs` and one `dvc status`. Raises TroupeError when a parameter or the text is at fault, before anything is
    deleted.
    """
    if not Path(".git").exists() and not DVC_LOCAL_CONFIG.exists():
        dvc("config", "--local", "core.no_scm", "true")  # a copy of the sources without git
    run_stage(INPUTS, run, on_line=_show_remark)
    run.note_params()
    cache.drop_damaged()
    status = cache.status(stage_names())  # not of notes: that looks at every file of the user's
    for mend in (cache.commit_lost, cache.take_trained_elsewhere):
        mended = mend(status)
        status = {stage: changed for stage, changed in status.items() if stage not in mended}
    version_source(_add)
    stages = [stage for stage in stage_names() if stage != INPUTS]
    first = min((stages.index(stage) for stage in stages if stage in status), default=len(stages))
    for stage in stages[:first]:
        run.note_cached(stage)
    return stages[first:]


def run_stage(stage: str, run: Run, on_line: Callable[[str], None]) -> Outcome:
    """Bring one stage up to date: run it, restore it from DVC's cache, or find that it is. Raises StageFailed."""
    log, lines = run.folder / f"{stage}.log", [""]

    def pass_on(line: str) -> None:
        lines.append(line)
        if not CHATTER.match(line):
            on_line(line)

    with run.attempt(stage) as ended:
        command = [*DVC, "repro", "--single-item", stage]
        if supervise(command, pass_on, log, run.folder / f"{stage}.system.jsonl", run.environment()):
            raise _failure(stage, lines, log)
        if fault := cache.disk_fault_in(lines):  # DVC exits with 0 where files of a folder do not fit into its cache
            raise StageFailed(f"{stage} failed: {fault}", again=False)
        outcome = _outcome(stage, lines)
        if outcome != "cached":
            records.keep(run.folder, stage)
        ended(outcome)
    return outcome


def _show_remark(line: str) -> None:
    """Show progress and remarks of `inputs`; its errors are raised."""
    if not line.startswith(("Running stage", f"{INPUTS}: ")):
        print(line, flush=True)


def _add(paths: list[str]) -> None:
    if (result := dvc("add", *paths)).returncode:
        raise TroupeError(f"data.source: {cache.disk_fault_in(result.stderr.splitlines()) or last_line(result.stderr)}")


def _outcome(stage: str, lines: Sequence[str]) -> Outcome:
    if f"Running stage '{stage}':" in lines:
        return "ran"
    return "restored" if any(line.startswith(f"Stage '{stage}' is cached") for line in lines) else "cached"


def _failure(stage: str, lines: Sequence[str], log: Path) -> StageFailed:
    """What went wrong, in the stage's own words, or in DVC's if the stage did not start."""
    status = next((int(match[1]) for line in lines if (match := EXIT_STATUS.search(line))), 0)
    started = f"Running stage '{stage}':" in lines
    remarks = [line for line in lines if not CHATTER.match(line) and not line.startswith("Running stage")]
    if status in USER_ERRORS:
        first = max((n for n, line in enumerate(remarks) if line.startswith(f"{stage}: ")), default=-1)
        return StageFailed("\n".join(remarks[first:]), again=False)
    if fault := cache.disk_fault_in(lines):
        return StageFailed(f"{stage} failed: {fault}", again=False)
    last_words = remarks[-1:] if started else remarks or [last_line("\n".join(lines))]
    reason = f"killed by signal {-status}" if status < 0 else " ".join(map(str.strip, last_words))
    if not started and "dvc.lock'" in reason:
        reason += "; remove that file: DVC finds again what its cache holds"
    kept = "" if stage == INPUTS else f" (log: {log})"  # a run that ends before its first stage leaves no record
    return StageFailed(f"{stage} failed: {reason}{kept}", again=started)


def stage_names(path: Path = GRAPH) -> list[str]:
    """Every stage, in the order of the file. Raises TroupeError when there is no graph, or one without stages."""
    try:
        return list(YAML(typ="safe").load(path.read_text(encoding="utf-8"))["stages"].keys())
    except FileNotFoundError:
        raise TroupeError(f"{path}: no such file in {Path.cwd()}; run from the folder that holds it") from None
    except (YAMLError, TypeError, KeyError, AttributeError):
        raise TroupeError(f"{path}: not a DVC graph: expected YAML with `stages:`") from None
