"""Which event a visit is, by the time of day: windows of the site's own clock, and what happens outside them.

A window is open while a clock on the site's wall shows a time within it: an hour that a change of the clocks repeats
counts twice, one that it skips never comes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

Rule = Literal["check_in", "check_out", "break", "alternate"]
"""What a window, or the time outside all of them, makes of a visit."""

DAY_NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_DAY_MIN = 24 * 60
_WEEK_MIN = 7 * _DAY_MIN


@dataclass(frozen=True, slots=True)
class Window:
    """A time of day, every week. ``days``: those on which it opens, 0 is Monday.

    ``start_min`` (included) and ``end_min`` (not included) are minutes since midnight on the site's clock; an end that
    is not after the start is on the next day.
    """

    days: frozenset[int]
    start_min: int
    end_min: int
    rule: Rule

    @property
    def crosses_midnight(self) -> bool:
        return 0 < self.end_min <= self.start_min

    def shows(self, local: datetime) -> bool:
        """Whether it is open when the site's clock shows ``local``."""
        # Seconds do not matter: both ends are whole minutes.
        day, minute = local.weekday(), local.hour * 60 + local.minute
        if self.start_min < self.end_min:
            return day in self.days and self.start_min <= minute < self.end_min
        return (day in self.days and minute >= self.start_min) or ((day - 1) % 7 in self.days and minute < self.end_min)

    def spans(self) -> Iterator[tuple[int, int]]:
        """Start and end of each opening, minutes since Monday's first; Sunday's may end in the next week."""
        length = (self.end_min - self.start_min - 1) % _DAY_MIN + 1
        for day in sorted(self.days):
            start = day * _DAY_MIN + self.start_min
            yield start, start + length

    def describe(self) -> str:
        """``mon,tue,wed 06:00-10:00``."""
        names = ",".join(DAY_NAMES[day] for day in sorted(self.days))
        return f"{names} {_clock_text(self.start_min)}-{_clock_text(self.end_min)}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Windows that do not overlap, and the rule outside them."""

    windows: tuple[Window, ...]
    outside: Rule

    def rule(self, utc_ms: int, zone: ZoneInfo) -> Rule:
        """What counts at this moment."""
        local = _local(utc_ms, zone)
        return next((window.rule for window in self.windows if window.shows(local)), self.outside)

    def day_start(self, utc_ms: int, zone: ZoneInfo) -> datetime:
        """Since when earlier events of a subject count: the start of the site's day.

        Where midnight falls into a break window, that window's opening: who went on a break before midnight comes back
        from it afterwards. Where a change of the clocks falls on midnight: the first of two midnights, and for one that
        is left out the moment of the change (PEP 495: an impossible time counts by the offset before).
        """
        midnight = _local(utc_ms, zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        evening = midnight.replace(tzinfo=None) - timedelta(days=1)
        for window in self.windows:
            if window.rule == "break" and window.crosses_midnight and evening.weekday() in window.days:
                opening = evening + timedelta(minutes=window.start_min)
                # The earlier one, where the clock shows that time twice or not at all.
                return min(opening.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        return midnight


def next_event(rule: Rule, last: str | None) -> str:
    """The type of a visit's event. ``last``: of the event before it on the site's day, None: there is none.

    Who is on a break comes back from it, unless a window says in or out.
    """
    match rule:
        case "check_in" | "check_out":
            return rule
        case "break":
            return "break_end" if last == "break_start" else "break_start"
        case "alternate":
            if last == "break_start":
                return "break_end"
            return "check_out" if last in {"check_in", "break_end"} else "check_in"


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two windows, by their places in the list, that are both open at ``minute`` of the week."""

    first: int
    second: int
    minute: int

    def describe(self) -> str:
        """``fri 09:30``."""
        day, minute = divmod(self.minute, _DAY_MIN)
        return f"{DAY_NAMES[day]} {_clock_text(minute)}"


def find_overlaps(windows: Sequence[Window]) -> list[Overlap]:
    """For every two windows that overlap, where they first do."""
    spans = [list(window.spans()) for window in windows]
    found = []
    for second in range(len(windows)):
        for first in range(second):
            minutes = [minute for a in spans[first] for b in spans[second] for minute in _common(a, b)]
            if minutes:
                found.append(Overlap(first, second, min(minutes)))
    return found


def parse_days(text: str) -> frozenset[int]:
    """``mon-fri``, ``sat,sun``, ``fri-mon, wed``: numbers of days, 0 is Monday.

    Raises:
        ValueError: something else.
    """
    days: set[int] = set()
    for part in re.split(r"\s*[,\s]\s*", text.strip().lower()):
        names = part.split("-")
        if len(names) > 2 or not all(name in DAY_NAMES for name in names):
            raise ValueError("no days")
        first, last = DAY_NAMES.index(names[0]), DAY_NAMES.index(names[-1])
        days |= {(first + n) % 7 for n in range((last - first) % 7 + 1)}
    return frozenset(days)


def parse_clock(text: str) -> int:
    """``06:30``, up to ``24:00``: minutes since midnight.

    Raises:
        ValueError: something else.
    """
    found = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)|24:00", text)
    if found is None:
        raise ValueError("no time of day")
    return _DAY_MIN if text == "24:00" else int(found[1]) * 60 + int(found[2])


def instants(wall: datetime, zone: ZoneInfo) -> list[datetime]:
    """When the site's clock shows a time (without a zone), in UTC: once, twice, or never where the clocks skip it."""
    found = {wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)}
    return sorted(moment for moment in found if moment.astimezone(zone).replace(tzinfo=None) == wall)


def _common(a: tuple[int, int], b: tuple[int, int]) -> Iterator[int]:
    """Where two openings begin to overlap; Sunday's reaches into the next week, which is this one again."""
    for shift in (-_WEEK_MIN, 0, _WEEK_MIN):
        start = max(a[0], b[0] + shift)
        if start < min(a[1], b[1] + shift):
            yield start % _WEEK_MIN


def _local(utc_ms: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(utc_ms / 1000, UTC).astimezone(zone)


def _clock_text(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
