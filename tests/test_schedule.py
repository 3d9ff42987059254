"""Windows of the site's clock: when they are open, around midnight and changes of the clocks, and what a visit is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiosk.schedule import (
    Overlap,
    Rule,
    Schedule,
    Window,
    find_overlaps,
    instants,
    next_event,
    parse_clock,
    parse_days,
)

BERLIN = ZoneInfo("Europe/Berlin")
EVERY_DAY = frozenset(range(7))


@pytest.fixture(autouse=True, params=["UTC", "America/New_York"])
def _machine_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's own time zone is never the site's, and has no say."""
    monkeypatch.setitem(os.environ, "TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def window(days: str, start: str, end: str, rule: Rule = "check_in") -> Window:
    return Window(parse_days(days), parse_clock(start), parse_clock(end), rule)


def rules(schedule: Schedule, zone: str, *utc: str) -> list[Rule]:
    return [schedule.rule(ms(text), ZoneInfo(zone)) for text in utc]


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


WORKDAY = Schedule(
    (
        window("mon-fri", "06:00", "10:00", "check_in"),
        window("mon-fri", "12:00", "13:30", "break"),
        window("mon-fri", "16:00", "20:00", "check_out"),
    ),
    "alternate",
)


def test_windows_are_times_of_the_sites_clock() -> None:
    # Seoul is nine hours ahead: 21:00 UTC on Sunday is 06:00 on Monday.
    times = ["2026-03-01T20:59:59.999", "2026-03-01T21:00", "2026-03-02T00:59:59.999", "2026-03-02T01:00"]
    assert rules(WORKDAY, "Asia/Seoul", *times) == ["alternate", "check_in", "check_in", "alternate"]
    times = ["2026-03-02T03:00", "2026-03-02T04:30", "2026-03-02T07:00", "2026-03-02T11:00"]
    assert rules(WORKDAY, "Asia/Seoul", *times) == ["break", "alternate", "check_out", "alternate"]
    # Friday 21:00 UTC is Saturday there.
    assert rules(WORKDAY, "Asia/Seoul", "2026-03-06T21:00") == ["alternate"]
    assert rules(Schedule(WORKDAY.windows, "check_out"), "Asia/Seoul", "2026-03-06T21:00") == ["check_out"]


def test_a_window_over_midnight_belongs_to_the_day_it_opens() -> None:
    night = Schedule((window("fri", "22:00", "06:00"),), "alternate")
    # Berlin, one hour ahead of UTC: Friday 2026-01-09.
    times = ["2026-01-09T00:00", "2026-01-09T21:00", "2026-01-09T23:30", "2026-01-10T04:59", "2026-01-10T05:00"]
    assert rules(night, "Europe/Berlin", *times) == ["alternate", "check_in", "check_in", "check_in", "alternate"]
    # Over the end of the week.
    sunday = Schedule((window("sun", "23:00", "01:00"),), "alternate")
    times = ["2026-01-11T21:59", "2026-01-11T22:00", "2026-01-11T23:59", "2026-01-12T00:00"]
    assert rules(sunday, "Europe/Berlin", *times) == ["alternate", "check_in", "check_in", "alternate"]


@pytest.mark.parametrize("end", ["24:00", "00:00"])
def test_a_window_until_midnight_ends_there(end: str) -> None:
    late = Schedule((window("sat", "22:00", end),), "alternate")
    times = ["2026-01-10T20:59", "2026-01-10T22:59", "2026-01-10T23:00", "2026-01-11T21:30"]
    assert rules(late, "Europe/Berlin", *times) == ["alternate", "check_in", "alternate", "alternate"]


def test_an_hour_that_comes_twice_is_in_the_window_twice() -> None:
    # Berlin, 2026-10-25: at 01:00 UTC the clock goes from 03:00 back to 02:00.
    early = Schedule((window("sun", "02:15", "03:00"),), "alternate")
    times = ["2026-10-25T00:14", "2026-10-25T00:15", "2026-10-25T00:59", "2026-10-25T01:14", "2026-10-25T01:15"]
    assert rules(early, "Europe/Berlin", *times) == ["alternate", "check_in", "check_in", "alternate", "check_in"]
    assert rules(early, "Europe/Berlin", "2026-10-25T01:59", "2026-10-25T02:00") == ["check_in", "alternate"]


def test_an_hour_that_is_left_out_is_in_no_window() -> None:
    # Berlin, 2026-03-29: at 01:00 UTC the clock goes from 02:00 to 03:00.
    skipped = Schedule((window("sun", "02:00", "03:00"), window("sun", "03:00", "04:00", "check_out")), "alternate")
    assert rules(skipped, "Europe/Berlin", "2026-03-29T00:59", "2026-03-29T01:00") == ["alternate", "check_out"]
    assert rules(skipped, "Europe/Berlin", "2026-03-29T01:59", "2026-03-29T02:00") == ["check_out", "alternate"]


def test_a_night_window_over_a_change_of_the_clocks_ends_by_the_clock() -> None:
    night = Schedule((window("sat", "22:00", "06:00"),), "alternate")
    # Clocks forward: 06:00 is 04:00 UTC; back: 05:00 UTC.
    times = ["2026-03-28T20:59", "2026-03-28T21:00", "2026-03-29T03:59", "2026-03-29T04:00"]
    assert rules(night, "Europe/Berlin", *times) == ["alternate", "check_in", "check_in", "alternate"]
    times = ["2026-10-24T19:59", "2026-10-24T20:00", "2026-10-25T04:59", "2026-10-25T05:00"]
    assert rules(night, "Europe/Berlin", *times) == ["alternate", "check_in", "check_in", "alternate"]


def test_changes_of_the_clocks_at_midnight() -> None:
    late = Schedule((window("sat", "23:00", "00:30"), window("sun", "00:30", "02:00", "check_out")), "alternate")
    # Havana, 2026-11-01 (a Sunday): at 01:00 (05:00 UTC) it is 00:00 again, still Sunday.
    times = ["2026-11-01T03:00", "2026-11-01T04:29", "2026-11-01T04:30", "2026-11-01T05:00", "2026-11-01T05:30"]
    assert rules(late, "America/Havana", *times) == ["check_in", "check_in", "check_out", "check_in", "check_out"]
    # Beirut, 2026-10-25: at 24:00 on Saturday (21:00 UTC) it is 23:00 again, still Saturday.
    times = ["2026-10-24T20:00", "2026-10-24T21:00", "2026-10-24T21:59", "2026-10-24T22:29", "2026-10-24T22:30"]
    assert rules(late, "Asia/Beirut", *times) == ["check_in", "check_in", "check_in", "check_in", "check_out"]
    # Cairo, 2026-04-24 (a Friday): at 24:00 on Thursday (22:00 UTC) it is 01:00.
    thursday = Schedule((window("thu", "23:00", "00:30"), window("fri", "01:00", "02:00", "check_out")), "alternate")
    times = ["2026-04-23T21:00", "2026-04-23T21:59", "2026-04-23T22:00", "2026-04-23T23:00"]
    assert rules(thursday, "Africa/Cairo", *times) == ["check_in", "check_in", "check_out", "alternate"]


# Since when earlier events count


def test_the_day_starts_at_the_sites_midnight() -> None:
    start = WORKDAY.day_start(ms("2026-03-02T03:00"), ZoneInfo("Asia/Seoul"))
    assert start.astimezone(UTC) == datetime(2026, 3, 1, 15, tzinfo=UTC)
    # In summer, and on the day of the change itself.
    assert WORKDAY.day_start(ms("2026-03-29T12:00"), BERLIN).astimezone(UTC) == datetime(2026, 3, 28, 23, tzinfo=UTC)
    assert WORKDAY.day_start(ms("2026-10-25T12:00"), BERLIN).astimezone(UTC) == datetime(2026, 10, 24, 22, tzinfo=UTC)


def test_a_break_over_midnight_begins_the_day() -> None:
    night = Schedule((window("mon-fri", "23:30", "00:30", "break"),), "alternate")
    opening = datetime(2026, 1, 6, 22, 30, tzinfo=UTC)
    for time_of_day in ("2026-01-06T23:10", "2026-01-07T00:10", "2026-01-07T22:00"):
        assert night.day_start(ms(time_of_day), BERLIN) == opening
    # On Sunday it did not open.
    monday = night.day_start(ms("2026-01-04T23:10"), BERLIN)
    assert monday.astimezone(UTC) == datetime(2026, 1, 4, 23, tzinfo=UTC)
    # Other windows do not do that, nor a break that ends at midnight.
    for other in (window("mon-fri", "23:30", "00:30"), window("mon-fri", "23:30", "24:00", "break")):
        start = Schedule((other,), "alternate").day_start(ms("2026-01-06T23:10"), BERLIN)
        assert start.astimezone(UTC) == datetime(2026, 1, 6, 23, tzinfo=UTC)


# What a visit is


def visits(*steps: Rule) -> list[str]:
    last, told = None, []
    for rule in steps:
        last = next_event(rule, last)
        told.append(last)
    return told


def test_in_and_out_in_turns() -> None:
    assert visits("alternate", "alternate", "alternate") == ["check_in", "check_out", "check_in"]
    assert visits("check_in", "check_in", "alternate", "check_out") == [
        "check_in",
        "check_in",
        "check_out",
        "check_out",
    ]


def test_breaks_in_turns() -> None:
    assert visits("check_in", "break", "break", "break") == ["check_in", "break_start", "break_end", "break_start"]
    assert visits("break", "break") == ["break_start", "break_end"]


def test_who_comes_back_late_from_a_break_still_does() -> None:
    assert visits("check_in", "break", "alternate", "alternate") == [
        "check_in", "break_start", "break_end", "check_out"
    ]  # fmt: skip


def test_a_window_of_in_or_out_has_the_last_word() -> None:
    assert visits("break", "check_out", "alternate") == ["break_start", "check_out", "check_in"]
    assert visits("break", "check_in") == ["break_start", "check_in"]


# Overlaps


def test_windows_side_by_side_do_not_overlap() -> None:
    assert find_overlaps(WORKDAY.windows) == []
    assert find_overlaps([window("mon", "06:00", "10:00"), window("mon", "10:00", "12:00")]) == []
    assert find_overlaps([window("mon", "22:00", "06:00"), window("tue", "06:00", "22:00")]) == []
    assert find_overlaps([window("sun", "22:00", "06:00"), window("mon", "06:00", "24:00")]) == []


def test_overlaps_are_found_at_any_place_of_the_week() -> None:
    windows = [
        window("mon-fri", "06:00", "10:00"),
        window("fri,sat", "09:30", "11:00"),
        window("sun", "23:00", "06:01"),
    ]
    assert find_overlaps(windows) == [Overlap(0, 1, 4 * 1440 + 570), Overlap(0, 2, 360)]
    assert [overlap.describe() for overlap in find_overlaps(windows)] == ["fri 09:30", "mon 06:00"]
    assert windows[1].describe() == "fri,sat 09:30-11:00"


times = st.integers(0, 1439)
windows = st.builds(
    lambda days, start, length: Window(days, start, (start + length - 1) % 1440 + 1, "break"),
    st.frozensets(st.integers(0, 6), min_size=1),
    times,
    st.integers(1, 1439),
)


@given(windows, windows)
def test_windows_overlap_where_both_are_open(one: Window, other: Window) -> None:
    week = [datetime(2026, 1, 5 + day, hour, minute) for day in range(7) for hour in range(24) for minute in (0, 1, 59)]  # noqa: DTZ001
    both = [moment for moment in week if one.shows(moment) and other.shows(moment)]
    found = find_overlaps([one, other])
    assert not both or found
    for overlap in found:
        moment = datetime(2026, 1, 5 + overlap.minute // 1440, overlap.minute % 1440 // 60, overlap.minute % 60)  # noqa: DTZ001
        assert one.shows(moment)
        assert other.shows(moment)


# What people write


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("mon", {0}),
        ("mon-fri", {0, 1, 2, 3, 4}),
        ("Sat, SUN", {5, 6}),
        ("fri-mon", {4, 5, 6, 0}),
        ("mon,wed fri-sat", {0, 2, 4, 5}),
        ("mon-sun", EVERY_DAY),
        ("sun-sun", {6}),
    ],
)
def test_days(text: str, days: set[int]) -> None:
    assert parse_days(text) == days


@pytest.mark.parametrize("text", ["", "monday", "mon-", "-fri", "mon-wed-fri", "mon - fri", "mon;tue", "1-5"])
def test_no_days(text: str) -> None:
    with pytest.raises(ValueError, match="no days"):
        parse_days(text)


def test_times_of_day() -> None:
    assert [parse_clock(text) for text in ("00:00", "06:30", "23:59", "24:00")] == [0, 390, 1439, 1440]
    for text in ("6:30", "24:01", "06:60", "0630", "06:30:00", "06:30\n"):
        with pytest.raises(ValueError, match="no time"):
            parse_clock(text)


def test_what_the_sites_clock_shows_once_twice_and_never() -> None:
    noon = datetime(2026, 3, 2, 12)  # noqa: DTZ001
    assert instants(noon, BERLIN) == [datetime(2026, 3, 2, 11, tzinfo=UTC)]
    twice = instants(datetime(2026, 10, 25, 2, 30), BERLIN)  # noqa: DTZ001
    assert twice == [datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, 30, tzinfo=UTC)]
    assert instants(datetime(2026, 3, 29, 2, 30), BERLIN) == []  # noqa: DTZ001


@pytest.mark.parametrize(("day", "openings"), [("2026-03-29", 0), ("2026-06-01", 1), ("2026-10-25", 2)])
def test_a_minute_of_the_night_comes_as_often_as_the_clock_shows_it(day: str, openings: int) -> None:
    schedule = Schedule(
        (window("mon-sun", "02:00", "02:01"), window("mon-sun", "02:01", "02:02", "break")), "alternate"
    )
    found = [schedule.rule(ms(day) + minute * 60_000, BERLIN) for minute in range(6 * 60)]
    assert (found.count("check_in"), found.count("break")) == (openings, openings)
    assert all(after == "break" for before, after in pairwise(found) if before == "check_in")
