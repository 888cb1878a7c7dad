"""The release line: promote the candidate if the gate lets it pass, or go back to the champion before."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlflow import MlflowClient

from troupe import layout
from troupe.errors import RegistryError
from troupe.files import read_json
from troupe.gate import Figures, Verdict, decide
from troupe.params import PromoteParams
from troupe.registry import fetch
from troupe.registry.registration import find, result_of
from troupe.registry.versions import CHAMPION, PREVIOUS, RELEASE, Version, aliased, create
from troupe.tracking.connection import connection

WANTED_AFTER_ALL = "if it is wanted after all: `make rollback`"


@dataclass(frozen=True)
class Decision:
    stage: str
    candidate: Version
    champion: Version | None  # before the decision
    released: Version | None  # the candidate in the release line, if it was promoted
    verdict: Verdict
    time: str  # ISO 8601

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


def promote(rule: PromoteParams, fresh: bool = False) -> Decision:
    """Put the candidate that reports/metrics.json names through the gate; make it champion if it passes.

    `fresh` asks of it what is asked of a first champion, for when the text itself has changed and the champion's
    figures mean nothing any more. Otherwise a model that was rolled back is not promoted again: a schedule would
    undo overnight what a person decided.

    The verdict is recorded in the tags of the candidate's version, whatever it is. Raises ArtifactError if there is no
    report, RegistryError if the candidate is not registered.
    """
    report = read_json(layout.METRICS)
    stage = report.get("candidate", {}).get("stage")
    if stage not in layout.MODEL_STAGES:
        raise RegistryError(
            f"{layout.METRICS}: candidate.stage is {stage!r}, not one of {', '.join(layout.MODEL_STAGES)}"
        )
    with connection() as client:
        candidate = find(client, stage, result_of(stage))
        if not candidate:
            raise RegistryError(f"the candidate in {layout.model_dir(stage)} is not registered; run `make pipeline`")
        champion, previous = aliased(client, RELEASE, CHAMPION), aliased(client, RELEASE, PREVIOUS)
        if not fresh and _was_replaced(candidate, champion, previous):
            verdict = Verdict("refused", (f"the champion replaced a model with these weights; {WANTED_AFTER_ALL}",))
        else:
            to_beat = Figures.from_tags(champion.tags) if champion and not fresh else None
            verdict = decide(_measured(report, stage, candidate), to_beat, rule)
        if verdict.outcome != "unchanged":  # the verdict that made it champion stands
            _tag(client, candidate, verdict)
        released = _release(client, candidate, champion, verdict) if verdict.outcome == "promoted" else None
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return Decision(stage, candidate, champion, released, verdict, now)


def rollback() -> tuple[Version, Version]:
    """Swap champion and previous; return the new champion and the one that was.

    Raises RegistryError if there is no previous champion or its weights are not the registered ones.
    """
    with connection() as client:
        champion, previous = aliased(client, RELEASE, CHAMPION), aliased(client, RELEASE, PREVIOUS)
        if not champion or not previous or champion.number == previous.number:
            raise RegistryError("nothing to go back to: there has been no champion before this one")
        fetch.verify(previous.uri)
        client.set_registered_model_alias(RELEASE, CHAMPION, previous.number)
        client.set_registered_model_alias(RELEASE, PREVIOUS, champion.number)
        return previous, champion


def _was_replaced(candidate: Version, champion: Version | None, previous: Version | None) -> bool:
    """Whether the candidate is the champion that a promotion, or a person with `rollback`, has set aside."""
    weights, *others = (version and version.tags.get("weights_sha256") for version in (candidate, champion, previous))
    return weights == others[1] != others[0]


def _measured(report: dict[str, Any], stage: str, candidate: Version) -> Figures:
    """The report's figures, if they are of the weights that would be released; else none."""
    figures = Figures.from_report(report, stage)
    return figures if figures.weights_sha256 == candidate.tags["weights_sha256"] else Figures()


def _release(client: MlflowClient, candidate: Version, champion: Version | None, verdict: Verdict) -> Version:
    """Copy the candidate's version into the release line and move the aliases; `previous` first, for a kill between."""
    fetch.verify(candidate.uri)
    tags = dict(candidate.tags) | _tags(verdict) | {"released_from": candidate.uri}
    released = create(client, RELEASE, candidate.uri, candidate.run_id, tags)
    if champion:
        client.set_registered_model_alias(RELEASE, PREVIOUS, champion.number)
    client.set_registered_model_alias(RELEASE, CHAMPION, released.number)
    return released


def _tag(client: MlflowClient, version: Version, verdict: Verdict) -> None:
    for key, value in _tags(verdict).items():
        client.set_model_version_tag(version.name, version.number, key, value)


def _tags(verdict: Verdict) -> dict[str, str]:
    return {"verdict": verdict.outcome, "verdict_reasons": "\n".join(verdict.reasons)}
