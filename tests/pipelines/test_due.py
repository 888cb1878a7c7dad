"""Runs whose time has come and that have not begun: which are skipped, which wait, and what their states say."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from pipelines.due import MISSED, Due, decide

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
LONG_AGO = MISSED + timedelta(seconds=1)


def due(ago: timedelta, kind: str = "train", by_schedule: bool = True, seen: bool = False, **parameters: Any) -> Due:
    return Due(uuid4(), kind, NOW - ago, by_schedule, seen, parameters)


def nightly(*, seen: bool = False, **parameters: Any) -> list[Due]:
    """Three nights."""
    return [due(timedelta(days=days), seen=seen, **parameters) for days in (3, 2, 1)]


def names(runs: list[Due], at_work: str | None = None) -> dict[UUID, str]:
    return {decision.id: decision.state.name for decision in decide(runs, NOW, at_work)}


@pytest.mark.fault("three nights with the machine off: one run")
def test_three_nights_with_the_machine_off_are_made_up_for_once() -> None:
    first, second, last = runs = nightly()
    [one, two] = decide(runs, NOW, at_work=None)
    assert [one.id, two.id] == [first.id, second.id], "the last is run"
    assert one.state.type.value == "CANCELLED"
    assert (one.state.name, str(last.at.astimezone().year) in (one.state.message or "")) == ("Skipped", True)


def test_never_and_all() -> None:
    assert list(names(nightly(catch_up="never")).values()) == ["Skipped"] * 3
    assert names(nightly(catch_up="all")) == {}
    on_time = due(timedelta(seconds=20), catch_up="never")
    assert names([on_time]) == {}, "late by a moment is not missed"


def test_what_was_seen_waiting_is_not_missed() -> None:
    """Behind a run of hours."""
    assert names(nightly(seen=True, catch_up="never"), at_work="train 1") == {}


def test_only_runs_alike_make_up_for_each_other() -> None:
    assert names([due(2 * LONG_AGO, kind="train"), due(LONG_AGO, kind="train on other text")]) == {}


def test_what_a_person_has_started_is_never_skipped_for_being_late() -> None:
    assert names([due(LONG_AGO, by_schedule=False, catch_up=what) for what in ("never", "once", "all")]) == {}


@pytest.mark.parametrize("by_schedule", [False, True])
def test_behind_a_run_at_work_one_waits_or_is_skipped(by_schedule: bool) -> None:
    moment = timedelta(seconds=5)
    waits = due(moment, by_schedule=by_schedule)
    skips = due(moment, "another", by_schedule=by_schedule, when_busy="skip")
    waiting, skipped = (decision.state for decision in decide([waits, skips], NOW, at_work="train 7"))
    assert (waiting.type.value, waiting.name) == ("SCHEDULED", "WaitingForWorkspace")
    assert waiting.state_details.scheduled_time == waits.at, "its turn stays its own"
    assert (skipped.type.value, skipped.name) == ("CANCELLED", "Skipped")
    assert all("train 7" in (state.message or "") for state in (waiting, skipped))
    assert names([waits, skips], at_work=None) == {}, "nobody is at work: the runner takes them"
    again = due(moment, by_schedule=by_schedule, seen=True)
    assert names([again], at_work="train 7") == {}, "said once"
