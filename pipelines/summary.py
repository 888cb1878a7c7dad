"""The last words of a run: the figures, the verdict, where things are, what to type next."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pipelines.publish import Publication
from troupe.evaluation.report import caveats, rows
from troupe.evaluation.result import Evaluation
from troupe.layout import ARTIFACTS, REPORT

HEADER = ("", "bits/byte", "judge (95 %)")
LEGEND = (
    "on held-out test text, lower is better for both; judge: accuracy of the worst of these classifiers, 0.5 is chance"
)
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


def headline(publication: Publication) -> str:
    """One line: the verdict, or what stands in its place."""
    return _verdict(publication)[0]


def markdown(publication: Publication) -> str:
    """For Prefect's page of artifacts: figures, verdict with reasons, and where to read on."""
    table = [HEADER, ("---", "---:", "---:"), *_cells(publication.metrics)]
    about = [LEGEND, *(caveats(publication.metrics) if publication.metrics else ())]
    verdict, *reasons = _verdict(publication)
    lines = [f"**{verdict}**", "", *(f"- {reason.strip()}" for reason in reasons), ""]
    if publication.metrics:
        lines += [*(f"| {' | '.join(row)} |" for row in table), "", *about, ""]
    return "\n".join([*lines, *_links(publication), "", *_times(publication.run.record)])


def _links(publication: Publication) -> list[str]:
    """The run and its report in MLflow, where a server shows them; else where they lie."""
    if not publication.page:
        return [f"Report: `{REPORT}` in the workspace"] if publication.metrics else []
    links = [f"[Curves and parameters in MLflow]({publication.page})"]
    if publication.metrics:
        links.append(f"[Report]({publication.page}/artifacts/{REPORT})")
    return [" · ".join(links)]


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
            f"{row.judge.accuracy:.3f} ({row.judge.low:.3f} to {row.judge.high:.3f})" if row.judge else "",
        )
        for row in (rows(found) if found else ())
    ]


def _verdict(publication: Publication) -> list[str]:
    if not publication.decision and publication.problem:
        return [str(publication.problem)]
    if not publication.decision:
        return ["nothing to promote: the graph has no evaluation"]
    decision = publication.decision
    released = f", now {decision.released.uri}, the champion" if decision.released else ""
    what = f"{decision.verdict.outcome}: {decision.stage} ({decision.candidate.uri}{released})"
    return [what, *(f"  {line}" for line in (*decision.verdict.reasons, *decision.notes))]
