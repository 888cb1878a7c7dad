"""The last words of a run: the figures, the verdict, where things are, what to type next."""

from collections.abc import Sequence
from typing import Any

from pipelines.publish import Publication
from troupe.evaluation.report import caveats, rows
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
    lines += [f"report   {REPORT}", f"models   {ARTIFACTS}/, and in the registry: troupe versions", f"next     {NEXT}"]
    return "\n".join(lines)


def markdown(publication: Publication) -> str:
    """For Prefect's page of artifacts."""
    table = [HEADER, ("---", "---:", "---:"), *_cells(publication.metrics or {})]
    about = [LEGEND, *(caveats(publication.metrics) if publication.metrics else ())]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in table), "", *about, "", *_verdict(publication)])


def _cells(metrics: dict[str, Any]) -> list[Sequence[str]]:
    return [
        (
            row["name"],
            f"{row['bpb']:.3f}" if "bpb" in row else "",
            f"{row['judge']['accuracy']:.3f}" if "judge" in row else "",
        )
        for row in (rows(metrics) if metrics else ())
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
