"""A cron expression of the command line, in the time zone that is meant, as a schedule of Prefect's."""

import warnings
from zoneinfo import ZoneInfoNotFoundError

from prefect.client.schemas.schedules import CronSchedule
from pydantic import ValidationError
from tzlocal import get_localzone

from troupe.errors import TroupeError

NAME_ONE = "name one, e.g. --timezone Europe/Berlin"


def cron_schedule(cron: str, timezone: str = "") -> CronSchedule:
    """The times that `cron` means in `timezone`, an IANA name; in the time zone of this machine where that is empty.

    Raises TroupeError for an expression or a zone that Prefect would refuse.
    """
    try:
        return CronSchedule(cron=cron, timezone=timezone or local_timezone())
    except ValidationError as error:
        if any(part["loc"] == ("timezone",) for part in error.errors()):
            raise TroupeError(f"--timezone: {timezone!r} is no time zone; {NAME_ONE}") from None
        raise TroupeError(
            f"--cron: {cron!r} is no cron expression; five fields are wanted: minute, hour, day of the month, month, "
            'day of the week, e.g. "0 3 * * *"'
        ) from None


def local_timezone() -> str:
    """The IANA name of the time zone of this process: what TZ says, else what the machine is set to, else UTC.

    Raises TroupeError where the zone has no such name, e.g. for TZ=CET-1CEST.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a machine where none is set runs in UTC, as the C library has it
        try:
            name = getattr(get_localzone(), "key", "UTC")
        except (ZoneInfoNotFoundError, ValueError):
            name = None
    if name in (None, "local"):
        raise TroupeError(f"--cron: the time zone of this machine has no name; {NAME_ONE}")
    return str(name)
