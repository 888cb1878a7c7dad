"""The last words of a run: the figures, the verdict, where things are, what to type next."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pipelines.publish import Publication
from troupe.evaluation.report import caveats, rows
from troupe.evaluation.result import Evaluation
from troupe.layout import ARTIFACTS, REPORT

HEADER = ("", "bits/byte", "judge")
LEGEND = "on held-out test text, lower is better for both; judge 0.5: cannot be told from real text"
NEXT = 'make ui   ·   .venv/bin/troupe generate --prompt "The "'


def summary(publication: Publication) -> str:
    """For a terminal."""
    lines = [""]
    if publication.metrics:
        table = [HEADER, *_cells(publication.metrics)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
        ]
        lines += [f"({LEGEND})", *caveats(publication.metrics), ""]
    lines += [*_verdict(publication), ""]
    lines += _times(publication.run.record)
    lines += [f"report   {REPORT}", f"models   {ARTIFACTS}/, and in the registry: troupe versions", f"next     {NEXT}"]
    return "\n".join(lines)


def markdown(publication: Publication) -> str:
    """For Prefect's page of artifacts."""
    table = [HEADER, ("---", "---:", "---:"), *_cells(publication.metrics)]
    about = [LEGEND, *(caveats(publication.metrics) if publication.metrics else ())]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in table), "", *about, "", *_verdict(publication)])


def _times(record: dict[str, Any]) -> list[str]:
    """Where the time went, if a stage has run."""
    spent = {stage: state["seconds"] for stage, state in record["stages"].items() if state["outcome"] != "cached"}
    if not spent:
        return []
    whole = (datetime.now(UTC) - datetime.fromisoformat(record["started"])).total_seconds()
    parts = {**spent, "all else": max(0.0, whole - sum(spent.values()))}
    return [f"time     {_minutes(whole)}: " + ", ".join(f"{name} {_minutes(took)}" for name, took in parts.items())]


def _minutes(seconds: float) -> str:
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"


def _cells(found: Evaluation | None) -> list[Sequence[str]]:
    return [
        (
            row.name,
            "" if row.bpb is None else f"{row.bpb:.3f}",
            f"{row.judge.accuracy:.3f}" if row.judge else "",
        )
        for row in (rows(found) if found else ())
    ]


def _verdict(publication: Publication) -> list[str]:
    if publication.problem:
        return [str(publication.problem)]
    if not publication.decision:
        return ["nothing to promote: the graph has no evaluation"]
    decision = publication.decision
    released = f", now {decision.released.uri}, the champion" if decision.released else ""
    what = f"{decision.verdict.outcome}: {decision.stage} ({decision.candidate.uri}{released})"
    return [what, *(f"  {reason}" for reason in decision.verdict.reasons)]
