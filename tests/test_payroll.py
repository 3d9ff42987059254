"""Days of work from events: shifts, breaks, and what the events do not tell."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiosk.payroll import Entry, WorkDay, work_days

pytestmark = pytest.mark.stories

BERLIN = ZoneInfo("Europe/Berlin")
LATER = datetime(2027, 1, 1, tzinfo=UTC)
LONGEST = timedelta(hours=16)
TYPES = {"in": "check_in", "out": "check_out", "break": "break_start", "back": "break_end"}


def entries(text: str, *, subject_id: str = "E1", zone: ZoneInfo = BERLIN) -> list[Entry]:
    """``2026-03-02 08:00 in, 17:00 out``, by the site's clock. ``!``: void, ``+``: by hand, ``?``: clock not set."""
    found: list[Entry] = []
    day = date(2026, 3, 2)
    for seq, part in enumerate(text.split(", "), 1):
        *days, clock, word = part.split()
        day = date.fromisoformat(days[0]) if days else day
        found.append(
            Entry(
                subject_id,
                seq,
                TYPES[word.rstrip("!+?")],
                datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=zone),
                clock_synchronized="?" not in word,
                added="+" in word,
                void="!" in word,
            )
        )
    return found


def days(events: Sequence[Entry], *, now: datetime = LATER, zone: ZoneInfo = BERLIN) -> list[WorkDay]:
    return work_days(events, zone, now=now, longest=LONGEST)


def hours(text: str, *, zone: ZoneInfo = BERLIN) -> list[tuple[str, float | None]]:
    """Day of the month and hours worked."""
    rows = days(entries(text, zone=zone), zone=zone)
    return [(f"{row.day:%d}", None if row.worked_s is None else row.worked_s / 3600) for row in rows]


def clock(moment: datetime | None, zone: ZoneInfo = BERLIN) -> str | None:
    return None if moment is None else f"{moment.astimezone(zone):%d %H:%M}"


def test_a_day() -> None:
    (row,) = days(entries("08:00 in, 12:00 break, 12:45 back, 17:15 out"))
    assert row == WorkDay(
        day=date(2026, 3, 2),
        subject_id="E1",
        first_in=datetime(2026, 3, 2, 7, tzinfo=UTC),
        last_out=datetime(2026, 3, 2, 16, 15, tzinfo=UTC),
        worked_s=round(8.5 * 3600),
        breaks_s=45 * 60,
        entries=4,
        corrections=0,
        missing=(),
        running=False,
        clock_synchronized=True,
    )


def test_several_shifts_and_breaks_a_day() -> None:
    (row,) = days(entries("08:00 in, 10:00 break, 10:15 back, 12:00 out, 13:00 in, 15:00 break, 15:05 back, 17:00 out"))
    assert (clock(row.first_in), clock(row.last_out)) == ("02 08:00", "02 17:00")
    assert (row.worked_s, row.breaks_s, row.entries) == (8 * 3600 - 20 * 60, 20 * 60, 8)


def test_a_shift_over_midnight_belongs_to_the_day_it_began() -> None:
    (row,) = days(entries("22:00 in, 23:50 break, 2026-03-03 00:20 back, 06:00 out"))
    assert (row.day, row.worked_s, row.breaks_s) == (date(2026, 3, 2), round(7.5 * 3600), 30 * 60)
    assert (clock(row.first_in), clock(row.last_out)) == ("02 22:00", "03 06:00")
    assert hours("22:00 in, 2026-03-03 06:00 out, 22:00 in, 2026-03-04 05:00 out") == [("02", 8), ("03", 7)]


def test_the_day_is_the_sites() -> None:
    # Monday 23:30 UTC is Tuesday in Seoul.
    event = Entry("E1", 1, "check_in", datetime(2026, 3, 2, 23, 30, tzinfo=UTC))
    assert [row.day.day for row in days([event], zone=ZoneInfo("Asia/Seoul"))] == [3]
    assert [row.day.day for row in days([event], zone=ZoneInfo("UTC"))] == [2]


def test_what_was_worked_is_time_that_passed_not_what_the_clock_shows() -> None:
    assert hours("2026-03-28 22:00 in, 2026-03-29 06:00 out") == [("28", 7)]
    assert hours("2026-10-24 22:00 in, 2026-10-25 06:00 out") == [("24", 9)]
    # Midnight itself comes twice, or never.
    assert hours("2026-10-31 22:00 in, 2026-11-01 06:00 out", zone=ZoneInfo("America/Havana")) == [("31", 9)]
    assert hours("2026-04-23 22:00 in, 2026-04-24 06:00 out", zone=ZoneInfo("Africa/Cairo")) == [("23", 7)]


INCOMPLETE = {
    "no check-out": ("08:00 in", ("check_out",), "02 08:00", None),
    "no check-in": ("17:00 out", ("check_in",), None, "02 17:00"),
    "two check-ins": ("08:00 in, 08:10 in, 17:00 out", ("check_out",), "02 08:00", "02 17:00"),
    "two check-outs": ("08:00 in, 12:00 out, 17:00 out", ("check_in",), "02 08:00", "02 17:00"),
    "the last check-out": ("08:00 in, 12:00 out, 13:00 in", ("check_out",), "02 08:00", None),
    "the first check-in": ("12:00 out, 13:00 in, 17:00 out", ("check_in",), None, "02 17:00"),
    "no end of a break": ("08:00 in, 12:00 break, 17:00 out", ("break_end",), "02 08:00", "02 17:00"),
    "no start of a break": ("08:00 in, 12:30 back, 17:00 out", ("break_start",), "02 08:00", "02 17:00"),
    "two starts": ("08:00 in, 12:00 break, 15:00 break, 15:10 back, 17:00 out", ("break_end",), "02 08:00", "02 17:00"),
    "a break alone": ("12:00 break, 12:30 back", ("check_in", "check_out"), None, None),
    "a break, then out": ("12:00 break, 17:00 out", ("check_in", "break_end"), None, "02 17:00"),
    "on a break": ("08:00 in, 12:00 break", ("check_out", "break_end"), "02 08:00", None),
    "too long": ("06:00 in, 22:01 out", ("check_in", "check_out"), "02 06:00", "02 22:01"),
}


@pytest.mark.parametrize(("text", "missing", "first", "last"), INCOMPLETE.values(), ids=INCOMPLETE)
def test_no_time_is_invented(text: str, missing: tuple[str, ...], first: str | None, last: str | None) -> None:
    (row,) = days(entries(text))
    assert row.missing == missing
    assert (clock(row.first_in), clock(row.last_out)) == (first, last)
    assert row.worked_s is None
    assert (row.breaks_s is None) == bool({"break_start", "break_end"} & set(missing))
    assert not row.running


def test_a_forgotten_check_out_spoils_no_other_day() -> None:
    rows = days(entries("08:00 in, 2026-03-03 08:00 in, 17:00 out, 2026-03-04 17:00 out"))
    assert [(row.day.day, row.missing) for row in rows] == [(2, ("check_out",)), (3, ()), (4, ("check_in",))]
    assert rows[1].worked_s == 9 * 3600


def test_who_may_still_be_in() -> None:
    events = entries("08:00 in")
    for hour, running in ((9, True), (23, True), (24, False)):
        now = datetime(2026, 3, 2, tzinfo=BERLIN) + timedelta(hours=hour, minutes=1)
        (row,) = days(events, now=now)
        assert (row.running, row.missing, row.worked_s) == (running, ("check_out",), None)
    assert not days(entries("08:00 in, 09:00 out"), now=datetime(2026, 3, 2, 9, tzinfo=UTC))[0].running


def test_corrections_count_and_what_is_void_does_not() -> None:
    (row,) = days(entries("08:00 in, 08:01 in!, 12:00 out!+, 17:00 out+"))
    assert (row.worked_s, row.entries, row.corrections, row.missing) == (9 * 3600, 2, 4, ())


def test_a_day_of_which_nothing_counts_is_there_all_the_same() -> None:
    (row,) = days(entries("08:00 in!, 17:00 out!"))
    assert (row.entries, row.corrections, row.missing, row.first_in, row.worked_s) == (0, 2, (), None, None)


def test_what_is_void_belongs_to_the_shift_it_lay_in() -> None:
    (row,) = days(entries("22:00 in, 2026-03-03 01:00 out!, 06:00 out"))
    assert (row.worked_s, row.corrections) == (8 * 3600, 1)


def test_doubt_about_a_clock_is_told() -> None:
    rows = days(entries("08:00 in, 17:00 out?, 2026-03-03 08:00 in, 09:00 in?!, 17:00 out"))
    assert [row.clock_synchronized for row in rows] == [False, True]
    assert rows[0].worked_s == 9 * 3600


def test_rows_are_by_day_and_subject() -> None:
    events = [*entries("08:00 in, 2026-03-03 08:00 in", subject_id="b"), *entries("09:00 in", subject_id="a")]
    assert [(row.day.day, row.subject_id) for row in days(events)] == [(2, "a"), (2, "b"), (3, "b")]


def test_the_order_they_come_in_does_not_matter() -> None:
    events = entries("08:00 in, 12:00 break, 12:45 back, 17:15 out")
    assert days(events[::-1]) == days(events)


@given(st.lists(st.tuples(st.integers(0, 4000), st.sampled_from(list(TYPES.values())), st.booleans()), max_size=30))
def test_whatever_happened_every_event_is_in_one_row(found: list[tuple[int, str, bool]]) -> None:
    events = [
        Entry("E1", seq, kind, LATER - timedelta(days=30) + timedelta(minutes=minute), void=void)
        for seq, (minute, kind, void) in enumerate(found)
    ]
    rows = days(events)
    assert sum(row.entries for row in rows) == sum(not event.void for event in events)
    assert sum(row.corrections for row in rows) == sum(event.void for event in events)
    assert len({row.day for row in rows}) == len(rows)
    for row in rows:
        assert (row.worked_s is not None) == (row.entries > 0 and not row.missing)
        assert row.worked_s is None or row.worked_s >= 0
