"""`troupe promote | rollback | versions | history | lineage | reproduce`: look at and change what is registered."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from troupe import layout
from troupe.cli.common import CHAMPION, Profile, Set, app, parameters
from troupe.lock import workspace_lock

if TYPE_CHECKING:
    from rich.tree import Tree

    from troupe.params import Params
    from troupe.registry.history import Entry
    from troupe.registry.lineage import Lineage
    from troupe.registry.versions import Version

REFUSED = 3  # exit status of a promotion that the gate has refused
DIFFERS = 1  # and of a version that comes out otherwise when it is made again


@app.command()
def promote(
    overrides: Set = "",
    profile: Profile = "",
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Compare with no champion: the text or the judge has changed, or it is gone."),
    ] = False,
) -> None:
    """Put the candidate in reports/metrics.json through the gate; exit status 3 if it is refused.

    By the rule of the run that measured it, unless parameters are given.
    """
    rule = _judged_params(overrides, profile).promote
    from troupe.registry import release

    with workspace_lock():
        decision = release.promote(rule, fresh)
    print(*decision.notes, sep="\n", end="\n" if decision.notes else "", file=sys.stderr)
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
    """Make the previous champion the champion again; a second rollback undoes the first.

    It waits for no training: only for another promotion or rollback.
    """
    from troupe.registry import release

    now, before = release.rollback()
    print(f"champion is {now.uri} again, {f'previous is {before.uri}' if before else 'there is no previous'}")


@app.command()
def versions() -> None:
    """List what is registered: versions, aliases, figures on test text, verdicts."""
    from troupe.registry.versions import table

    rows = [_row(version) for version in table()]
    header = ("model", "version", "alias", "bits/byte", "judge", "verdict", "weights", "commit", "run")
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command("history")
def show_history(
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each entry, as in the file.")] = False,
    last: Annotated[int, typer.Option(min=0, help="Only so many, the newest; 0: all.")] = 0,
) -> None:
    """Who or what promoted, refused, rolled back or moved the champion, when and why; the oldest first.

    Read from .troupe/history.jsonl, which is only ever added to.
    """
    from troupe.registry.history import entries

    for entry in entries()[-last:]:
        if as_json:
            print(json.dumps(entry.plain(), ensure_ascii=False))
            continue
        print(_headline(entry))
        for line in (*entry.reasons, " ".join(f"{name}={value:.4f}" for name, value in entry.figures.items())):
            if line:
                print(f"  {line}")


@app.command()
def lineage(
    version: Annotated[str, typer.Argument(help=f"A registered model, e.g. {CHAMPION}.")] = CHAMPION,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every parameter.")] = False,
) -> None:
    """Where a version comes from: text, tokens, each stage's run, parameters and commit, versions, promotions."""
    from troupe.registry.lineage import trace

    found = trace(version)
    if as_json:
        print(json.dumps(found.plain(), indent=2, ensure_ascii=False, allow_nan=False))
        return
    from rich.console import Console

    Console(soft_wrap=True, highlight=False).print(_tree(found))


@app.command()
def reproduce(version: Annotated[str, typer.Argument(help=f"A registered model, e.g. {CHAMPION}.")]) -> None:
    """Train a version again from its commit, text and parameters in a clean worktree; exit status 1 if it differs."""
    from troupe.registry.reproduction import reproduce as made_again

    made = made_again(version)
    print(f"{made.version}: {made.stage} of commit {made.commit} is {'the same' if made.same else 'NOT the same'}")
    print(f"  registered {made.registered}\n  made again {made.made}")
    if not made.same:
        raise SystemExit(DIFFERS)


def _tree(found: "Lineage") -> "Tree":
    from rich.markup import escape
    from rich.tree import Tree

    def line(name: str, **facts: object) -> str:
        return escape(f"{name}  " + "  ".join(f"{key} {value}" for key, value in facts.items() if value))

    tree = Tree(line(found.version, alias=" ".join(found.aliases)))
    text = tree.add(line("text", sha256=found.text["sha256"], source=found.text.get("source")))
    text.add(line("licence", **{"is": found.text.get("licence"), "bytes": found.text.get("bytes")}))
    for work in (*([found.tokens] if found.tokens else []), *found.stages):
        node = tree.add(line(work.stage, version=work.version, sha256=work.sha256))
        node.add(line("made by", run=work.run, mlflow=work.mlflow_run, commit=work.commit))
        if work.parameters:
            node.add(escape(" ".join(f"{key}={value}" for key, value in work.parameters.items())))
        if work.figures:
            node.add(escape("  ".join(f"{key} {value:g}" for key, value in work.figures.items())))
    tree.add(line("released as", **{"": " ".join(found.released) or "nothing yet"}))
    decisions = tree.add("decisions") if found.history else tree
    for entry in found.history:
        decisions.add(escape(_headline(entry)))
    return tree


def _headline(entry: "Entry") -> str:
    """An entry of the audit file in a line, without reasons and figures."""
    about = f" of {entry.version}" if entry.version else ""
    moved = f"champion {entry.before or 'none'} -> {entry.after or 'none'}"
    kept = f"champion {entry.after or 'none'}"
    what = kept if entry.before == entry.after else moved
    return f"{entry.time}  {entry.action}{about}; {what}; by {entry.by}"


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
