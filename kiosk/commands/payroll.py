"""``kiosk events payroll``: days of work, for whoever pays them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import click

from kiosk.biometrics import parse_subject_id
from kiosk.commands.options import common_options, count, load, print_json
from kiosk.commands.spreadsheets import write_csv
from kiosk.commands.stores import open_store
from kiosk.commands.times import parse_period
from kiosk.payroll import Entry, WorkDay, work_days
from kiosk.store import Outline, Store

_COLUMNS = (
    "date", "subject_id", "name", "first_in", "last_out", "worked_s", "breaks_s",
    "entries", "corrections", "missing", "running", "clock_synchronized",
)  # fmt: skip
_LINE = "{:<10}  {:<20}  {:<20}  {:<8}  {:<11}  {:>8}  {:>7}  {:>7}  {:>11}  {}"
_HEAD = ("date", "subject", "name", "in", "out", "worked", "breaks", "entries", "corrections", "note")


@click.command("payroll")
@click.option("--since", metavar="T", help="From that day on: 2026-03-01, or 30d ago.")
@click.option("--until", metavar="T", help="Up to that day, included.")
@click.option("--subject", metavar="ID", help="Only this person's.")
@click.option("--format", "output", type=click.Choice(["csv", "json", "table"]), default="table", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--longest-shift",
    "longest_h",
    metavar="HOURS",
    type=click.FloatRange(1, 72),
    default=16,
    show_default=True,
    help="An event that comes later than so long after a check-in does not belong to it.",
)
@common_options
def payroll(
    *,
    since: str | None,
    until: str | None,
    subject: str | None,
    output: Literal["csv", "json", "table"],
    as_json: bool,
    longest_h: float,
    config_path: Path | None,
    verbose: int,
) -> None:
    """Sum up the attendance log: one row a person and day of the site.

    A shift over midnight belongs to the day on which it began. What is void does not count. Where a check-in, a
    check-out or an end of a break is missing, the row says so and the time worked stays empty: add what is missing
    with `kiosk events add`. The columns are described in docs/attendance.md.
    """
    config = load(config_path, verbose)
    zone, now = ZoneInfo(config.device.timezone), datetime.now(UTC)
    wanted = None if subject is None else parse_subject_id(subject)
    first, last = parse_period(since, until, zone, now)
    longest = timedelta(hours=longest_h)
    days = Days(first, last, zone)
    with open_store(config) as store:
        rows = read_rows(store, days, now=now, longest=longest, subject=wanted)
        names = {one.id: one.name for one in store.subjects()}
        _tell_what_is_not_there(store, days, wanted)
    documents = [_document(row, names, zone) for row in rows]
    if as_json or output == "json":
        print_json({"timezone": zone.key, "longest_shift_h": longest_h, "days": documents})
    elif output == "csv":
        write_csv(_COLUMNS, ({**document, "missing": " ".join(document["missing"])} for document in documents))
    else:
        _print_table(rows, names, zone)


class Days:
    """Which days of the site were asked for: those in which the times lie; None: no bound."""

    def __init__(self, first: datetime | None, last: datetime | None, zone: ZoneInfo) -> None:
        self.first = date.min if first is None else _day(first, zone)
        self.last = date.max if last is None else _day(last - timedelta(milliseconds=1), zone)
        self.zone = zone

    @property
    def start(self) -> datetime | None:
        """When the first one begins, UTC; None: there is no bound."""
        return _midnight(self.first, self.zone)

    @property
    def end(self) -> datetime | None:
        """When the last one is over, UTC; None: there is no bound."""
        return None if self.last == date.max else _midnight(self.last + timedelta(days=1), self.zone)

    def __contains__(self, day: date) -> bool:
        return self.first <= day <= self.last

    def of(self, occurred_at: str) -> date:
        """The site's day of a stored time."""
        return _day(datetime.fromisoformat(occurred_at), self.zone)


def read_rows(store: Store, days: Days, *, now: datetime, longest: timedelta, subject: str | None) -> list[WorkDay]:
    """The rows of these days, as if the whole log had been read."""
    end = days.end
    # What begins on the last day may end later. A shift that is open by then is not running any more, whatever follows.
    until = end + longest if end is not None and end < now - longest else None
    entries = map(_entry, store.outlines(since=days.start, until=until, subject=subject))
    return [row for row in work_days(entries, days.zone, now=now, longest=longest) if row.day in days]


def _tell_what_is_not_there(store: Store, days: Days, subject: str | None) -> None:
    """On stderr: a row that is not printed cannot say that it is missing."""
    kept = store.first_kept()
    if kept is not None and kept.seq > 1 and date.min < days.first < days.of(kept.occurred_at):
        click.echo(f"note: events before {kept.occurred_at} are not kept any more (store.retention_days)", err=True)
    unsure = store.outlines(subject=subject, unsure_only=True)
    elsewhere = sum(not one.void and days.of(one.occurred_at) not in days for one in unsure)
    if elsewhere:
        click.echo(
            f"note: {count(elsewhere, 'event')} outside these days may belong to them, for the clock was not set; "
            "`kiosk events` marks such times with ?",
            err=True,
        )


def _entry(outline: Outline) -> Entry:
    return Entry(
        subject_id=outline.subject_id,
        seq=outline.seq,
        event_type=outline.event_type,
        at=datetime.fromisoformat(outline.occurred_at),
        clock_synchronized=outline.clock_synchronized,
        added=outline.added,
        void=outline.void,
    )


def _document(row: WorkDay, names: Mapping[Any, str | None], zone: ZoneInfo) -> dict[str, Any]:
    return {
        "date": row.day.isoformat(),
        "subject_id": row.subject_id,
        "name": names.get(row.subject_id),
        "first_in": _iso(row.first_in, zone),
        "last_out": _iso(row.last_out, zone),
        "worked_s": row.worked_s,
        "breaks_s": row.breaks_s,
        "entries": row.entries,
        "corrections": row.corrections,
        "missing": list(row.missing),
        "running": row.running,
        "clock_synchronized": row.clock_synchronized,
    }


def _print_table(rows: Iterable[WorkDay], names: Mapping[Any, str | None], zone: ZoneInfo) -> None:
    click.echo(_LINE.format(*_HEAD).rstrip())
    for row in rows:
        click.echo(
            _LINE.format(
                row.day.isoformat(),
                row.subject_id,
                names.get(row.subject_id) or "",
                _clock(row.first_in, row.day, zone),
                _clock(row.last_out, row.day, zone),
                _hours(row.worked_s),
                _hours(row.breaks_s),
                row.entries,
                row.corrections,
                _note(row),
            ).rstrip()
        )


def _note(row: WorkDay) -> str:
    notes = [f"no {name}" for name in row.missing]
    if row.running:
        notes.append("may still be in")
    if not row.clock_synchronized:
        notes.append("a time is in doubt: the clock was not set")
    return ", ".join(notes)


def _clock(moment: datetime | None, day: date, zone: ZoneInfo) -> str:
    """The site's time of day, with the days that have passed since the row's."""
    if moment is None:
        return ""
    local = moment.astimezone(zone)
    later = (local.date() - day).days
    return f"{local:%H:%M:%S}{f' +{later}' if later else ''}"


def _hours(seconds: int | None) -> str:
    return "" if seconds is None else f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _iso(moment: datetime | None, zone: ZoneInfo) -> str | None:
    """RFC 3339 with the site's offset."""
    return None if moment is None else moment.astimezone(zone).isoformat(timespec="seconds")


def _day(moment: datetime, zone: ZoneInfo) -> date:
    return moment.astimezone(zone).date()


def _midnight(day: date, zone: ZoneInfo) -> datetime | None:
    """The first one, in UTC, which counts on across a change of the clocks; None where there is no such time."""
    try:
        return datetime.combine(day, time(), zone).astimezone(UTC)
    except OverflowError:
        return None
