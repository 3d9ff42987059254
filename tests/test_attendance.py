"""The attendance book on a real store, with decisions and a clock of the test's making."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from kiosk.attendance import AttendanceBook, AttendanceSettings, Mode
from kiosk.biometrics import (
    Box,
    Candidate,
    Decision,
    Face,
    FaceReport,
    FrameEvidence,
    ModelId,
    Quality,
    Reason,
    SubjectId,
    Template,
    Verdict,
)
from kiosk.codes import CodeAnswer, Kind
from kiosk.decision import RefractoryPeriod
from kiosk.errors import StoreError
from kiosk.events import AttendanceEvent, EventType, Origin, RejectedEvent
from kiosk.gallery import Gallery
from kiosk.schedule import Window
from kiosk.store import NewTemplate, Store

MODEL = ModelId("test@000000")
FACE = Face(Box(0, 0, 100, 100), 0.9)
VECTOR = np.eye(4, dtype=np.float32)[0]
FRAMES = tuple(FrameEvidence(t, Quality(100, 50, 120, 0.1), 0.5, (Candidate(SubjectId("a"), 0.8),)) for t in (0.0, 0.1))
GALLERY = Gallery(MODEL, [Template(SubjectId("a"), MODEL, VECTOR)])


@dataclass
class Clock:
    now: datetime = datetime(2026, 3, 2, 22, 0, tzinfo=UTC)

    def boottime_s(self) -> float:
        return self.now.timestamp() - 1_700_000_000

    def utc_ms(self) -> int:
        return round(self.now.timestamp() * 1000)

    def synchronized(self) -> bool:
        return True


@dataclass
class Told:
    """What the outside heard."""

    check_ins: list[AttendanceEvent] = field(default_factory=list)
    rejected: list[RejectedEvent] = field(default_factory=list)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "kiosk.db") as store:
        store.enroll(SubjectId("a"), [NewTemplate(MODEL, VECTOR)], name="A")
        yield store


@pytest.fixture
def told() -> Told:
    return Told()


def _book(
    store: Store,
    told: Told,
    *,
    clock: Clock | None = None,
    mode: Mode = "check_in",
    period_s: float = 60,
    keep_rejections: bool = True,
    timezone: str = "Asia/Seoul",
    windows: tuple[Window, ...] = (),
) -> AttendanceBook:
    return AttendanceBook(
        store,
        AttendanceSettings(
            Origin("hq", "door-1", timezone),
            mode,
            outbox=True,
            include_name=False,
            keep_rejections=keep_rejections,
            windows=windows,
        ),
        clock=clock or Clock(),
        boot_id="boot",
        refractory=RefractoryPeriod(period_s),
        on_check_in=told.check_ins.append,
        on_rejected=told.rejected.append,
    )


def _seen(subject_id: str = "a", *, final: bool = True, track_id: int = 1) -> FaceReport:
    decision = Decision(
        Verdict.IDENTIFIED,
        Reason.MATCH,
        0.6,
        (Candidate(SubjectId(subject_id), 0.8),),
        frames=3,
        quality=Quality(100, 50, 120, 0.1),
        margin_needed=0.05,
        frame_evidence=FRAMES if final else (),
    )
    return FaceReport(FACE, decision, track_id, final=final)


def test_a_visit_is_committed_before_anybody_is_told(store: Store, told: Told) -> None:
    book = _book(store, told)
    book.consider(_seen(), gallery=GALLERY, captured_s=100, threshold_source="threshold 0.600 (match.threshold)")
    (event,) = told.check_ins
    (row,) = store.attendance()
    assert row.event_id == event.event_id
    assert (event.seq, event.event_type, event.subject.id) == (1, "check_in", "a")
    assert event.match.gallery_size == 1
    assert event.match.model == MODEL
    assert row.evidence["match"]["score"] == 0.8
    assert row.evidence["candidates"] == [{"subject_id": "a", "score": 0.8}]
    assert row.evidence["quality"]["size_px"] == 100
    assert [frame["offset_s"] for frame in row.evidence["frame_evidence"]] == [0.0, 0.1]
    assert row.evidence["threshold_source"] == "threshold 0.600 (match.threshold)"
    assert row.evidence["margin_needed"] == 0.05
    assert (row.boot_id, row.clock_synchronized) == ("boot", True)
    assert book.counts["check_ins"] == 1


def test_only_final_reports_count(store: Store, told: Told) -> None:
    book = _book(store, told)
    book.consider(_seen(final=False), gallery=GALLERY, captured_s=100)
    assert store.attendance() == []
    assert not book.counts


def test_within_the_refractory_period_nothing_is_recorded(store: Store, told: Told) -> None:
    book = _book(store, told, period_s=60)
    for captured_s in (100, 130, 159.9, 160):
        book.consider(_seen(), gallery=GALLERY, captured_s=captured_s)
    assert len(told.check_ins) == 2
    assert book.counts["refractory"] == 2


def _stranger(*, final: bool = True) -> FaceReport:
    decision = Decision(
        Verdict.UNKNOWN, Reason.UNKNOWN, 0.6, (Candidate(SubjectId("a"), 0.3),), 3, frame_evidence=FRAMES
    )
    return FaceReport(FACE, decision, 1, final=final)


def test_a_face_without_a_subject_is_told_and_kept_under_the_events_id(store: Store, told: Told) -> None:
    book = _book(store, told)
    book.consider(_stranger(), gallery=GALLERY, captured_s=1, threshold_source="why")
    book.consider(_stranger(final=False), gallery=GALLERY, captured_s=2)
    (event,) = told.rejected
    (row,) = store.rejections()
    assert (row.event_id, row.reason, row.boot_id) == (event.event_id, "unknown", "boot")
    assert (row.occurred_at, row.site, row.tz) == (event.occurred_at, "hq", "Asia/Seoul")
    assert row.evidence["candidates"] == [{"subject_id": "a", "score": 0.3}]
    assert row.evidence["match"]["gallery_size"] == 1
    assert row.evidence["threshold_source"] == "why"
    assert len(row.evidence["frame_evidence"]) == 2
    assert store.attendance() == []
    assert book.counts["unknown"] == 1


def test_nothing_is_kept_of_rejected_faces_unless_wanted(store: Store, told: Told) -> None:
    book = _book(store, told, keep_rejections=False)
    book.consider(_stranger(), gallery=GALLERY, captured_s=1)
    assert len(told.rejected) == 1
    assert store.rejections() == []


def test_a_rejected_face_that_cannot_be_kept_disturbs_nothing(
    store: Store, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    book = _book(Failing(store, 3), told)  # type: ignore[arg-type]
    for captured_s in range(5):
        book.consider(_stranger(), gallery=GALLERY, captured_s=captured_s)
    assert len(told.rejected) == 5
    assert [row.event_id for row in store.rejections()] == [event.event_id for event in told.rejected[3:]]
    assert book.counts["rejections_lost"] == 3
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "no space left" in caplog.text


def test_a_subject_erased_a_moment_ago_is_not_recorded(store: Store, told: Told) -> None:
    store.remove_subject("a")
    book = _book(store, told)
    book.consider(_seen(), gallery=GALLERY, captured_s=1)
    assert told.check_ins == []
    assert store.attendance() == []


@dataclass
class Failing:
    """A store whose disk is full for a while."""

    store: Store
    failures: int

    def record_check_in(self, *args: object, **kwargs: object) -> AttendanceEvent | None:
        if self.failures:
            self.failures -= 1
            raise StoreError("no space left")
        return self.store.record_check_in(*args, **kwargs)  # type: ignore[arg-type]

    def record_code_check_in(self, *args: object, **kwargs: object) -> AttendanceEvent | None:
        if self.failures:
            self.failures -= 1
            raise StoreError("no space left")
        return self.store.record_code_check_in(*args, **kwargs)  # type: ignore[arg-type]

    def record_rejection(self, *args: object, **kwargs: object) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreError("no space left")
        self.store.record_rejection(*args, **kwargs)  # type: ignore[arg-type]

    def last_event_type(self, subject_id: str, since: datetime) -> EventType | None:
        return self.store.last_event_type(subject_id, since)


def test_a_check_in_that_could_not_be_stored_is_tried_again_while_the_person_stands_there(
    store: Store, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    book = _book(Failing(store, 2), told)  # type: ignore[arg-type]
    book.consider(_seen(final=True), gallery=GALLERY, captured_s=100)
    assert told.check_ins == []
    book.consider(_seen(final=False, track_id=2), gallery=GALLERY, captured_s=100.1)
    for captured_s in (100.1, 100.2, 100.3):
        book.consider(_seen(final=False), gallery=GALLERY, captured_s=captured_s)
    assert len(told.check_ins) == 1
    assert book.counts["store_failures"] == 2
    # The decision that was final, with its frames, not the one at hand when the store was well again.
    assert len(store.attendance()[0].evidence["frame_evidence"]) == 2
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_of_what_cannot_be_stored_only_so_much_is_remembered(
    store: Store, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StoreError("no space left")

    monkeypatch.setattr(store, "record_check_in", fail)
    book = _book(store, told)
    for track_id in range(500):
        book.consider(_seen(track_id=track_id), gallery=GALLERY, captured_s=track_id)
    assert len(book._owed) == 64
    assert book.counts["store_failures"] == 500
    assert told.check_ins == []


def _code(reason: Reason = Reason.MATCH, *, at_s: float = 100) -> CodeAnswer:
    return CodeAnswer(Kind.PIN, reason, at_s, SubjectId("a") if reason is Reason.MATCH else None)


def test_a_code_is_recorded_as_a_face_is(store: Store, told: Told) -> None:
    book = _book(store, told, mode="alternate")
    book.consider_code(_code())
    book.consider(_seen(), gallery=GALLERY, captured_s=200)
    book.consider_code(_code(at_s=300))
    assert [(event.seq, event.event_type, event.method) for event in told.check_ins] == [
        (1, "check_in", "code"),
        (2, "check_out", "face"),
        (3, "check_in", "code"),
    ]
    assert [row.event_id for row in store.attendance()] == [event.event_id for event in told.check_ins]
    assert store.attendance()[0].evidence == {
        "method": "code", "code": "pin", "decision": "identified", "reason": "match", "match": None, "candidates": [],
    }  # fmt: skip
    assert [row.payload for row in store.lend_pending(10)] == [event.payload() for event in told.check_ins]


def test_face_and_code_share_the_refractory_period(store: Store, told: Told) -> None:
    book = _book(store, told, period_s=60)
    book.consider_code(_code(at_s=100))
    book.consider(_seen(), gallery=GALLERY, captured_s=159)
    book.consider(_seen(track_id=2), gallery=GALLERY, captured_s=160)
    book.consider_code(_code(at_s=219))
    assert [event.method for event in told.check_ins] == ["code", "face"]
    assert book.counts["refractory"] == 2


@pytest.mark.parametrize("keep_rejections", [True, False])
def test_a_code_that_is_not_accepted_is_told_and_kept_as_wanted(
    store: Store, told: Told, *, keep_rejections: bool
) -> None:
    book = _book(store, told, keep_rejections=keep_rejections)
    for reason in (Reason.CODE_WRONG, Reason.CODE_LOCKED, Reason.CODE_PAUSED):
        book.consider_code(_code(reason))
    assert [(event.event_type, event.reason) for event in told.rejected] == [
        ("code", "code_wrong"),
        ("code", "code_locked"),
        ("code", "code_paused"),
    ]
    kept = [(row.event_id, row.reason) for row in store.rejections()]
    assert kept == ([(event.event_id, event.reason) for event in told.rejected] if keep_rejections else [])
    assert store.attendance() == []


def test_a_code_that_could_not_be_recorded_is_entered_again(
    store: Store, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    book = _book(Failing(store, 1), told)  # type: ignore[arg-type]
    book.consider_code(_code())
    assert (told.check_ins, book.fault) == ([], "check-ins are not recorded: no space left")
    book.consider_code(_code(at_s=101))
    assert len(told.check_ins) == 1
    assert book.fault is None
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_face_that_is_owed_is_paid_by_a_code(store: Store, told: Told) -> None:
    book = _book(Failing(store, 1), told)  # type: ignore[arg-type]
    book.consider(_seen(), gallery=GALLERY, captured_s=100)
    book.consider_code(_code(at_s=101))
    for captured_s in (101, 102, 500):
        book.consider(_seen(final=False), gallery=GALLERY, captured_s=captured_s)
    assert [event.method for event in told.check_ins] == ["code"]
    assert book.counts["refractory"] == 0


def test_check_out_mode(store: Store, told: Told) -> None:
    book = _book(store, told, mode="check_out")
    book.consider(_seen(), gallery=GALLERY, captured_s=1)
    assert told.check_ins[0].event_type is EventType.CHECK_OUT


def test_alternate_mode_starts_anew_at_the_sites_midnight(store: Store, told: Told) -> None:
    clock = Clock(datetime(2026, 3, 2, 14, 0, tzinfo=UTC))  # 23:00 in Seoul
    book = _book(store, told, clock=clock, mode="alternate", period_s=0)
    times = [
        datetime(2026, 3, 2, 14, 0, tzinfo=UTC),  # 23:00
        datetime(2026, 3, 2, 14, 30, tzinfo=UTC),  # 23:30
        datetime(2026, 3, 2, 14, 59, tzinfo=UTC),  # 23:59
        datetime(2026, 3, 2, 15, 1, tzinfo=UTC),  # 00:01 the next day
        datetime(2026, 3, 3, 14, 0, tzinfo=UTC),  # 23:00
    ]
    for captured_s, clock.now in enumerate(times):
        book.consider(_seen(), gallery=GALLERY, captured_s=captured_s)
    kinds = [event.event_type.value for event in told.check_ins]
    assert kinds == ["check_in", "check_out", "check_in", "check_in", "check_out"]


DAYS_OF_A_CHANGE = {
    # Two midnights: at 01:00 the clock goes back to 00:00. The day starts with the first.
    "Havana, clocks back at midnight": (
        "America/Havana",
        ["2026-11-01T03:59", "2026-11-01T04:10", "2026-11-01T05:10", "2026-11-01T20:00"],
        ["check_in", "check_in", "check_out", "check_in"],
    ),
    # No midnight: at 24:00 it is 01:00.
    "Cairo, clocks forward at midnight": (
        "Africa/Cairo",
        ["2026-04-23T21:59", "2026-04-23T22:00", "2026-04-23T22:30", "2026-04-24T20:59"],
        ["check_in", "check_in", "check_out", "check_in"],
    ),
    "Berlin, clocks back in the night": (
        "Europe/Berlin",
        ["2026-10-24T21:59", "2026-10-24T22:01", "2026-10-25T01:30", "2026-10-25T22:59", "2026-10-25T23:01"],
        ["check_in", "check_in", "check_out", "check_in", "check_in"],
    ),
    "Berlin, clocks forward in the night": (
        "Europe/Berlin",
        ["2026-03-28T22:59", "2026-03-28T23:01", "2026-03-29T21:59", "2026-03-29T22:01"],
        ["check_in", "check_in", "check_out", "check_in"],
    ),
}


@pytest.mark.parametrize(("timezone", "times", "kinds"), DAYS_OF_A_CHANGE.values(), ids=DAYS_OF_A_CHANGE)
def test_alternate_mode_knows_when_the_sites_day_starts(
    store: Store, told: Told, timezone: str, times: list[str], kinds: list[str]
) -> None:
    clock = Clock()
    book = _book(store, told, clock=clock, mode="alternate", period_s=0, timezone=timezone)
    for captured_s, time in enumerate(times):
        clock.now = datetime.fromisoformat(time).replace(tzinfo=UTC)
        book.consider(_seen(), gallery=GALLERY, captured_s=captured_s)
    assert [event.event_type.value for event in told.check_ins] == kinds


WINDOWS = (
    Window(frozenset(range(5)), 360, 600, "check_in"),
    Window(frozenset(range(5)), 720, 780, "break"),
    Window(frozenset(range(5)), 960, 1200, "check_out"),
)


def test_a_schedule_decides_by_the_sites_clock(store: Store, told: Told) -> None:
    clock = Clock()
    book = _book(store, told, clock=clock, mode="schedule", period_s=0, windows=WINDOWS)
    # In Seoul, on a Monday, and on the Saturday after it, when no window opens.
    visits = {
        "2026-03-01T22:55": "check_in",
        "2026-03-02T03:05": "break_start",
        "2026-03-02T03:40": "break_end",
        "2026-03-02T03:50": "break_start",
        "2026-03-02T04:10": "break_end",
        "2026-03-02T05:00": "check_out",
        "2026-03-02T06:00": "check_in",
        "2026-03-02T08:00": "check_out",
        "2026-03-07T00:00": "check_in",
        "2026-03-07T08:00": "check_out",
    }
    for captured_s, time in enumerate(visits):
        clock.now = datetime.fromisoformat(time).replace(tzinfo=UTC)
        book.consider(_seen(), gallery=GALLERY, captured_s=captured_s)
    assert [event.event_type.value for event in told.check_ins] == list(visits.values())
    assert [row.event_type for row in store.attendance()] == list(visits.values())


def test_a_break_over_midnight_is_one(store: Store, told: Told) -> None:
    clock = Clock()
    night = (Window(frozenset(range(7)), 1410, 30, "break"),)
    book = _book(store, told, clock=clock, mode="schedule", period_s=0, windows=night)
    visits = {
        "2026-03-02T13:00": "check_in",  # 22:00
        "2026-03-02T14:50": "break_start",  # 23:50
        "2026-03-02T15:20": "break_end",  # 00:20
        "2026-03-02T20:00": "check_out",  # 05:00
        "2026-03-03T14:50": "break_start",
        "2026-03-03T15:45": "break_end",  # after the window
    }
    for captured_s, time in enumerate(visits):
        clock.now = datetime.fromisoformat(time).replace(tzinfo=UTC)
        book.consider(_seen(), gallery=GALLERY, captured_s=captured_s)
    assert [event.event_type.value for event in told.check_ins] == list(visits.values())
