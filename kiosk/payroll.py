"""From events to days of work: one row a subject and day, and whatever the events do not tell stays open.

A shift is what lies between a check-in and the check-out after it. It belongs to the site's day on which it began, and
so do its breaks. No time is invented: where a check-in, a check-out or an end of a break is missing, the row says so,
and how long was worked that day is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from operator import attrgetter
from zoneinfo import ZoneInfo

_MISSING = ("check_in", "check_out", "break_start", "break_end")
"""In the order in which a row names them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One event. ``at``: with a zone; ``added``: by hand; ``void``: it counts no more."""

    subject_id: str
    seq: int
    event_type: str
    at: datetime
    clock_synchronized: bool = True
    added: bool = False
    void: bool = False


@dataclass(frozen=True, slots=True)
class WorkDay:
    """What the events of one subject and site day tell; None: they do not tell.

    ``entries``: events that count. ``corrections``: made by hand, added or voided. ``missing``: types of events.
    ``running``: the last shift may not be over yet. ``clock_synchronized``: every time can be trusted.
    """

    day: date
    subject_id: str
    first_in: datetime | None
    last_out: datetime | None
    worked_s: int | None
    breaks_s: int | None
    entries: int
    corrections: int
    missing: tuple[str, ...]
    running: bool
    clock_synchronized: bool


def work_days(entries: Iterable[Entry], zone: ZoneInfo, *, now: datetime, longest: timedelta) -> list[WorkDay]:
    """Rows by day and subject.

    ``longest``: how long a shift may take; what comes later belongs to no shift that began before. A shift is open as
    long as that, from ``now`` back: its check-out may yet come.
    """
    # Within one zone Python subtracts and compares what the clock showed.
    in_utc = (replace(entry, at=entry.at.astimezone(UTC)) for entry in entries)
    ordered = sorted(in_utc, key=attrgetter("subject_id", "at", "seq"))
    rows: list[WorkDay] = []
    for subject_id, own in groupby(ordered, key=attrgetter("subject_id")):
        days: dict[date, list[_Shift]] = {}
        for shift in _shifts(own, zone, now=now, longest=longest):
            days.setdefault(shift.day, []).append(shift)
        rows += [_work_day(day, subject_id, shifts) for day, shifts in days.items()]
    return sorted(rows, key=attrgetter("day", "subject_id"))


@dataclass(slots=True)
class _Shift:
    """From its first event on. ``idle``: only what is void is known of it."""

    day: date
    began: datetime
    start: datetime | None = None
    end: datetime | None = None
    on_break_since: datetime | None = None
    breaks: timedelta = timedelta()
    missing: set[str] = field(default_factory=set)
    entries: int = 0
    corrections: int = 0
    clock_synchronized: bool = True
    running: bool = False
    idle: bool = False

    def take(self, entry: Entry) -> None:
        """One more event of this shift, but the check-in it began with."""
        self.entries += 1
        self.corrections += entry.added
        self.clock_synchronized = self.clock_synchronized and entry.clock_synchronized
        match entry.event_type:
            case "check_in":
                self.start = entry.at
            case "break_start":
                if self.on_break_since is not None:
                    self.missing.add("break_end")
                self.on_break_since = entry.at
            case "break_end":
                if self.on_break_since is None:
                    self.missing.add("break_start")
                else:
                    self.breaks += entry.at - self.on_break_since
                self.on_break_since = None
            case "check_out":
                self.end = entry.at
        if self.start is None:
            self.missing.add("check_in")

    def close(self) -> None:
        """No more events: what is not there by now is missing."""
        if self.idle:
            return
        if self.on_break_since is not None:
            self.missing.add("break_end")
        if self.end is None:
            self.missing.add("check_out")


def _shifts(entries: Iterable[Entry], zone: ZoneInfo, *, now: datetime, longest: timedelta) -> Iterator[_Shift]:
    """Of one subject, whose events come in order."""
    shift: _Shift | None = None
    for entry in entries:
        # Of two check-ins in a row nobody can tell whether somebody came by twice, or went in between.
        again = entry.event_type == "check_in" and not entry.void
        if shift is not None and (again or entry.at - shift.began > longest):
            shift.close()
            yield shift
            shift = None
        if entry.void:
            if shift is None:
                yield _Shift(_day(entry, zone), entry.at, corrections=1 + entry.added, idle=True)
            else:
                shift.corrections += 1 + entry.added
            continue
        shift = shift or _Shift(_day(entry, zone), entry.at)
        shift.take(entry)
        if entry.event_type == "check_out":
            shift.close()
            yield shift
            shift = None
    if shift is not None:
        shift.running = shift.start is not None and now - shift.began <= longest
        shift.close()
        yield shift


def _day(entry: Entry, zone: ZoneInfo) -> date:
    return entry.at.astimezone(zone).date()


def _work_day(day: date, subject_id: str, shifts: list[_Shift]) -> WorkDay:
    counted = [shift for shift in shifts if not shift.idle]
    missing = {name for shift in counted for name in shift.missing}
    worked = timedelta()
    for shift in counted:
        if shift.start is not None and shift.end is not None:
            worked += shift.end - shift.start - shift.breaks
    breaks = sum((shift.breaks for shift in counted), timedelta())
    known = bool(counted) and not missing
    return WorkDay(
        day=day,
        subject_id=subject_id,
        first_in=counted[0].start if counted else None,
        last_out=counted[-1].end if counted else None,
        worked_s=round(worked.total_seconds()) if known else None,
        breaks_s=round(breaks.total_seconds()) if counted and not missing & {"break_start", "break_end"} else None,
        entries=sum(shift.entries for shift in counted),
        corrections=sum(shift.corrections for shift in shifts),
        missing=tuple(name for name in _MISSING if name in missing),
        running=any(shift.running for shift in counted),
        clock_synchronized=all(shift.clock_synchronized for shift in counted),
    )
