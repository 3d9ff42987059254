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
    ModelId,
    Quality,
    Reason,
    SubjectId,
    Template,
    Verdict,
)
from kiosk.decision import RefractoryPeriod
from kiosk.errors import StoreError
from kiosk.events import AttendanceEvent, EventType, Moment, Origin
from kiosk.gallery import Gallery
from kiosk.store import NewTemplate, Store

MODEL = ModelId("test@000000")
FACE = Face(Box(0, 0, 100, 100), 0.9)
VECTOR = np.eye(4, dtype=np.float32)[0]
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
    rejected: list[tuple[Decision, Moment]] = field(default_factory=list)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "kiosk.db") as store:
        store.enroll(SubjectId("a"), [NewTemplate(MODEL, VECTOR)], name="A")
        yield store


@pytest.fixture
def told() -> Told:
    return Told()


def _book(
    store: Store, told: Told, *, clock: Clock | None = None, mode: Mode = "check_in", period_s: float = 60
) -> AttendanceBook:
    return AttendanceBook(
        store,
        AttendanceSettings(Origin("hq", "door-1", "Asia/Seoul"), mode, outbox=True, include_name=False),
        clock=clock or Clock(),
        boot_id="boot",
        refractory=RefractoryPeriod(period_s),
        on_check_in=told.check_ins.append,
        on_rejected=lambda decision, moment: told.rejected.append((decision, moment)),
    )


def _seen(subject_id: str = "a", *, final: bool = True, track_id: int = 1) -> FaceReport:
    decision = Decision(
        Verdict.IDENTIFIED,
        Reason.MATCH,
        0.6,
        (Candidate(SubjectId(subject_id), 0.8),),
        frames=3,
        quality=Quality(100, 50, 120, 0.1),
        frame_scores=(0.7, 0.8, 0.75),
    )
    return FaceReport(FACE, decision, track_id, final=final)


def test_a_visit_is_committed_before_anybody_is_told(store: Store, told: Told) -> None:
    book = _book(store, told)
    book.consider(_seen(), gallery=GALLERY, captured_s=100)
    (event,) = told.check_ins
    (row,) = store.attendance()
    assert row.event_id == event.event_id
    assert (event.seq, event.event_type, event.subject.id) == (1, "check_in", "a")
    assert event.match.gallery_size == 1
    assert event.match.model == MODEL
    assert row.evidence["match"]["score"] == 0.8
    assert row.evidence["candidates"] == [{"subject_id": "a", "score": 0.8}]
    assert row.evidence["quality"]["size_px"] == 100
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


def test_a_face_without_a_subject_is_told_and_never_stored(store: Store, told: Told) -> None:
    book = _book(store, told)
    decision = Decision(Verdict.UNKNOWN, Reason.UNKNOWN, 0.6, (Candidate(SubjectId("a"), 0.3),), 3)
    book.consider(FaceReport(FACE, decision, 1, final=True), gallery=GALLERY, captured_s=1)
    assert told.rejected[0][0] is decision
    assert told.rejected[0][1].boot_id == "boot"
    assert store.attendance() == []
    assert book.counts["unknown"] == 1


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
    assert [record.levelname for record in caplog.records] == ["ERROR"]


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
