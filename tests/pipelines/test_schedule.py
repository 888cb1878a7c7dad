"""--cron and --timezone: what they mean, what is refused, and what Prefect's own planner makes of them."""

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from prefect.server.schemas.schedules import CronSchedule as Planned

from pipelines.__main__ import app
from pipelines.schedule import cron_schedule
from troupe.errors import TroupeError

NIGHTLY = "0 3 * * *"


@pytest.fixture
def set_timezone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets TZ for one test."""

    def set_to(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()
        monkeypatch.setattr("tzlocal.unix._cache_tz", None)

    yield set_to
    monkeypatch.undo()
    time.tzset()


def test_the_zone_is_the_machine_s_unless_one_is_named(set_timezone: Callable[[str], None]) -> None:
    set_timezone("Asia/Tokyo")
    assert cron_schedule(NIGHTLY).timezone == "Asia/Tokyo"
    assert cron_schedule(NIGHTLY, "Europe/Berlin").timezone == "Europe/Berlin"


def test_a_machine_whose_zone_has_no_name_is_told_to_name_one(set_timezone: Callable[[str], None]) -> None:
    set_timezone("CET-1CEST")
    with pytest.raises(TroupeError, match=r"^--cron: the time zone of this machine has no name"):
        cron_schedule(NIGHTLY)
    assert cron_schedule(NIGHTLY, "UTC").timezone == "UTC"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--cron", "0 3 * *"], "--cron: '0 3 * *' is no cron expression; "),
        (["--cron", "0 25 * * *"], "--cron: '0 25 * * *' is no cron expression; "),
        (["--cron", "h 3 * * *"], "--cron: 'h 3 * * *' is no cron expression; "),
        (["--cron", NIGHTLY, "--timezone", "Mars/Olympus"], "--timezone: 'Mars/Olympus' is no time zone; "),
        (["--timezone", "Europe/Berlin"], "--timezone: without --cron "),
    ],
)
def test_what_cannot_be_meant_is_one_line_before_any_server_starts(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        app(["ui", *arguments], standalone_mode=False)
    assert left.value.code == 2
    told = capsys.readouterr()
    assert told.err.startswith(says)
    assert (told.err.count("\n"), told.out) == (1, "")
    assert not (tmp_path / ".troupe/logs").exists()


@pytest.mark.parametrize(
    ("zone", "day", "runs"),
    [
        ("Europe/Berlin", "2026-07-01", ["2026-07-01T02:30:00+02:00"]),
        ("Europe/Berlin", "2026-03-29", ["2026-03-29T03:30:00+02:00"]),  # 02:30 does not exist: after the gap
        ("Europe/Berlin", "2026-10-25", ["2026-10-25T02:30:00+02:00"]),  # 02:30 exists twice: the first alone
        ("UTC", "2026-03-29", ["2026-03-29T02:30:00+00:00"]),
    ],
)
def test_prefect_runs_a_nightly_schedule_once_on_every_day_of_the_year(zone: str, day: str, runs: list[str]) -> None:
    wanted = cron_schedule("30 2 * * *", zone)
    planner = Planned(cron=wanted.cron, timezone=wanted.timezone)
    midnight = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
    dates = asyncio.run(planner.get_dates(start=midnight, end=midnight.replace(hour=23)))
    assert [date.isoformat() for date in dates] == runs
