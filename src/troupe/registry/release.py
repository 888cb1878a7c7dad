"""The release line: promote the candidate if the gate lets it pass, or go back to the champion before."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from mlflow import MlflowClient

from troupe import layout
from troupe.errors import RegistryError
from troupe.files import read_json
from troupe.gate import Figures, Verdict, decide
from troupe.params import PromoteParams
from troupe.registry import fetch, history, line
from troupe.registry.history import Entry, figures_of
from troupe.registry.line import Aliases, Line
from troupe.registry.registration import find, heal, result_of
from troupe.registry.versions import RELEASE, Version, create
from troupe.tracking.connection import connection

WANTED_AFTER_ALL = "if it is wanted after all: `make rollback`"
IDENTITY = ("weights_sha256", "data_sha256", "params_sha256")


@dataclass(frozen=True)
class Decision:
    stage: str
    candidate: Version
    champion: Version | None  # before the decision
    released: Version | None  # the candidate in the release line, if it was promoted
    verdict: Verdict
    time: str  # ISO 8601
    notes: tuple[str, ...] = ()  # what was found and done on the way: a line each
    fault: str | None = None  # what is wrong with the files of the champion after the decision

    def plain(self) -> dict[str, Any]:
        """The decision in the words of the report."""
        return {
            "outcome": self.verdict.outcome,
            "reasons": list(self.verdict.reasons),
            "stage": self.stage,
            "version": (self.released or self.candidate).uri,
            "champion_before": self.champion.uri if self.champion else None,
            "time": self.time,
        }


def promote(rule: PromoteParams, fresh: bool = False, by: str = "") -> Decision:
    """Put the candidate that reports/metrics.json names through the gate; make it champion if it passes.

    `fresh` asks of it what is asked of a first champion, for when the text itself has changed and the champion's
    figures mean nothing any more, or when there is no champion though there has been one. Otherwise a model that was
    rolled back is not promoted again: a schedule would undo overnight what a person decided.
    `by` says who or what decides, for the audit file; "" for the user of this process.

    First the release line is put in order: a change that was cut short is completed, what a person did to the aliases
    is recorded, and the files of champion and previous are put back from artifacts/ if they are lost and lie there.

    The verdict is recorded in the tags of the candidate's version and in the audit file, whatever it is. Raises
    ArtifactError if there is no report, RegistryError if the candidate is not registered or another process does not
    stop changing the release line.
    """
    report = read_json(layout.METRICS)
    stage = report.get("candidate", {}).get("stage")
    if stage not in layout.MODEL_STAGES:
        raise RegistryError(
            f"{layout.METRICS}: candidate.stage is {stage!r}, not one of {', '.join(layout.MODEL_STAGES)}"
        )
    with connection() as client, line.exclusive():
        candidate = find(client, stage, result_of(stage))
        if not candidate:
            raise RegistryError(f"the candidate in {layout.model_dir(stage)} is not registered; run `make pipeline`")
        known, noticed = line.reconciled(client)
        notes = [_note(entry) for entry in noticed] + _mended(client, known)
        fault = fetch.fault(client, known.champion) if known.champion else None
        measured = _measured(report, stage, candidate)
        verdict = _verdict(known, candidate, measured, rule, fresh, fault)
        if verdict.outcome != "unchanged":  # the verdict that made it champion stands
            _tag(client, candidate, verdict)
        entry = _entry(known, candidate, verdict, measured, by or history.who())
        released = None
        if verdict.outcome == "promoted":
            released = _release(client, known, candidate, verdict, entry, fault)
        elif verdict.outcome == "refused":
            _record_once(client, entry)
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    fault = None if released else fault
    return Decision(stage, candidate, known.champion, released, verdict, now, tuple(notes), fault)


def rollback(by: str = "") -> tuple[Version, Version | None]:
    """Make `previous` the champion and the champion `previous`; return the new champion and the one that was.

    Without `previous` the newest other version of the release line becomes champion; without a champion there is none
    that was, unless the last one is still there. What a person did to the aliases is recorded first, and undone. `by`
    is as in `promote`. If a rollback was killed half-way, this one completes it and does no more.

    Raises RegistryError if there is nothing to go back to, if its weights are not the registered ones, or if the
    champion has changed while this waited for another process.
    """
    with connection() as client:
        seen = line.read(client).aliases.champion
        with line.exclusive():
            known, entries = line.reconciled(client)
            if known.champion and history.ROLLED_BACK in (entry.action for entry in entries):
                return known.champion, known.previous  # one that was killed is completed: this is its repetition
            if known.aliases.champion != seen:
                now = known.champion.uri if known.champion else "none"
                raise RegistryError(
                    f"not rolled back: the champion has changed meanwhile, it is {now}; look at `troupe versions`, and "
                    "say it again if that one is to be replaced"
                )
            target, before = known.remedy(), known.champion or _last(known)
            if not target:
                raise RegistryError(_nothing_before(known))
            fetch.verify(target.uri)
            before = None if before and before.number == target.number else before
            after = Aliases(target.number, before.number if before else None)
            champion = known.champion.uri if known.champion else None
            entry = Entry(history.ROLLED_BACK, by or history.who(), champion, target.uri)
            line.change_aliases(client, known, after, entry)
            return target, before


def _verdict(
    known: Line, candidate: Version, measured: Figures, rule: PromoteParams, fresh: bool, fault: str | None
) -> Verdict:
    champion = known.champion
    weights = candidate.tags["weights_sha256"]
    if champion and champion.tags.get("weights_sha256") == weights:  # --fresh or not: it would be a duplicate
        verdict = decide(measured, Figures.from_tags(champion.tags), rule)
        return Verdict("refused", (fault,)) if fault else verdict
    if not fresh and champion and known.previous and known.previous.tags.get("weights_sha256") == weights:
        verdict = Verdict("refused", (f"the champion replaced a model with these weights; {WANTED_AFTER_ALL}",))
    elif not fresh and champion and (decision := known.taken_from(weights)):
        verdict = Verdict("refused", (_set_aside(decision),))
    elif not fresh and not champion and known.begun and not known.cut_short(weights):
        verdict = Verdict("refused", (_vacant(known, candidate),))
    else:
        verdict = decide(measured, Figures.from_tags(champion.tags) if champion and not fresh else None, rule)
    return replace(verdict, reasons=(*verdict.reasons, fault)) if fault else verdict


def _set_aside(decision: Entry) -> str:
    """Why weights that a person has put out of service do not come back by themselves."""
    return (
        f"a model with these weights, {decision.before}, was put out of service on {decision.time[:10]} "
        f"({decision.action}, by {decision.by}); if it is wanted after all: `troupe promote --fresh`"
    )


def _vacant(known: Line, candidate: Version) -> str:
    """Why a release line that has begun and has no champion takes no first one."""
    target = known.remedy()
    back = f"`troupe rollback` makes {target.uri} champion again" if target else "there is no version to roll back to"
    return (
        f"the release line has no champion, though it has had one: {back}; `troupe promote --fresh` makes this "
        f"candidate ({candidate.uri}) champion without comparing it with any"
    )


def _nothing_before(known: Line) -> str:
    if not known.champion:
        return "nothing to go back to: the release line has no version; `make promote` puts the candidate to the gate"
    if known.champion.number == "1":
        return "nothing to go back to: there has been no champion before this one"
    return f"nothing to go back to: {known.champion.uri} is the only version of the release line that is left"


def _last(known: Line) -> Version | None:
    """The champion before the last change, if it is still there."""
    return known.versions.get((known.change and known.change.before.champion) or "")


def _note(entry: Entry) -> str:
    """What was noticed or completed, in a line."""
    return f"{entry.action}, by {entry.by}: {'; '.join(entry.reasons) or f'champion is {entry.after}'}"


def _mended(client: MlflowClient, known: Line) -> list[str]:
    """Put lost files of champion and previous back from artifacts/; a line for each that was not whole."""
    lines = []
    champion = known.champion.uri if known.champion else None
    for version in dict.fromkeys(number for number in (known.aliases.champion, known.aliases.previous) if number):
        named = known.versions[version]
        if not (fault := fetch.fault(client, named)):
            continue
        healed = heal(client, named)
        lines.append(f"{named.uri}: its files were lost and are put back from artifacts/" if healed else fault)
        action = history.HEALED if healed else history.DAMAGED
        _record_once(client, Entry(action, history.who(), champion, champion, (fault,), named.uri))
    return lines


def _record_once(client: MlflowClient, entry: Entry) -> None:
    """Record an entry unless it repeats the last one about the same version: runs go on, night after night."""
    about = [known for known in history.entries() if known.version == entry.version]
    if not about or not entry.says_again(about[-1]):
        line.record(client, entry)


def _entry(known: Line, candidate: Version, verdict: Verdict, measured: Figures, by: str) -> Entry:
    champion = known.champion
    figures = figures_of(measured, Figures.from_tags(champion.tags) if champion else None)
    uri = champion.uri if champion else None
    return Entry(verdict.outcome, by, uri, uri, verdict.reasons, candidate.uri, figures)


def _measured(report: dict[str, Any], stage: str, candidate: Version) -> Figures:
    """The report's figures, if they are of the weights that would be released; else none."""
    figures = Figures.from_report(report, stage)
    return figures if figures.weights_sha256 == candidate.tags["weights_sha256"] else Figures()


def _release(
    client: MlflowClient, known: Line, candidate: Version, verdict: Verdict, entry: Entry, fault: str | None
) -> Version:
    """Put the candidate into the release line and move the aliases; `previous` stays if the champion is not whole."""
    fetch.verify(candidate.uri)
    tags = dict(candidate.tags) | _tags(verdict) | {"released_from": candidate.uri}
    tags = {key: value for key, value in tags.items() if not key.startswith(history.TAG)}
    released = _released(known, tags)
    if released:
        for key, value in tags.items():
            client.set_model_version_tag(RELEASE, released.number, key, value)
        released = replace(released, tags={**released.tags, **tags})
    else:
        released = create(client, RELEASE, candidate.uri, candidate.run_id, tags)
    previous = known.aliases.champion if known.champion and not fault else known.aliases.previous
    previous = None if previous == released.number else previous
    line.change_aliases(client, known, Aliases(released.number, previous), replace(entry, after=released.uri))
    return released


def _released(known: Line, tags: dict[str, str]) -> Version | None:
    """The version of the release line that was made of this one: by a promotion long ago, or by one that was killed."""
    same = ("released_from", *IDENTITY)
    return next((v for v in known.versions.values() if all(v.tags.get(key) == tags.get(key) for key in same)), None)


def _tag(client: MlflowClient, version: Version, verdict: Verdict) -> None:
    for key, value in _tags(verdict).items():
        client.set_model_version_tag(version.name, version.number, key, value)


def _tags(verdict: Verdict) -> dict[str, str]:
    return {"verdict": verdict.outcome, "verdict_reasons": "\n".join(verdict.reasons)}
