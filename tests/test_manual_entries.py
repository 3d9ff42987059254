"""Corrections by hand on a real store: what they say to consumers, and what else has to know of them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from test_store import ANA, DAY_MS, MODEL, NOW_MS, ORIGIN, check_in, moment, template

from kiosk import integrity
from kiosk.biometrics import SubjectId
from kiosk.errors import ConfigError, InputError, StoreError
from kiosk.events import EventType, ManualEntry, Moment, Void, utc_text
from kiosk.packing import pack
from kiosk.signatures import EventSigner, EventVerifier, PublicKeys
from kiosk.store import AttendanceRow, Store
from kiosk.store._limits import Limits

pytestmark = pytest.mark.stories

HOUR_MS = 3_600_000
BOB = SubjectId("E2")
SCHEMAS = Path(__file__).resolve().parent.parent / "docs" / "schemas"
REASON = "left by the back door"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as store:
        store.enroll(ANA, [template()], name="Ana")
        store.enroll(BOB, [template(1)], name="Bob")
        yield store


def add(
    store: Store,
    event_type: EventType = EventType.CHECK_OUT,
    at_ms: int = NOW_MS - HOUR_MS,
    *,
    subject_id: str = ANA,
    at: Moment | None = None,
    **options: Any,
) -> ManualEntry:
    arguments = {"reason": REASON, "retention_days": 365} | options
    return store.add_event(SubjectId(subject_id), event_type, at_ms, moment=at or moment(), origin=ORIGIN, **arguments)


def void(store: Store, seq: int, *, at: Moment | None = None, **options: Any) -> Void:
    return store.void_event(seq, **{"reason": REASON, "moment": at or moment(), "origin": ORIGIN} | options)


def payloads(store: Store) -> list[dict[str, Any]]:
    return list(store.event_payloads())


def row(store: Store, seq: int) -> AttendanceRow:
    (found,) = (one for one in store.attendance() if one.seq == seq)
    return found


# --- what they are


def test_an_added_event_is_one_of_its_own(store: Store) -> None:
    check_in(store, at=moment(NOW_MS - 9 * HOUR_MS))
    before = payloads(store)
    entry = add(store)
    (sent,) = payloads(store)[1:]
    assert payloads(store)[:1] == before
    assert sent == entry.payload()
    jsonschema.validate(sent, json.loads((SCHEMAS / "manual_entry.schema.json").read_text()))
    assert (sent["event_type"], sent["seq"], sent["subject"]) == ("manual_entry", 2, {"id": ANA})
    assert sent["adds"] == {"event_type": "check_out", "occurred_at": utc_text(NOW_MS - HOUR_MS)}
    assert sent["occurred_at"] == utc_text(NOW_MS)
    added = row(store, 2)
    assert (added.event_type, added.occurred_at) == ("check_out", utc_text(NOW_MS - HOUR_MS))
    assert (added.recorded_at, added.delivery, added.stated_at) == (utc_text(NOW_MS), "pending", None)
    assert added.evidence["reason"] == REASON


def test_a_void_is_an_event_of_its_own(store: Store) -> None:
    wrong = check_in(store)
    before = payloads(store)
    entry = void(store, wrong.seq)
    (sent,) = payloads(store)[1:]
    assert payloads(store)[:1] == before
    assert sent == entry.payload()
    jsonschema.validate(sent, json.loads((SCHEMAS / "void.schema.json").read_text()))
    assert (sent["event_type"], sent["seq"]) == ("void", 2)
    assert sent["voids"] == {"event_id": wrong.event_id, "seq": 1}
    assert (row(store, 1).voided_by, row(store, 1).event_type) == (2, "check_in")
    assert (row(store, 2).voids, row(store, 2).subject_id, row(store, 2).event_type) == (1, ANA, "void")


@pytest.mark.parametrize("event_type", EventType)
def test_nothing_added_opens_a_door(store: Store, event_type: EventType) -> None:
    """To a consumer that does what docs/reliability.md says, whatever was added and however fresh it is."""
    entry = add(store, event_type, NOW_MS)
    void(store, entry.seq)
    for sent in payloads(store):
        fits = jsonschema.Draft202012Validator(json.loads((SCHEMAS / "attendance.schema.json").read_text()))
        assert sent["event_type"] not in set(EventType)
        assert not fits.is_valid(sent)


def test_why_never_leaves_the_device(store: Store) -> None:
    void(store, add(store).seq)
    assert REASON not in json.dumps(payloads(store))
    assert REASON not in repr(store.audit_rows())


def test_who_did_it_is_in_the_audit_log(store: Store) -> None:
    entry = add(store)
    voided = void(store, entry.seq)
    added, undone = store.audit_rows()[-2:]
    assert (added.action, added.subject_id, added.process) == ("add_event", ANA, "command")
    assert added.detail() == {
        "seq": 1, "event_id": entry.event_id, "type": "check_out", "at": utc_text(NOW_MS - HOUR_MS)
    }  # fmt: skip
    assert (undone.action, undone.subject_id) == ("void_event", ANA)
    assert undone.detail() == {
        "seq": 2, "event_id": voided.event_id, "voids": 1, "voids_id": entry.event_id
    }  # fmt: skip
    assert store.verify_audit().problems == ()


def test_names_go_along_where_they_may(store: Store) -> None:
    add(store, include_name=True)
    assert payloads(store)[0]["subject"] == {"id": ANA, "name": "Ana"}


def test_without_a_broker_they_are_only_kept(store: Store) -> None:
    void(store, add(store, outbox=False).seq, outbox=False)
    assert payloads(store) == []
    assert [one.delivery for one in store.attendance()] == [None, None]


# --- refusals


REFUSED: dict[str, tuple[Callable[[Store], object], str]] = {
    "nobody": (lambda s: add(s, subject_id="E9"), "E9 is not enrolled"),
    "future": (lambda s: add(s, at_ms=NOW_MS + 1), "has not come yet: the kiosk's clock says 2026-03-02 07:58:13$"),
    "future, clock not set": (
        lambda s: add(s, at=moment(5, synchronized=False)),
        "not come yet: .*which is not known to be right",
    ),
    "long ago": (lambda s: add(s, at_ms=NOW_MS - 366 * DAY_MS), r"store\.retention_days: 365"),
    "before all time": (lambda s: add(s, at_ms=-(10**14)), "longer ago"),
    "twice": (lambda s: (add(s), add(s)), "E1 has a check_out at that time already: event 2$"),
    "no reason": (lambda s: add(s, reason=" "), "reason"),
    "a long reason": (lambda s: add(s, reason="x" * 201), "1 to 200 characters"),
    "a reason of two lines": (lambda s: void(s, 1, reason="a\nb"), "in one line"),
    "no event": (lambda s: void(s, 7), "no event 7 in .*kiosk.db; `kiosk events`"),
    "void already": (lambda s: (void(s, 1), void(s, 1)), "event 1 is void already, by event 2$"),
    "a void": (lambda s: (void(s, 1), void(s, 2)), "event 2 is what voids event 1; .*`kiosk events add`"),
    "another subject's": (lambda s: void(s, 1, subject_id=BOB), "event 1 is E1's, not E2's: nothing was voided"),
    "of somebody erased": (lambda s: (s.remove_subject(ANA), void(s, 1)), "E1 is not enrolled"),
}


@pytest.mark.parametrize(("act", "told"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_changes_nothing(store: Store, act: Callable[[Store], object], told: str) -> None:
    check_in(store)
    with pytest.raises(InputError, match=told) as caught:
        act(store)
    assert "\n" not in str(caught.value)
    numbers = [one.seq for one in store.attendance()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(payloads(store)) == len(numbers)
    by_hand = [change for change in store.audit_rows() if change.action in {"add_event", "void_event"}]
    assert len(by_hand) == len(numbers) - 1


def test_a_correction_of_a_time_is_not_voided(store: Store) -> None:
    check_in(store, at=moment(5, synchronized=False))
    store.mark_sent([1])
    store.correct_times(moment(), ORIGIN)
    with pytest.raises(InputError, match="event 2 only corrects the time of event 1: void that one"):
        void(store, 2)


def test_an_added_event_may_be_void_and_added_anew(store: Store) -> None:
    void(store, add(store).seq)
    again = add(store)
    assert [(one.seq, one.voided_by) for one in store.attendance()] == [(1, 2), (2, None), (3, None)]
    assert again.seq == 3


def test_where_check_ins_are_refused_so_are_corrections(store: Store) -> None:
    check_in(store)
    store.limits = Limits(max_unsent=1)
    for act in (lambda: add(store), lambda: void(store, 1)):
        with pytest.raises(StoreError, match=r"store\.max_unsent"):
            act()


# --- what counts


def test_alternating_goes_by_what_counts(store: Store) -> None:
    midnight = datetime.fromtimestamp((NOW_MS - 20 * HOUR_MS) / 1000, UTC)
    assert store.last_event_type(ANA, midnight) is None
    check_in(store, at=moment(NOW_MS - 9 * HOUR_MS))
    # Added later, about an earlier time: it was not the last thing that happened.
    add(store, EventType.CHECK_OUT, NOW_MS - 10 * HOUR_MS)
    assert store.last_event_type(ANA, midnight) is EventType.CHECK_IN
    noon = add(store, EventType.BREAK_START, NOW_MS - 5 * HOUR_MS)
    add(store, EventType.CHECK_OUT, NOW_MS - 6 * HOUR_MS)
    assert store.last_event_type(ANA, midnight) is EventType.BREAK_START
    void(store, noon.seq)
    assert store.last_event_type(ANA, midnight) is EventType.CHECK_OUT
    check_in(store, at=moment(NOW_MS - HOUR_MS))
    assert store.last_event_type(ANA, midnight) is EventType.CHECK_IN
    # Another's do not matter, nor do those before midnight.
    add(store, subject_id=BOB)
    add(store, EventType.CHECK_OUT, NOW_MS - 30 * HOUR_MS)
    assert store.last_event_type(ANA, midnight) is EventType.CHECK_IN
    assert store.last_event_type(ANA, datetime.fromtimestamp(NOW_MS / 1000, UTC)) is None


def test_what_is_void_still_holds_off_a_second_check_in_of_the_same_visit(store: Store) -> None:
    first = check_in(store)
    void(store, first.seq)
    add(store, EventType.CHECK_IN, NOW_MS)
    seen = store.last_recorded(ANA)
    assert seen is not None
    assert (seen.seq, seen.boot_id, seen.boottime_ms) == (1, "boot", 1000)
    counts = store.last_visit(ANA)
    assert counts is not None
    assert counts.seq == 3


def test_the_log_is_filtered_by_when_it_happened(store: Store) -> None:
    add(store, at_ms=NOW_MS - 5 * HOUR_MS)
    void(store, 1)
    border = datetime.fromtimestamp((NOW_MS - HOUR_MS) / 1000, UTC)
    assert [one.seq for one in store.attendance(until=border)] == [1]
    assert [one.seq for one in store.attendance(since=border)] == [2]
    assert [one.seq for one in store.attendance(after_seq=1, subject=ANA)] == [2]
    assert [(one.seq, one.added, one.void) for one in store.outlines(until=border)] == [(1, True, True)]
    # What is void is no check-out behind which nothing earlier has a say.
    assert [one.seq for one in store.outlines(since=border)] == [1]
    add(store, EventType.CHECK_IN, at_ms=NOW_MS - 4 * HOUR_MS)
    assert [one.seq for one in store.outlines(since=border)] == [3]
    assert [one.seq for one in store.outlines()] == [1, 3]


def test_presence_is_what_counts(store: Store) -> None:
    check_in(store, at=moment(NOW_MS - 5 * HOUR_MS))
    void(store, check_in(store, at=moment(NOW_MS - HOUR_MS)).seq)
    add(store, at_ms=NOW_MS - 2 * HOUR_MS)
    void(store, check_in(store, BOB).seq)
    found = store.presences()
    assert (found[ANA].events, found[ANA].last_at) == (3, utc_text(NOW_MS - 2 * HOUR_MS))
    assert (found[BOB].events, found[BOB].last_at) == (1, None)


def test_corrections_are_no_day_on_which_the_kiosk_saw_somebody(store: Store) -> None:
    today = date(2026, 3, 2)
    check_in(store, at=moment(NOW_MS - 4 * DAY_MS))
    for days in (3, 2, 1):
        add(store, at_ms=NOW_MS - days * DAY_MS, subject_id=BOB)
    void(store, 2)
    # The clock of this machine counts for the rest, which is after all of that.
    assert store.history(today).unseen_days(ANA) == 0


# --- what else has to know


def test_erasure_takes_the_reasons_and_keeps_the_rows(store: Store) -> None:
    check_in(store)
    add(store, include_name=True)
    void(store, 1)
    add(store, subject_id=BOB, reason="another reason")
    receipt = store.remove_subject(ANA)
    assert (receipt.attendance_kept, receipt.complete) == (2, True)
    assert [one.evidence.get("reason") for one in store.attendance()] == ["match", None, None, "another reason"]
    assert [(one.voids, one.voided_by) for one in store.attendance()][:3] == [(None, 3), (None, None), (1, None)]
    assert payloads(store)[1]["subject"] == {"id": ANA}
    assert store.integrity_problem() is None


def test_erasing_a_reason_seals_no_damaged_row(store: Store, path: Path) -> None:
    add(store)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE attendance SET site = 'hQ'")
        db.commit()
    store.remove_subject(ANA)
    assert store.integrity_problem() == "row 1 of attendance differs from what was written"
    (left,) = store._rows("SELECT evidence FROM attendance")
    assert left["evidence"] == pack({})


def test_what_is_void_does_not_count_again_when_its_void_grows_old(store: Store) -> None:
    wrong = check_in(store)
    void(store, wrong.seq)
    check_in(store, at=moment(NOW_MS + 400 * DAY_MS))
    # The void has arrived, what it voids has not: neither is deleted.
    store.mark_sent([2, 3])
    assert store.prune(365, now_ms=NOW_MS + 400 * DAY_MS) == 0
    assert row(store, 1).voided_by == 2
    store.mark_sent([1])
    assert store.prune(365, now_ms=NOW_MS + 400 * DAY_MS) == 2
    assert [one.seq for one in store.attendance()] == [3]


def test_what_was_added_is_kept_as_long_as_what_was_recorded_then(store: Store) -> None:
    add(store, at_ms=NOW_MS - 300 * DAY_MS)
    store.mark_sent([1])
    check_in(store, at=moment(NOW_MS + 364 * DAY_MS))
    store.mark_sent([2])
    assert store.prune(365, now_ms=NOW_MS + 364 * DAY_MS) == 0
    assert store.prune(365, now_ms=NOW_MS + 366 * DAY_MS) == 1


def test_an_old_time_that_was_added_makes_nothing_else_old(store: Store) -> None:
    """A row of a clock nobody had set is old only where a later one shows it."""
    check_in(store, at=moment(5, synchronized=False))
    add(store, at_ms=NOW_MS - 364 * DAY_MS)
    store.mark_sent([1, 2])
    assert store.prune(365, now_ms=NOW_MS + 2 * DAY_MS) == 0


@pytest.mark.parametrize("sent", [False, True])
def test_a_clock_that_was_wrong_moves_the_entry_not_what_it_is_about(store: Store, *, sent: bool) -> None:
    check_in(store, at=moment(NOW_MS - 9 * HOUR_MS))
    wrong = Moment(NOW_MS - HOUR_MS, synchronized=False, boottime_ms=1000, boot_id="boot")
    add(store, at_ms=NOW_MS - 8 * HOUR_MS, at=wrong)
    void(store, 1, at=wrong)
    if sent:
        store.mark_sent([2, 3])
    right = Moment(NOW_MS + 10_000, synchronized=True, boottime_ms=11_000, boot_id="boot")
    corrected = store.correct_times(right, ORIGIN)
    assert (corrected.sent, corrected.unsent) == ((2, 0) if sent else (0, 2))
    assert row(store, 2).occurred_at == utc_text(NOW_MS - 8 * HOUR_MS)
    assert (row(store, 2).recorded_at, row(store, 3).occurred_at) == (utc_text(NOW_MS), utc_text(NOW_MS))
    for sent_now in payloads(store)[1:3]:
        name = sent_now["event_type"]
        jsonschema.validate(sent_now, json.loads((SCHEMAS / f"{name}.schema.json").read_text()))
        assert (sent_now["occurred_at"] == utc_text(NOW_MS)) is not sent
    assert [one["corrects"]["seq"] for one in payloads(store)[3:]] == ([2, 3] if sent else [])


def test_they_are_sent_and_replayed_in_their_place(store: Store) -> None:
    check_in(store)
    void(store, 1)
    add(store)
    assert [(sent.seq, sent.fresh) for sent in store.lend_pending(9)] == [(1, True), (2, True), (3, True)]
    store.mark_sent([1, 2, 3])
    store.request_replay("again", 1, 9)
    batch = store.next_replay(9)
    assert batch is not None
    assert [sent.payload["event_type"] for sent in batch.rows] == ["check_in", "void", "manual_entry"]


# --- signatures


@pytest.fixture(scope="module")
def signer() -> EventSigner:
    return EventSigner.generate()


def test_they_are_signed_and_chained(store: Store, signer: EventSigner, tmp_path: Path) -> None:
    store.signer = signer
    check_in(store)
    add(store, include_name=True)
    void(store, 1)
    check_in(store)
    (tmp_path / "key.pub").write_bytes(signer.public_pem())
    verifier = EventVerifier(PublicKeys.load([tmp_path / "key.pub"]))
    for line, event in enumerate(payloads(store), 1):
        verifier.take(line, event)
        jsonschema.validate(event, json.loads((SCHEMAS / f"{_schema_of(event)}.schema.json").read_text()))
    assert (verifier.verified, verifier.findings()) == (4, [])


def _schema_of(event: dict[str, Any]) -> str:
    return event["event_type"] if event["event_type"] in {"manual_entry", "void"} else "attendance"


def test_no_gap_is_left_in_the_chain_for_want_of_a_key(store: Store, signer: EventSigner) -> None:
    store.signer = signer
    check_in(store)
    store.signer = None
    for act in (lambda: add(store), lambda: void(store, 1)):
        with pytest.raises(ConfigError, match=r"signed, and there is no key .*mqtt\.sign_key_file"):
            act()
    assert len(store.attendance()) == 1


# --- damage


@pytest.mark.parametrize("lost", ["attendance", "outbox"])
@pytest.mark.parametrize("signed", [False, True])
def test_they_survive_in_either_half(store: Store, path: Path, signer: EventSigner, lost: str, *, signed: bool) -> None:
    store.signer = signer if signed else None
    check_in(store)
    with store.backups.alone():
        store.backups.take()
    add(store)
    void(store, 1)
    before, log = payloads(store), store.attendance()
    store.close()
    column = {"attendance": "site", "outbox": "payload"}[lost]
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"UPDATE {lost} SET {column} = {column} || ' ' WHERE seq > 1")  # noqa: S608 - our own names
        db.commit()
    with Store.open(path, verified=True, signer=store.signer) as again:
        assert again.restored is not None
        assert (again.restored.lost_events, again.restored.unread) == ((), (lost,))
        assert payloads(again) == before
        for now, then in zip(again.attendance(), log, strict=True):
            reason = then.evidence.get("reason")
            # Why, the event does not tell.
            assert now.evidence["reason"] == (None if lost == "attendance" and then.seq > 1 else reason)
            for name in ("seq", "event_id", "event_type", "subject_id", "occurred_at", "recorded_at", "voids"):
                assert getattr(now, name) == getattr(then, name)
        assert row(again, 1).voided_by == 3


def test_no_reason_comes_back_with_an_older_backup(store: Store, path: Path) -> None:
    add(store)
    with store.backups.alone():
        store.backups.take()
    stale = store.backups.all()[0].path
    older = stale.read_bytes()
    store.remove_subject(ANA)
    for backup in store.backups.all():
        backup.path.unlink()
    stale.write_bytes(older)
    store.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE attendance SET site = 'hQ'")
        db.commit()
    with Store.open(path, verified=True) as again:
        assert again.restored is not None
        assert [one.evidence["reason"] for one in again.attendance()] == [None]


def test_the_upgrade_seals_what_was_sound_and_no_damaged_row(tmp_path: Path) -> None:
    from sqlite_utils import Database

    from kiosk import migrations

    before = migrations.STEPS.index(migrations._add_manual_entries)
    connection = sqlite3.connect(tmp_path / "k.db", isolation_level=None)
    with contextlib.closing(connection):
        db = Database(connection)
        migrations.migrate(db, tmp_path, migrations.STEPS[:before])
        for seq in (1, 2):
            db.execute(
                "INSERT INTO attendance (seq, event_id, event_type, subject_id, occurred_at, tz, clock_synchronized,"
                " boot_id, boottime_ms, site, device, evidence)"
                " VALUES (?, ?, 'check_in', 'E1', ?, 'UTC', 1, '', 1, 'hq', 'door-1', ?)",
                [seq, f"id-{seq}", utc_text(NOW_MS), pack({"match": None, "candidates": []})],
            )
        integrity.seal(db, "attendance", columns=integrity.present(db, "attendance"))
        db.execute("UPDATE attendance SET site = 'hQ' WHERE seq = 2")
        migrations.migrate(db, tmp_path)
        assert integrity.damaged_rows(db, "attendance") == [2]
        db.execute("UPDATE attendance SET voids = 7 WHERE seq = 1")
        assert integrity.damaged_rows(db, "attendance") == [1, 2]


def test_what_was_corrected_since_the_backup_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "kiosk.db"
    with Store.open(path) as store:
        store.enroll(ANA, [template()])
        check_in(store, model_id=MODEL)
        with store.backups.alone():
            store.backups.take()
        void(store, add(store).seq)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE subjects SET created_at = 'x'")
        db.commit()
    with Store.open(path, verified=True) as again:
        assert again.restored is not None
        assert again.restored.salvaged["attendance"] == 2
        assert [(one.seq, one.voids, one.voided_by) for one in again.attendance()] == [
            (1, None, None), (2, None, 3), (3, 2, None)
        ]  # fmt: skip
