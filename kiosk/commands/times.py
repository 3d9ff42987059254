"""Times as people write and read them: in the site's time zone."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from datetime import time as day_time
from zoneinfo import ZoneInfo

from kiosk.errors import UsageError
from kiosk.schedule import instants

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO = re.compile(r"(\d{1,6})([mhdw])(?: ago)?", re.ASCII)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_ANY_DAY = re.compile(r"\d{4}-\d{2}-\d{2}|\d{4}-?W\d{2}(-?\d)?|\d{8}", re.ASCII)


def parse_time(text: str, zone: ZoneInfo, now: datetime, *, end_of_day: bool = False) -> datetime:
    """A date, an ISO 8601 time, or how long ago (``30m``, ``24h``, ``7d``, ``2w``; ``2h ago`` says the same).

    ``end_of_day``: a bare date means the end of that day, not its start.

    Raises:
        UsageError: none of these.
    """
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        if _DAY.fullmatch(text):
            day = date.fromisoformat(text)
            if end_of_day and day == date.max:
                return datetime.max.replace(microsecond=0, tzinfo=UTC)
            moment = datetime.combine(day + timedelta(days=end_of_day), day_time(), zone)
        else:
            moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
        # Where that is before the year 1 or after 9999 in UTC, nobody can say when it is.
        moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(f"{text!r} is no time: use 2026-03-02, 2026-03-02T08:00, 24h or 7d") from None
    return moment


def parse_period(
    since: str | None, until: str | None, zone: ZoneInfo, now: datetime
) -> tuple[datetime | None, datetime | None]:
    """From when until before when; None where nothing is said. A bare date as the end includes that day.

    Raises:
        UsageError: one of them is no time, or the end is not behind the beginning.
    """
    first = None if since is None else parse_time(since, zone, now)
    last = None if until is None else parse_time(until, zone, now, end_of_day=True)
    if first is not None and last is not None and last <= first:
        raise UsageError(f"the end, {until}, is not behind the beginning, {since}; is it the other way round?")
    return first, last


def parse_moment(text: str, zone: ZoneInfo, now: datetime, *, clock_is_set: bool = True) -> datetime:
    """One moment: an ISO 8601 time with its minutes, or how long ago, as :func:`parse_time` takes them; UTC.

    Raises:
        UsageError: neither; a bare date; a time that the site's clock showed twice, or not at all; or how long ago,
            while nobody knows what time it is.
    """
    moment = parse_time(text, zone, now)
    if not clock_is_set and _AGO.fullmatch(text):
        raise UsageError(
            f"{text!r}: the clock is not known to be right (see `timedatectl`): say the time itself, like "
            "2026-03-02T08:00"
        )
    if _ANY_DAY.fullmatch(text):
        raise UsageError(f"{text!r} is a day: say the time, too, like 2026-03-02T08:00")
    if moment.tzinfo is not zone:
        return moment.astimezone(UTC)
    found = instants(moment.replace(tzinfo=None, fold=0), zone)
    if not found:
        raise UsageError(f"{text!r}: the clocks of {zone.key} left that time out; give another one")
    if len(found) > 1:
        shown = " or ".join(one.astimezone(zone).isoformat(timespec="minutes") for one in found)
        raise UsageError(f"{text!r}: the clocks of {zone.key} showed that time twice; say which: {shown}")
    return found[0]


def local_time(occurred_at: str, zone: ZoneInfo) -> str:
    """A stored UTC time in the site's zone."""
    return f"{datetime.fromisoformat(occurred_at).astimezone(zone):%Y-%m-%d %H:%M:%S}"
