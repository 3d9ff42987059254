"""A kiosk without a clock of its own: what is recorded before the time is known gets the right one afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from kiosk.attendance import AttendanceBook, AttendanceSettings
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
from kiosk.decision import RefractoryPeriod
from kiosk.errors import StoreError
from kiosk.events import AttendanceEvent, Origin, utc_ms, utc_text
from kiosk.gallery import Gallery
from kiosk.store import Corrections, NewTemplate, Store

pytestmark = pytest.mark.stories

MODEL = ModelId("test@000000")
VECTOR = np.eye(4, dtype=np.float32)[0]
GALLERY = Gallery(MODEL, [Template(SubjectId("a"), MODEL, VECTOR)])
FRAMES = (FrameEvidence(0.0, Quality(100, 50, 120, 0.1), 0.5, (Candidate(SubjectId("a"), 0.8),)),)
REAL_MS = int(datetime(2026, 3, 2, 8, 0, tzinfo=UTC).timestamp() * 1000)
HOUR_MS = 3_600_000
SCHEMAS = Path(__file__).resolve().parent.parent / "docs" / "schemas"
WRONG_CLOCKS = {
    "1970": -REAL_MS,
    "three hours behind": -3 * HOUR_MS,
    "ten years ahead": 10 * 365 * 24 * HOUR_MS,
}


@dataclass
class WrongClock:
    """Real time goes on (``advance``); what the system shows is off until it is set."""

    off_ms: int
    real_ms: int = REAL_MS
    booted_ms: int = REAL_MS - 20_000
    is_set: bool = False

    def boottime_s(self) -> float:
        return (self.real_ms - self.booted_ms) / 1000

    def utc_ms(self) -> int:
        return self.real_ms + (0 if self.is_set else self.off_ms)

    def synchronized(self) -> bool:
        return self.is_set

    def advance(self, seconds: float) -> None:
        self.real_ms += round(seconds * 1000)


@dataclass
class Door:
    """A store, a book and a clock; everybody who comes is ``a``."""

    store: Store
    clock: WrongClock
    boot_id: str = "boot-1"
    real_ms: list[int] = field(default_factory=list)
    """When each event really happened."""
    book: AttendanceBook = field(init=False)

    def __post_init__(self) -> None:
        self.book = AttendanceBook(
            self.store,
            AttendanceSettings(Origin("hq", "door-1", "Asia/Seoul"), "check_in", outbox=True, include_name=False),
            clock=self.clock,
            boot_id=self.boot_id,
            refractory=RefractoryPeriod(60),
            on_check_in=self._note,
            on_rejected=lambda _: None,
        )

    def visit(self, after_s: float = 61.0) -> None:
        self.clock.advance(after_s)
        decision = Decision(
            Verdict.IDENTIFIED,
            Reason.MATCH,
            0.6,
            (Candidate(SubjectId("a"), 0.8),),
            frames=3,
            frame_evidence=FRAMES,
        )
        report = FaceReport(Face(Box(0, 0, 100, 100), 0.9), decision, 1, final=True)
        self.book.consider(report, gallery=GALLERY, captured_s=self.clock.boottime_s())

    def stranger(self) -> None:
        decision = Decision(Verdict.UNKNOWN, Reason.UNKNOWN, 0.6, (Candidate(SubjectId("a"), 0.2),), frames=3)
        report = FaceReport(Face(Box(0, 0, 100, 100), 0.9), decision, 2, final=True)
        self.book.consider(report, gallery=GALLERY, captured_s=self.clock.boottime_s())

    def _note(self, event: AttendanceEvent) -> None:
        assert event.seq
        self.real_ms.append(self.clock.real_ms)


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as store:
        store.enroll(SubjectId("a"), [NewTemplate(MODEL, VECTOR)])
        yield store


def outbox(store: Store) -> list[dict[str, object]]:
    """Everything that was or will be sent, in order."""
    with store._reading() as db:
        return [json.loads(row[0]) for row in db.execute("SELECT payload FROM outbox ORDER BY seq").fetchall()]


@pytest.mark.parametrize("off_ms", WRONG_CLOCKS.values(), ids=WRONG_CLOCKS)
def test_every_visit_is_recorded_and_gets_its_time(store: Store, off_ms: int) -> None:
    door = Door(store, WrongClock(off_ms))
    for _ in range(5):
        door.visit()
        assert not door.book.follow_clock()
    assert [row.seq for row in store.attendance()] == [1, 2, 3, 4, 5]
    assert not any(row.clock_synchronized for row in store.attendance())
    door.clock.is_set = True
    assert door.book.follow_clock()
    assert not door.book.follow_clock()
    rows = store.attendance()
    assert [row.seq for row in rows] == [1, 2, 3, 4, 5]
    assert all(row.clock_synchronized for row in rows)
    assert [abs(utc_ms(row.occurred_at) - real) <= 1 for row, real in zip(rows, door.real_ms, strict=True)] == [
        True
    ] * 5
    assert [row.stated_at for row in rows] == [utc_text(real + off_ms) for real in door.real_ms]
    door.visit()
    assert store.attendance()[-1].stated_at is None


def test_what_no_broker_has_seen_is_sent_with_the_right_time(store: Store) -> None:
    door = Door(store, WrongClock(-3 * HOUR_MS))
    door.visit()
    door.clock.is_set = True
    assert door.book.follow_clock()
    (payload,) = outbox(store)
    jsonschema.validate(payload, json.loads((SCHEMAS / "attendance.schema.json").read_text()))
    assert payload["occurred_at"] == utc_text(door.real_ms[0])
    assert payload["clock_synchronized"] is True
    clock = payload["clock"]
    assert isinstance(clock, dict)
    assert clock["corrected_by_ms"] == 3 * HOUR_MS
    assert (clock["boot_id"], clock["boottime_ms"]) == ("boot-1", 81_000)


def test_what_was_sent_is_followed_by_a_correction_with_a_number_of_its_own(store: Store) -> None:
    door = Door(store, WrongClock(-REAL_MS))
    door.visit()
    door.visit()
    (sent, lent) = store.lend_pending(2)
    store.mark_sent([sent.seq])  # the second was handed out: nobody knows whether it arrived
    door.visit()
    before = outbox(store)
    door.clock.is_set = True
    door.book.follow_clock()
    after = outbox(store)
    assert after[:2] == before[:2]
    assert [document["seq"] for document in after] == [1, 2, 3, 4, 5]
    for document, row, real_ms in zip(after[3:], (sent, lent), door.real_ms, strict=False):
        jsonschema.validate(document, json.loads((SCHEMAS / "time_correction.schema.json").read_text()))
        assert document["event_type"] == "time_correction"
        assert document["corrects"] == {
            "event_id": row.event_id,
            "seq": row.seq,
            "occurred_at": utc_text(real_ms),
            "was": row.payload["occurred_at"],
        }
    # Corrections are no attendance.
    assert [row.event_type for row in store.attendance()] == ["check_in"] * 3
    last = store.last_visit("a")
    assert last is not None
    assert last.seq == 3


def test_events_of_the_process_before_are_corrected_too(path: Path, store: Store) -> None:
    clock = WrongClock(-3 * HOUR_MS)
    first = Door(store, clock)
    first.visit()
    store.close()
    with Store.open(path) as store_again:
        second = Door(store_again, clock)
        second.visit()
        clock.is_set = True
        assert second.book.follow_clock()
        rows = store_again.attendance()
        assert [utc_ms(row.occurred_at) for row in rows] == first.real_ms + second.real_ms
        # Whether the first process had sent its event nobody knows.
        assert [document["event_type"] for document in outbox(store_again)] == [
            "check_in",
            "check_in",
            "time_correction",
        ]


def test_a_boot_that_never_knew_the_time_stays_in_doubt(path: Path, store: Store) -> None:
    Door(store, WrongClock(-REAL_MS)).visit()
    store.close()
    with Store.open(path) as store_again:
        door = Door(store_again, WrongClock(0, is_set=True), boot_id="boot-2")
        assert not door.book.follow_clock()
        (row,) = store_again.attendance()
        assert (row.clock_synchronized, row.stated_at) == (False, None)


def test_clock_that_steps_back_changes_neither_order_nor_refractory_period(store: Store) -> None:
    door = Door(store, WrongClock(10 * HOUR_MS))
    door.visit()
    door.clock.off_ms = -5 * HOUR_MS
    door.visit(after_s=30)
    assert [row.seq for row in store.attendance()] == [1]
    door.visit(after_s=31)
    assert [row.seq for row in store.attendance()] == [1, 2]
    door.clock.is_set = True
    door.book.follow_clock()
    assert [utc_ms(row.occurred_at) for row in store.attendance()] == door.real_ms


def test_clock_that_is_lost_and_set_again(store: Store) -> None:
    door = Door(store, WrongClock(0, is_set=True))
    door.visit()
    assert not door.book.follow_clock()
    door.clock.is_set, door.clock.off_ms = False, 2 * HOUR_MS
    assert not door.book.follow_clock()
    door.visit()
    door.clock.is_set = True
    assert door.book.follow_clock()
    assert [utc_ms(row.occurred_at) for row in store.attendance()] == door.real_ms


class StepsInBetween(WrongClock):
    """A time server sets it right after it was asked for the time, or whether it is set."""

    def utc_ms(self) -> int:
        now = super().utc_ms()
        self.is_set = True
        return now

    def synchronized(self) -> bool:
        before, self.is_set = self.is_set, True
        return before


def test_a_clock_set_at_the_very_moment_vouches_for_no_wrong_time(store: Store) -> None:
    door = Door(store, StepsInBetween(-REAL_MS))
    door.visit()
    door.book.follow_clock()
    (row,) = store.attendance()
    assert utc_ms(row.occurred_at) == door.real_ms[0]


def test_store_that_fails_is_asked_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door(store, WrongClock(-HOUR_MS))
    door.visit()
    door.clock.is_set = True

    def fail(*_: object) -> Corrections:
        raise StoreError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(store, "correct_times", fail)
        with pytest.raises(StoreError):
            door.book.follow_clock()
    assert door.book.follow_clock()


def test_rejected_faces_get_their_time_too(store: Store) -> None:
    door = Door(store, WrongClock(-REAL_MS))
    door.visit()
    door.stranger()
    door.clock.is_set = True
    door.book.follow_clock()
    (row,) = store.rejections()
    assert row.clock_synchronized
    assert abs(utc_ms(row.occurred_at) - door.real_ms[0]) <= 1


def test_without_an_outbox_only_the_log_is_corrected(store: Store) -> None:
    door = Door(store, WrongClock(-HOUR_MS))
    door.visit()
    with store._writing() as db:
        db.execute("DELETE FROM outbox")
    door.clock.is_set = True
    assert not door.book.follow_clock()
    assert utc_ms(store.attendance()[0].occurred_at) == door.real_ms[0]
    assert outbox(store) == []


def test_times_are_found_and_pruned_by_what_is_right(store: Store) -> None:
    door = Door(store, WrongClock(-REAL_MS))
    door.visit()
    (row,) = store.lend_pending(1)
    store.mark_sent([row.seq])
    door.clock.is_set = True
    door.book.follow_clock()
    day = datetime.fromtimestamp(REAL_MS / 1000, UTC)
    assert len(store.attendance(since=day)) == 1
    assert store.attendance(until=day) == []
    store.mark_sent([2])
    assert store.prune(1, now_ms=REAL_MS + 12 * HOUR_MS) == 0
    assert store.prune(1, now_ms=REAL_MS + 48 * HOUR_MS) == 2
