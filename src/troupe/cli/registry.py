"""`troupe promote | rollback | versions`: look at and change what is registered."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from troupe import layout
from troupe.cli.common import Profile, Set, app, parameters
from troupe.lock import workspace_lock

if TYPE_CHECKING:
    from troupe.params import Params
    from troupe.registry.versions import Version

REFUSED = 3  # exit status of a promotion that the gate has refused


@app.command()
def promote(
    overrides: Set = "",
    profile: Profile = "",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="As if there were no champion: for text or a judge that has changed.")
    ] = False,
) -> None:
    """Put the candidate in reports/metrics.json through the gate; exit status 3 if it is refused.

    By the rule of the run that measured it, unless parameters are given.
    """
    rule = _judged_params(overrides, profile).promote
    from troupe.registry import release

    with workspace_lock():
        decision = release.promote(rule, fresh)
    what = f"{decision.stage} ({decision.candidate.uri})"
    if decision.released:
        what += f", now champion as {decision.released.uri}"
    refused = decision.verdict.outcome == "refused"
    out = sys.stderr if refused else sys.stdout
    print(f"{decision.verdict.outcome}: {what}", *decision.verdict.reasons, sep="\n  ", file=out)
    if refused:
        raise SystemExit(REFUSED)


@app.command()
def rollback() -> None:
    """Make the previous champion the champion again; a second rollback undoes the first."""
    from troupe.registry import release

    with workspace_lock():
        now, before = release.rollback()
    print(f"champion is {now.uri} again, previous is {before.uri}")


@app.command()
def versions() -> None:
    """List what is registered: versions, aliases, figures on test text, verdicts."""
    from troupe.registry.versions import table

    rows = [_row(version) for version in table()]
    header = ("model", "version", "alias", "bits/byte", "judge", "verdict", "weights", "commit", "run")
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _judged_params(overrides: str, profile: str) -> "Params":
    """Those of the run whose figures are judged, unless others are asked for."""
    from troupe.params import load_params
    from troupe.stages.common import overrides_from_environment, profile_from_environment

    others = overrides or profile or overrides_from_environment() or profile_from_environment()
    known = layout.EFFECTIVE_PARAMS.exists() and not others
    return load_params(layout.EFFECTIVE_PARAMS) if known else parameters(overrides, profile)


def _row(version: "Version") -> tuple[str, ...]:
    tags = version.tags
    figures = [_figure(tags.get(name, "")) for name in ("test_bpb", "judge_accuracy")]
    short = [tags.get(name, "")[:12] for name in ("weights_sha256", "git_commit")]
    aliases = " ".join(version.aliases)
    return (version.name, version.number, aliases, *figures, tags.get("verdict", ""), *short, tags.get("run_id", ""))


def _figure(text: str) -> str:
    """Of a tag, which someone may have written by hand."""
    try:
        return f"{float(text):.4f}"
    except ValueError:
        return text
