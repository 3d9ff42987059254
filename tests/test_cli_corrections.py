"""``kiosk events add``, ``void`` and ``payroll``, and every command that shows what they did."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from command_line import Kiosk
from hypothesis import example, given, settings
from hypothesis import strategies as st
from runner import assert_one_line_error, run_in_process
from test_store import MODEL, decision, template

from kiosk.biometrics import SubjectId
from kiosk.clock import SystemClock
from kiosk.commands.payroll import Days, read_rows
from kiosk.commands.spreadsheets import defused
from kiosk.commands.times import parse_moment
from kiosk.errors import UsageError
from kiosk.events import VOID, EventType, Moment, Origin
from kiosk.payroll import WorkDay
from kiosk.signatures import EventSigner
from kiosk.store import Store
from kiosk.store._attendance import insert_entry

pytestmark = pytest.mark.stories

SEOUL = ZoneInfo("Asia/Seoul")
BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime.now(UTC)
YESTERDAY = (NOW.astimezone(SEOUL) - timedelta(days=1)).date()

PAYROLL_COLUMNS = (
    "date", "subject_id", "name", "first_in", "last_out", "worked_s", "breaks_s", "entries", "corrections", "missing",
    "running", "clock_synchronized",
)  # fmt: skip
"""Others have built on them: none goes, and new ones come last."""

Run = Callable[..., tuple[int, str, str]]


def at(clock: str) -> datetime:
    """A time of yesterday, by the site's clock."""
    return datetime.fromisoformat(f"{YESTERDAY}T{clock}").replace(tzinfo=SEOUL)


@pytest.fixture
def kiosk_with_a_day(kiosk: Kiosk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kiosk]:
    """Two people; E1 checked in yesterday at 08:00 and, as the kiosk saw it, at 08:05."""
    kiosk.configure(device={"timezone": "Asia/Seoul"}, mqtt={"enabled": True})
    monkeypatch.setenv("KIOSK_CONFIG", str(kiosk.config))
    # Neither the zone nor the clock of the machine that tests has a say.
    monkeypatch.setenv("TZ", "America/New_York")
    monkeypatch.setattr(SystemClock, "synchronized", lambda _: True)
    time.tzset()
    with Store.open(kiosk.store) as store:
        store.enroll(SubjectId("E1"), [template()], name='=HYPERLINK("http://x")')
        store.enroll(SubjectId("E2"), [template(1)], name="Bob")
        for clock in ("08:00", "08:05"):
            store.record_check_in(
                decision("E1"),
                event_type=EventType.CHECK_IN,
                moment=Moment(round(at(clock).timestamp() * 1000), True, 1000, "boot"),
                origin=Origin("hq", "door-1", "Asia/Seoul"),
                model_id=MODEL,
                gallery_size=2,
            )
    yield kiosk
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def run(kiosk_with_a_day: Kiosk, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command in this process: exit code, stdout, stderr."""
    assert kiosk_with_a_day.store.exists()

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run_in_process(*arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def document(result: tuple[int, str, str]) -> Any:
    assert (result[0], result[2]) == (0, ""), result
    return json.loads(result[1])


@pytest.fixture
def corrected(run: Run) -> Run:
    """The second check-in is void, a check-out at 17:30 is added."""
    assert run("events", "void", "2", "--reason", "came twice", "--subject", "E1") == (
        0,
        "event 3: event 2 is void\n",
        "",
    )
    code, out, err = run(
        "events", "add", "E1", "--type", "check_out", "--at", f"{YESTERDAY}T17:30", "--reason", "+forgot"
    )
    assert (code, err) == (0, "")
    assert out == f"event 4: check_out of E1 at {YESTERDAY} 17:30:00 Asia/Seoul added\n"
    return run


def test_the_log_shows_and_marks_them(corrected: Run) -> None:
    lines = corrected("events")[1].splitlines()
    assert [line.split()[0] for line in lines] == ["seq", "1", "2", "3", "4"]
    assert lines[2].endswith("VOID by 3")
    assert lines[3].endswith("voids 2: came twice")
    assert lines[4].endswith("added: +forgot")
    assert f"{YESTERDAY} 17:30:00" in lines[4]
    events = document(corrected("events", "--json"))["events"]
    assert [(event["event_type"], event["voids"], event["voided_by"], event["method"]) for event in events] == [
        ("check_in", None, None, "face"),
        ("check_in", None, 3, "face"),
        ("void", 2, None, "manual"),
        ("check_out", None, None, "manual"),
    ]
    rows = list(csv.DictReader(corrected("events", "--format", "csv")[1].splitlines()))
    assert [row["reason"] for row in rows] == ["", "", "came twice", "'+forgot"]
    assert list(rows[0])[-5:] == ["method", "recorded_at", "voids", "voided_by", "reason"]


def test_payroll(corrected: Run) -> None:
    day = str(YESTERDAY)
    code, out, err = corrected("events", "payroll", "--since", day, "--until", day, "--format", "csv")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        ",".join(PAYROLL_COLUMNS),
        f'{day},E1,"\'=HYPERLINK(""http://x"")",{day}T08:00:00+09:00,{day}T17:30:00+09:00,34200,0,2,2,,False,True',
    ]
    (row,) = document(corrected("events", "payroll", "--json"))["days"]
    assert (row["name"], row["worked_s"], row["missing"]) == ('=HYPERLINK("http://x")', 34200, [])
    assert "9:30:00" in corrected("events", "payroll")[1].splitlines()[1]
    assert document(corrected("events", "payroll", "--json", "--subject", "E2"))["days"] == []
    assert (
        document(corrected("events", "payroll", "--json", "--since", "2024-01-01", "--until", "2024-12-31"))["days"]
        == []
    )


def test_payroll_before_anything_is_corrected(run: Run) -> None:
    (row,) = document(run("events", "payroll", "--json"))["days"]
    assert (row["missing"], row["worked_s"], row["entries"]) == (["check_out"], None, 2)
    assert run("events", "payroll", "--format", "csv")[1].splitlines()[1].split(",")[-3] == "check_out"


def test_payroll_of_a_clock_that_was_not_set(run: Run, kiosk_with_a_day: Kiosk) -> None:
    with Store.open(kiosk_with_a_day.store) as store:
        store.record_check_in(
            decision("E1"),
            event_type=EventType.CHECK_IN,
            moment=Moment(5000, False, 1000, "other boot"),
            origin=Origin("hq", "door-1", "Asia/Seoul"),
            model_id=MODEL,
            gallery_size=2,
        )
    _, out, err = run("events", "payroll", "--json", "--since", "2026-01-01")
    assert [row["date"] for row in json.loads(out)["days"]] == [str(YESTERDAY)]
    assert err.startswith("note: 1 event outside these days may belong to them, for the clock was not set")
    _, out, err = run("events", "payroll", "--json")
    assert [row["clock_synchronized"] for row in json.loads(out)["days"]] == [False, True]
    assert err == ""


def test_payroll_of_days_whose_events_are_gone(run: Run, kiosk_with_a_day: Kiosk) -> None:
    with Store.open(kiosk_with_a_day.store) as store:
        store.mark_sent([1])
        assert store.prune(1, now_ms=round((NOW + timedelta(days=2)).timestamp() * 1000)) == 1
    _, out, err = run("events", "payroll", "--json", "--since", str(YESTERDAY - timedelta(days=1)))
    assert len(json.loads(out)["days"]) == 1
    assert err.startswith("note: events before ")
    assert err.endswith(" are not kept any more (store.retention_days)\n")
    assert document(run("events", "payroll", "--json", "--since", str(YESTERDAY)))["days"]


def log_events(store: Store, subject_id: str, events: Sequence[tuple[datetime, str, bool]]) -> None:
    """When, of which type, whether void: as they lie in the log, without the rules of the commands that make them."""
    origin = Origin("hq", "door-1", "Europe/Berlin")
    with store._writing() as db:
        for occurred_at, event_type, void in events:
            row = {
                "subject_id": SubjectId(subject_id),
                "moment": Moment(round(occurred_at.timestamp() * 1000), True, 1000, "boot"),
                "origin": origin,
                "evidence": {},
            }
            seq = insert_entry(db, event_id=str(uuid4()), event_type=event_type, **row)
            if void:
                insert_entry(db, event_id=str(uuid4()), event_type=VOID, voids=seq, **row)


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("payroll") / "kiosk.db") as store:
        yield store


FIRST_SLOT = datetime(2026, 10, 22, tzinfo=UTC)
"""Three days before the clocks of Berlin change."""


def slots(*events: tuple[int, str]) -> list[tuple[int, str, bool]]:
    return [(slot, kind, False) for slot, kind in events]


@given(
    # More breaks than check-ins and check-outs: it is behind these that what came before has no say any more.
    events=st.lists(
        st.tuples(
            st.integers(0, 4 * 48), st.sampled_from([*EventType, *list(EventType)[2:]]), st.integers(0, 5).map(bool)
        ).map(lambda found: (found[0], found[1], not found[2])),
        min_size=3,
        max_size=14,
    ),
    first=st.integers(-1, 4),
    length=st.integers(0, 2),
    hour=st.integers(0, 23),
    longest_h=st.sampled_from([1, 8, 16, 30]),
    now=st.integers(0, 8 * 48),
)
# A check-in without an end, a break a day later that belongs to nothing, and another within what a shift may take.
@example(slots((0, "check_in"), (33, "break_start"), (64, "break_end"), (67, "check_out")), 1, 0, 0, 16, 500)
@settings(max_examples=250, deadline=None, derandomize=True)
def test_the_rows_of_some_days_are_those_of_the_whole_log(
    shared_store: Store,
    events: list[tuple[int, str, bool]],
    first: int,
    length: int,
    hour: int,
    longest_h: int,
    now: int,
) -> None:
    def after(half_hours: int) -> datetime:
        return FIRST_SLOT + timedelta(minutes=30 * half_hours)

    subject_id = uuid4().hex
    log_events(shared_store, subject_id, [(after(slot), kind, void) for slot, kind, void in events])
    # `--since 3d` is any time of a day; the day counts from its midnight on.
    since = after(48 * first + 2 * hour)
    days = Days(since, since + timedelta(days=length, hours=1), BERLIN)

    def found(asked: Days) -> list[WorkDay]:
        longest = timedelta(hours=longest_h)
        return read_rows(shared_store, asked, now=after(now), longest=longest, subject=subject_id)

    assert found(days) == [row for row in found(Days(None, None, BERLIN)) if row.day in days]


def test_what_belongs_to_no_shift_makes_no_day_complete(run: Run, kiosk_with_a_day: Kiosk) -> None:
    kiosk_with_a_day.configure(device={"timezone": "Europe/Berlin"}, mqtt={"enabled": True})
    lines = (
        "20T00:30 check_in", "20T12:10 break_end", "20T23:50 check_in", "21T11:30 break_start", "21T23:10 check_out",
        "22T07:30 check_in", "22T08:00 check_out",
    )  # fmt: skip
    events = [(datetime.fromisoformat(f"2025-10-{when}Z"), kind, False) for when, kind in map(str.split, lines)]
    with Store.open(kiosk_with_a_day.store) as store:
        log_events(store, "E2", events)
    whole = document(run("events", "payroll", "--subject", "E2", "--json"))["days"]
    assert [(row["date"][-2:], row["missing"]) for row in whole] == [
        ("20", ["check_out", "break_start"]),
        ("21", ["check_out", "break_end"]),
        # Of the check-out 23 hours after the check-in; with the break alone it would be a shift of the day before.
        ("22", ["check_in"]),
    ]
    for row in whole:
        day = row["date"]
        assert document(run("events", "payroll", "--json", "--since", day, "--until", day))["days"] == [row]


def test_why_tells_who_and_why(corrected: Run) -> None:
    out = corrected("why", "4")[1]
    assert "check_out of E1 (seq 4), hq/door-1" in out
    assert "added by hand at" in out
    assert "reason: +forgot" in out
    assert "entered by: " in out
    assert "reason: came twice" in corrected("why", "2")[1]
    told = document(corrected("why", "2", "--json"))
    assert (told["voided"]["seq"], told["voided"]["reason"], told["decision"]) == (3, "came twice", "identified")
    assert told["voided"]["by"] is not None
    added = document(corrected("why", "4", "--json"))
    assert (added["method"], added["reason"], added["voided"], added["voids"]) == ("manual", "+forgot", None, None)
    undone = document(corrected("why", "3", "--json"))
    assert undone["voids"]["seq"] == 2
    assert undone["by"] == told["voided"]["by"]


def test_no_chart_of_what_has_no_scores(corrected: Run, tmp_path: Path) -> None:
    code, _, err = corrected("why", "4", "--plot", str(tmp_path / "x.png"))
    assert code == 65
    assert "entered by hand" in assert_one_line_error(err)


def test_the_privacy_report_has_the_reasons_until_they_are_erased(corrected: Run) -> None:
    report = document(corrected("privacy", "report", "--subject", "E1", "--json"))
    assert [event["reason"] for event in report["events"]] == [None, None, "came twice", "+forgot"]
    assert [event["voided_by"] for event in report["events"]] == [None, 3, None, None]
    assert {change["action"] for change in report["changes"]} >= {"add_event", "void_event"}
    assert corrected("subjects", "remove", "E1", "--yes")[0] == 0
    report = document(corrected("privacy", "report", "--subject", "E1", "--json"))
    assert [event["reason"] for event in report["events"]] == [None] * 4
    assert "reason: not kept" in corrected("why", "4")[1]


def test_json_of_a_correction_is_what_is_sent_and_why(run: Run, kiosk_with_a_day: Kiosk) -> None:
    added = document(run("events", "add", "E2", "--type", "break_start", "--at", "2h", "--reason", " why ", "--json"))
    undone = document(run("events", "void", added["event_id"][:18], "--reason", "no", "--json"))
    assert (added.pop("reason"), undone.pop("reason")) == ("why", "no")
    with Store.open(kiosk_with_a_day.store) as store:
        assert list(store.event_payloads())[2:] == [added, undone]


MISTAKES: dict[str, tuple[list[str], int, str]] = {
    "no reason": (["add", "E1", "--type", "check_in", "--at", "1h"], 64, "--reason"),
    "no such type": (["add", "E1", "--type", "late", "--at", "1h", "--reason", "x"], 64, "break_start"),
    "a day": (["add", "E1", "--type", "check_in", "--at", "2026-03-02", "--reason", "x"], 64, "say the time, too"),
    "no time": (["add", "E1", "--type", "check_in", "--at", "soon", "--reason", "x"], 64, "'soon' is no time"),
    "future": (["add", "E1", "--type", "check_in", "--at", "2199-01-01T00:00", "--reason", "x"], 65, "not come yet"),
    "year 1": (["add", "E1", "--type", "check_in", "--at", "0009-01-01T00:00", "--reason", "x"], 65, "longer ago"),
    "nobody": (["add", "E9", "--type", "check_in", "--at", "1h", "--reason", "x"], 65, "E9 is not enrolled"),
    "no id": (["add", "a b", "--type", "check_in", "--at", "1h", "--reason", "x"], 65, "a b"),
    "an empty reason": (["void", "1", "--reason", ""], 65, "the reason must be 1 to 200"),
    "no event": (["void", "99", "--reason", "x"], 65, "no event 99"),
    "no number": (["void", "abc", "--reason", "x"], 65, "neither a seq nor an event id"),
    "no id of an event": (["void", "0123abcd", "--reason", "x"], 65, "no event '0123abcd'"),
    "another's": (["void", "1", "--reason", "x", "--subject", "E2"], 65, "event 1 is E1's, not E2's"),
    "hours": (["payroll", "--longest-shift", "0"], 64, "--longest-shift"),
    "no date": (["payroll", "--since", "x"], 64, "'x' is no time"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "told"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line_and_change_nothing(
    run: Run, kiosk_with_a_day: Kiosk, arguments: list[str], code: int, told: str
) -> None:
    found, out, err = run("events", *arguments)
    assert (found, out) == (code, "")
    assert told in assert_one_line_error(err)
    with Store.open(kiosk_with_a_day.store) as store:
        assert len(store.attendance()) == 2


def test_without_a_store_none_is_made(run: Run, kiosk_with_a_day: Kiosk) -> None:
    kiosk_with_a_day.configure(store={"path": str(kiosk_with_a_day.folder / "other.db")})
    for arguments in (["add", "E1", "--type", "check_in", "--at", "1h"], ["void", "1"]):
        code, _, err = run("events", *arguments, "--reason", "x")
        assert code == 69
        assert "there is no store yet" in assert_one_line_error(err)
    assert not (kiosk_with_a_day.folder / "other.db").exists()


def test_a_command_signs_with_the_configured_key(run: Run, kiosk_with_a_day: Kiosk) -> None:
    key = kiosk_with_a_day.folder / "key.pem"
    key.touch(mode=0o600)
    key.write_bytes(EventSigner.generate().private_pem())
    kiosk_with_a_day.configure(mqtt={"sign_key_file": str(key)})
    assert run("events", "add", "E1", "--type", "check_in", "--at", "1h", "--reason", "x")[0] == 0
    assert "signature" in json.loads(run("events", "export")[1].splitlines()[-1])
    kiosk_with_a_day.configure(mqtt={"sign_key_file": None})
    code, _, err = run("events", "void", "1", "--reason", "x")
    assert code == 78
    assert "no key here to sign this one with" in assert_one_line_error(err)


def test_how_long_ago_means_nothing_while_nobody_knows_the_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SystemClock, "synchronized", lambda _: False)
    code, _, err = run("events", "add", "E1", "--type", "check_in", "--at", "2h", "--reason", "x")
    assert code == 64
    assert "say the time itself" in assert_one_line_error(err)
    added = document(
        run("events", "add", "E1", "--type", "check_in", "--at", f"{YESTERDAY}T12:00", "--reason", "x", "--json")
    )
    assert added["clock_synchronized"] is False


def test_times_that_the_sites_clock_shows_twice_or_never() -> None:
    assert parse_moment("2026-03-02T08:00", BERLIN, NOW) == datetime(2026, 3, 2, 7, tzinfo=UTC)
    assert parse_moment("2026-10-25T02:30+02:00", BERLIN, NOW) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert parse_moment("90m", BERLIN, NOW) == NOW - timedelta(minutes=90)
    assert parse_moment("2h ago", BERLIN, NOW) == NOW - timedelta(hours=2)
    with pytest.raises(UsageError, match="clock is not known"):
        parse_moment("2h ago", BERLIN, NOW, clock_is_set=False)
    for foreign in ("１h", "２０２６-03-02", "2h  ago"):
        with pytest.raises(UsageError, match="is no time"):
            parse_moment(foreign, BERLIN, NOW)
    with pytest.raises(UsageError, match=r"twice; say which: 2026-10-25T02:30\+02:00 or 2026-10-25T02:30\+01:00"):
        parse_moment("2026-10-25T02:30", BERLIN, NOW)
    with pytest.raises(UsageError, match="clocks of Europe/Berlin left that time out"):
        parse_moment("2026-03-29T02:30", BERLIN, NOW)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_text_that_a_spreadsheet_would_compute_is_text(text: str) -> None:
    assert defused(text) == f"'{text}"


@pytest.mark.parametrize("value", ["E1", "", "a=1", "'x", None, -1, -0.5, True])
def test_all_else_stays_as_it_is(value: object) -> None:
    assert defused(value) is value
