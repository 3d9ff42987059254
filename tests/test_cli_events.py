"""``kiosk events`` on a store with a week of attendance."""

from __future__ import annotations

import csv
import json
import signal
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from command_line import Kiosk
from runner import assert_one_line_error

from kiosk.biometrics import Candidate, Decision, ModelId, Reason, SubjectId, Verdict
from kiosk.commands.times import parse_time
from kiosk.errors import UsageError
from kiosk.events import EventType, Moment, Origin, rejected_event
from kiosk.store import NewTemplate, Store

pytestmark = pytest.mark.stories

SEOUL = ZoneInfo("Asia/Seoul")
NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
MODEL = ModelId("test@000000")


def _record(store: Store, subject_id: str, moment: datetime, *, synchronized: bool = True) -> None:
    decision = Decision(Verdict.IDENTIFIED, Reason.MATCH, 0.6, (Candidate(SubjectId(subject_id), 0.8),), 3)
    store.record_check_in(
        decision,
        event_type=EventType.CHECK_IN,
        moment=Moment(round(moment.timestamp() * 1000), synchronized, 1000, "boot"),
        origin=Origin("hq", "door-1", "Asia/Seoul"),
        model_id=MODEL,
        gallery_size=2,
    )


def _reject(store: Store, reason: Reason, moment: datetime, *scores: float) -> str:
    names = zip("ab", scores, strict=False)
    decision = Decision(
        Verdict.UNKNOWN, reason, 0.6, tuple(Candidate(SubjectId(name), score) for name, score in names), len(scores)
    )
    at, origin = Moment(round(moment.timestamp() * 1000), True, 1000, "boot"), Origin("hq", "door-1", "Asia/Seoul")
    event = rejected_event(decision, moment=at, origin=origin)
    store.record_rejection(decision, event, moment=at, origin=origin, model_id=MODEL, gallery_size=2)
    return event.event_id


@pytest.fixture
def week(kiosk: Kiosk) -> Kiosk:
    """a and b check in every noon from 2026-03-02 to 2026-03-08."""
    kiosk.configure(device={"timezone": "Asia/Seoul"})
    with Store.open(kiosk.store) as store:
        for subject_id in ("a", "b"):
            store.enroll(SubjectId(subject_id), [NewTemplate(MODEL, np.eye(4, dtype=np.float32)[0])], name=subject_id)
        for day in range(7):
            for subject_id in ("a", "b"):
                _record(store, subject_id, NOON + timedelta(days=day))
    return kiosk


def _events(kiosk: Kiosk, *arguments: str) -> list[dict[str, object]]:
    result = kiosk("events", "--json", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    events: list[dict[str, object]] = json.loads(result.stdout)["events"]
    return events


def test_json(week: Kiosk) -> None:
    events = _events(week)
    assert [event["seq"] for event in events] == list(range(1, 15))
    first = events[0]
    assert first["subject_id"] == "a"
    assert first["event_type"] == "check_in"
    assert first["occurred_at"] == "2026-03-02T12:00:00.000Z"
    assert (first["score"], first["threshold"], first["frames"], first["model"]) == (0.8, 0.6, 3, MODEL)
    assert first["delivery"] == "pending"
    assert _events(week, "--format", "json") == events


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["--subject", "a"], 7),
        (["--since", "2026-03-08"], 2),
        (["--until", "2026-03-02"], 2),
        (["--since", "2026-03-03", "--until", "2026-03-04"], 4),
        # 12:00 UTC is 21:00 in Seoul.
        (["--since", "2026-03-08T21:00"], 2),
        (["--since", "2026-03-08T21:01"], 0),
        (["--since", "2026-03-08T12:00Z"], 2),
        (["--until", "2026-03-02T12:00+00:00"], 0),
        (["--since", "1h"], 0),
    ],
)
def test_filters(week: Kiosk, arguments: list[str], count: int) -> None:
    assert len(_events(week, *arguments)) == count


def test_table_shows_local_time(week: Kiosk) -> None:
    lines = week("events", "--subject", "b").stdout.splitlines()
    assert lines[0].split() == ["seq", "time", "event", "subject", "score", "delivery", "note"]
    assert lines[1].split() == ["2", "2026-03-02", "21:00:00", "check_in", "b", "0.80", "pending"]


def test_csv(week: Kiosk) -> None:
    rows = list(csv.DictReader(week("events", "--format", "csv").stdout.splitlines()))
    assert len(rows) == 14
    assert rows[0]["subject_id"] == "a"
    assert rows[0]["occurred_at"] == "2026-03-02T12:00:00.000Z"


@pytest.fixture
def rejected(week: Kiosk) -> list[str]:
    """Ids of a blurred face on the first day of the week and of a stranger on the second."""
    with Store.open(week.store) as store:
        return [
            _reject(store, Reason.BLURRED, NOON),
            _reject(store, Reason.UNKNOWN, NOON + timedelta(days=1), 0.4, 0.3),
        ]


def test_rejected_json(week: Kiosk, rejected: list[str]) -> None:
    blurred, unknown = _events(week, "--rejected")
    assert [blurred["event_id"], unknown["event_id"]] == rejected
    assert (blurred["event_type"], blurred["reason"], blurred["score"]) == ("quality", "blurred", None)
    assert (unknown["event_type"], unknown["reason"], unknown["score"]) == ("unknown", "unknown", 0.4)
    assert unknown["margin"] == 0.1
    assert not {"subject_id", "seq"} & set(unknown)


def test_rejected_within_times(week: Kiosk, rejected: list[str]) -> None:
    assert [event["event_id"] for event in _events(week, "--rejected", "--since", "2026-03-03")] == rejected[1:]
    assert [event["event_id"] for event in _events(week, "--rejected", "--until", "2026-03-02")] == rejected[:1]


def test_rejected_table_and_csv(week: Kiosk, rejected: list[str]) -> None:
    lines = week("events", "--rejected").stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["event_id", "time", "reason", "score"],
        [rejected[0], "2026-03-02", "21:00:00", "blurred"],
        [rejected[1], "2026-03-03", "21:00:00", "unknown", "0.40"],
    ]
    rows = list(csv.DictReader(week("events", "--rejected", "--format", "csv").stdout.splitlines()))
    assert [row["event_id"] for row in rows] == rejected
    assert rows[0]["score"] == ""


@pytest.mark.parametrize("arguments", [["--follow"], ["--subject", "a"]])
def test_rejected_goes_with_check_ins_options_only_where_they_make_sense(week: Kiosk, arguments: list[str]) -> None:
    result = week("events", "--rejected", *arguments)
    assert result.returncode == 64
    assert "--rejected" in assert_one_line_error(result.stderr)


def test_an_empty_log(kiosk: Kiosk) -> None:
    Store.open(kiosk.store).close()
    assert _events(kiosk) == []
    assert _events(kiosk, "--rejected") == []


def test_no_store(kiosk: Kiosk) -> None:
    result = kiosk("events")
    assert result.returncode == 69
    assert_one_line_error(result.stderr)


def test_follow_shows_the_last_ten_and_then_what_happens(week: Kiosk) -> None:
    process = week.start("events", "--follow", "--json")
    assert process.stdout is not None
    try:
        seen = [json.loads(process.stdout.readline())["seq"] for _ in range(10)]
        assert seen == list(range(5, 15))
        with Store.open(week.store) as store:
            _record(store, "a", NOON + timedelta(days=8), synchronized=False)
        assert json.loads(process.stdout.readline())["seq"] == 15
    finally:
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=10)
    assert stderr.strip() == ""
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7d", datetime(2026, 2, 23, 12, 0, tzinfo=UTC)),
        ("90m", datetime(2026, 3, 2, 10, 30, tzinfo=UTC)),
        ("2026-03-02", datetime(2026, 3, 2, tzinfo=SEOUL)),
        ("2026-03-02T08:00", datetime(2026, 3, 2, 8, tzinfo=SEOUL)),
        ("2026-03-02T08:00:00.5Z", datetime(2026, 3, 2, 8, 0, 0, 500000, tzinfo=UTC)),
    ],
)
def test_times(text: str, expected: datetime) -> None:
    assert parse_time(text, SEOUL, NOON) == expected


def test_a_date_as_end_includes_the_day() -> None:
    assert parse_time("2026-03-02", SEOUL, NOON, end_of_day=True) == datetime(2026, 3, 3, tzinfo=SEOUL)
    assert parse_time("9999-12-31", SEOUL, NOON, end_of_day=True) == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "soon", "7", "d", "2026-13-01", "999999d", "9999-12-31x", "-1d", "0001-01-01"])
def test_no_times(text: str) -> None:
    with pytest.raises(UsageError, match="use 2026-03-02"):
        parse_time(text, SEOUL, NOON)


@pytest.mark.parametrize("command", [("events",), ("events", "payroll"), ("audit", "list")])
def test_a_period_the_wrong_way_round_is_told(kiosk: Kiosk, command: tuple[str, ...]) -> None:
    assert kiosk("subjects", "add", "E1").returncode == 0
    result = kiosk(*command, "--since", "2026-12-31", "--until", "2026-03-01")
    assert result.returncode == 64
    assert "is it the other way round?" in assert_one_line_error(result.stderr)
