import contextlib
import multiprocessing
import os
import shutil
import sqlite3
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kiosk import integrity
from kiosk.biometrics import Candidate, Decision, FrameEvidence, ModelId, Quality, Reason, SubjectId, Verdict
from kiosk.errors import InputError, PermissionDeniedError, StoreError, UnavailableError
from kiosk.events import AttendanceEvent, EventType, Moment, Origin, RejectedEvent, rejected_event, utc_text
from kiosk.packing import pack
from kiosk.store import MAX_REJECTIONS, Consent, Limits, NewTemplate, RunningDaemon, Store, _outbox, _replay_limits
from kiosk.store._replay_limits import DAY_S, FREE_EVENTS_A_DAY, ReplayLimits

MODEL = ModelId("test-int8@abcdef")
ORIGIN = Origin("hq", "door-1", "UTC")
DAY_MS = 86_400_000
NOW_MS = 1_772_438_293_412
ANA, BEN = SubjectId("E1"), SubjectId("E2")


def embedding(seed: int, size: int = 128) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    return values / np.linalg.norm(values)


def template(seed: int = 0, model: ModelId = MODEL) -> NewTemplate:
    return NewTemplate(model, embedding(seed))


def moment(utc_ms: int = NOW_MS, *, synchronized: bool = True) -> Moment:
    return Moment(utc_ms, synchronized, boottime_ms=1000, boot_id="boot")


def decision(subject_id: str = ANA) -> Decision:
    candidates = (Candidate(SubjectId(subject_id), 0.81), Candidate(SubjectId("other"), 0.5))
    quality = Quality(np.float32(120), np.float64(90), 128.0)  # type: ignore[arg-type]
    return Decision(Verdict.IDENTIFIED, Reason.MATCH, 0.62, candidates, frames=5, quality=quality)


def check_in(store: Store, subject_id: str = ANA, at: Moment | None = None, **options: object) -> AttendanceEvent:
    arguments = {"event_type": EventType.CHECK_IN, "model_id": MODEL, "gallery_size": 2} | options
    event = store.record_check_in(
        decision(subject_id),
        moment=at or moment(),
        origin=ORIGIN,
        **arguments,  # type: ignore[arg-type]
    )
    assert event is not None
    return event


def reject(store: Store, *subject_ids: str, at: Moment | None = None) -> RejectedEvent:
    """A stranger who looked a little like these subjects, in the whole and in each of two frames."""
    candidates = tuple(Candidate(SubjectId(subject_id), 0.3) for subject_id in subject_ids)
    frames = tuple(FrameEvidence(t, Quality(90.0, 90.0, 128.0), 0.5, candidates) for t in (0.0, 0.1))
    rejected = Decision(Verdict.UNKNOWN, Reason.UNKNOWN, 0.62, candidates, 2, frames[0].quality, 0.05, frames)
    at = at or moment()
    event = rejected_event(rejected, moment=at, origin=ORIGIN)
    store.record_rejection(rejected, event, moment=at, origin=ORIGIN, model_id=MODEL, gallery_size=2)
    return event


def file_bytes(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(path.parent.glob(path.name + "*")))


# --- opening


def test_new_store_is_private_and_durable(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "kiosk.db"
    with Store.open(path) as store:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        pragmas = {
            name: store._rows(f"PRAGMA {name}")[0][name]
            for name in ("journal_mode", "synchronous", "secure_delete", "foreign_keys")
        }
        assert pragmas == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "foreign_keys": 1}
        store.enroll(ANA, [template()])
        assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in path.parent.iterdir())


def test_zero_byte_file_is_a_new_store(path: Path) -> None:
    path.touch()
    with Store.open(path) as store:
        assert store.subjects() == []


@pytest.mark.parametrize("writable", [True, False])
@pytest.mark.parametrize(
    "content",
    [b"hello", b"not a database " * 1000, b"SQLite format 3\0" + b"\xff" * 5000],
    ids=["short", "text", "torn"],
)
def test_file_that_is_no_database_is_refused_and_kept(path: Path, content: bytes, *, writable: bool) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"kiosk\.db: .*(not an SQLite database|damaged)") as caught:
        Store.open(path, writable=writable)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_folder_is_refused(tmp_path: Path) -> None:
    for writable in (True, False):
        with pytest.raises(StoreError, match=r"store\.path"):
            Store.open(tmp_path, writable=writable)


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="KIOSK_STORE__PATH"):
        Store.open(tmp_path / "file" / "kiosk.db")


def test_reading_a_store_that_is_not_there(path: Path) -> None:
    with pytest.raises(UnavailableError, match="no store yet"):
        Store.open(path, writable=False)
    assert not path.exists()


def test_damaged_page_is_told_in_one_line(path: Path) -> None:
    with Store.open(path) as store:
        for number in range(50):
            store.enroll(SubjectId(f"E{number}"), [template(number)])
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"), Store.open(path) as store:
        store.subjects()


@contextlib.contextmanager
def as_nobody() -> Iterator[Path]:
    """A folder of user nobody's, with that user's rights (root may write everywhere)."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(folder)


def test_read_only_file_is_refused_for_writing_and_readable() -> None:
    with as_nobody() as folder:
        path = folder / "kiosk.db"
        with Store.open(path) as store:
            store.enroll(ANA, [template()])
        path.chmod(0o400)
        with pytest.raises(PermissionDeniedError, match=r"permission denied.*store\.path"):
            Store.open(path)
        with Store.open(path, writable=False) as store:
            assert len(store.subjects()) == 1


def test_read_only_folder_is_refused_for_a_new_store() -> None:
    with as_nobody() as folder:
        (folder / "sub").mkdir(mode=0o500)
        with pytest.raises(PermissionDeniedError, match="permission denied"):
            Store.open(folder / "sub" / "kiosk.db")
        with pytest.raises(PermissionDeniedError, match="permission denied"):
            Store.open(folder / "sub" / "deeper" / "kiosk.db")


def test_full_disk_is_told_and_writes_nothing(store: Store) -> None:
    store.enroll(ANA, [])
    store._rows("PRAGMA max_page_count = 1")  # SQLite's own way to run out of space
    with pytest.raises(StoreError, match="no space left"):
        store.enroll(SubjectId("E2"), [template(n) for n in range(100)])
    assert [subject.id for subject in store.subjects()] == [ANA]
    store._rows("PRAGMA max_page_count = 100000")
    assert store.enroll(SubjectId("E2"), [template()])


def test_closed_store_says_so_and_closes_twice(path: Path) -> None:
    store = Store.open(path)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.subjects()


def test_reader_cannot_write(store: Store, path: Path) -> None:
    with Store.open(path, writable=False) as reader, pytest.raises(PermissionDeniedError):
        reader.enroll(ANA, [])
    assert store.subjects() == []


def test_one_daemon_a_store(store: Store, path: Path) -> None:
    with store.daemon_lock(), Store.open(path) as second:
        with pytest.raises(UnavailableError, match=rf"process {os.getpid()}\b"), second.daemon_lock():
            pass
        assert second.enroll(ANA, [])  # other commands go on
    with store.daemon_lock():
        pass


def test_who_asks_learns_of_the_daemon_and_its_model(store: Store, path: Path) -> None:
    assert store.running_daemon() is None
    with store.daemon_lock(MODEL), Store.open(path, writable=False) as reader:
        for _ in range(2):
            assert reader.running_daemon() == RunningDaemon(str(os.getpid()), MODEL)
    assert store.running_daemon() is None
    with store.daemon_lock():
        assert store.running_daemon() == RunningDaemon(str(os.getpid()), None)


def test_integrity_problem(store: Store) -> None:
    assert store.integrity_problem() is None


# --- subjects and templates


def test_enroll_stores_everything(store: Store) -> None:
    quality = Quality(120.0, 90.0, 128.0, 0.1)
    photo = NewTemplate(MODEL, embedding(1), quality, "ab" * 32)
    assert store.enroll(ANA, [photo, template(2)], name="Ana", consent=Consent("form-7", "2026-03-01"))
    subject = store.subject(ANA)
    assert subject is not None
    assert (subject.name, subject.consent_reference, subject.consent_at) == ("Ana", "form-7", "2026-03-01")
    assert subject.templates == 2
    stored = store.templates(MODEL)
    assert [t.subject_id for t in stored] == [ANA, ANA]
    np.testing.assert_array_equal(stored[0].embedding, embedding(1))
    assert stored[0].embedding.dtype == np.float32
    info = store.template_infos(ANA)[0]
    assert info.quality is not None
    assert info.quality["sharpness"] == 90.0
    assert info.source_sha256 == "ab" * 32


def test_enrolling_again_adds_templates_and_keeps_the_rest(store: Store) -> None:
    assert store.enroll(ANA, [template()], name="Ana", consent=Consent("form-7", "2026-03-01"))
    assert not store.enroll(ANA, [template(1)])
    subject = store.subject(ANA)
    assert subject is not None
    assert (subject.name, subject.consent_reference, subject.templates) == ("Ana", "form-7", 2)


def test_enroll_is_all_or_nothing(store: Store) -> None:
    broken = NewTemplate(MODEL, np.full(4, np.nan, np.float32))
    with pytest.raises(ValueError, match="embedding"):
        store.enroll(ANA, [template(), broken], name="Ana")
    assert store.subjects() == []
    assert store.templates(MODEL) == []


def test_templates_of_other_models_are_kept_apart(store: Store) -> None:
    store.enroll(ANA, [template(0), template(1, ModelId("old@1")), template(2)])
    assert store.template_models() == {"old@1": 1, MODEL: 2}
    assert len(store.templates(ModelId("old@1"))) == 1
    assert store.templates(ModelId("none")) == []


OLD = ModelId("old@1")


def test_which_models_know_whom(store: Store) -> None:
    store.enroll(ANA, [template(0), template(1, OLD), template(2)])
    store.enroll(SubjectId("E2"), [template(3, OLD)])
    store.enroll(SubjectId("E3"), [])
    assert store.subject_models() == {"E1": {OLD: 1, MODEL: 2}, "E2": {OLD: 1}, "E3": {}}


def test_whose_photo_it_is_over_all_models(store: Store) -> None:
    store.enroll(ANA, [NewTemplate(MODEL, embedding(0), None, "aa"), NewTemplate(OLD, embedding(1), None, "bb")])
    store.enroll(SubjectId("E2"), [NewTemplate(OLD, embedding(2), None, "aa"), template(3)])
    assert store.photo_owners() == {"aa": {"E1", "E2"}, "bb": {"E1"}}


def test_templates_are_added_to_known_subjects_only_where_that_is_wanted(store: Store) -> None:
    with pytest.raises(InputError, match="no subject 'E1'"):
        store.enroll(ANA, [template()], known_only=True)
    assert store.subjects() == []
    store.enroll(ANA, [template()], name="Ana")
    assert not store.enroll(ANA, [template(1)], known_only=True)
    assert len(store.templates(MODEL)) == 2


def test_templates_of_other_models_are_dropped_from_the_bytes(store: Store, path: Path) -> None:
    for number in range(40):
        store.enroll(SubjectId(f"S{number}"), [template(2 * number, OLD), template(2 * number + 1)])
    old = [row["embedding"] for row in store._rows("SELECT embedding FROM templates WHERE model_id = ?", [OLD])]
    assert store.drop_templates_except(MODEL) == {OLD: 40}
    assert store.checkpoint()
    content = file_bytes(path)
    for number in range(40):
        assert old[number] not in content
        assert embedding(2 * number + 1).tobytes() not in content
    assert len(store.templates(MODEL)) == 40
    assert store.template_models() == {MODEL: 40}
    assert store.drop_templates_except(MODEL) == {}


def test_nothing_is_dropped_while_somebody_has_nothing_else(store: Store) -> None:
    store.enroll(ANA, [template(0, OLD), template(1)])
    store.enroll(SubjectId("E2"), [template(2, OLD)])
    with pytest.raises(InputError, match="nothing was erased: 1 subjects"):
        store.drop_templates_except(MODEL)
    assert store.template_models() == {OLD: 2, MODEL: 1}


@pytest.mark.parametrize(
    "wrong", ["", " ", "a b", "a/b", "+", "#", "a\0b", "'; DROP TABLE", "x" * 65, "x" * 300, "김", "E1\n", "\ud800"]
)
def test_unfit_subject_ids_are_refused(store: Store, wrong: str) -> None:
    with pytest.raises(InputError, match="subject id") as caught:
        store.enroll(SubjectId(wrong), [])
    assert str(caught.value).isprintable()
    assert store.subjects() == []


@pytest.mark.parametrize("wrong", ["", "  ", "x" * 201, "a\0b", "a\nb", "\ud800"])
def test_unfit_names_are_refused(store: Store, wrong: str) -> None:
    with pytest.raises(InputError, match="name") as caught:
        store.enroll(ANA, [], name=wrong)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["Ana", "김영희", "O'Brien; DROP TABLE subjects", "🙂", "x" * 200])
def test_names_are_any_text(store: Store, name: str) -> None:
    store.enroll(ANA, [], name=name)
    subject = store.subject(ANA)
    assert subject is not None
    assert subject.name == name


def test_rename(store: Store) -> None:
    store.enroll(ANA, [], name="Ana")
    store.rename_subject(ANA, "Anna")
    assert [subject.name for subject in store.subjects()] == ["Anna"]
    store.rename_subject(ANA, None)
    assert [subject.name for subject in store.subjects()] == [None]
    with pytest.raises(InputError, match="subjects list"):
        store.rename_subject("nobody", "x")


# --- erasure


def test_removal_leaves_no_bytes_of_name_or_templates(store: Store, path: Path) -> None:
    for number in range(60):
        subject_id = SubjectId(f"S{number}")
        store.enroll(subject_id, [template(number * 3 + k) for k in range(3)], name=f"Canary-Name-{number:03}")
        check_in(store, subject_id, include_name=True)
    removed = range(0, 60, 2)
    assert b"Canary-Name-000" in file_bytes(path)
    before = store._rows("SELECT embedding FROM templates")
    assert before[0]["embedding"] in file_bytes(path)
    for number in removed:
        receipt = store.remove_subject(f"S{number}")
        assert (receipt.templates_erased, receipt.attendance_kept, receipt.complete) == (3, 1, True)
    content = file_bytes(path)
    for number in removed:
        assert f"Canary-Name-{number:03}".encode() not in content
    assert b"Canary-Name-001" in content
    # Of those who remain neither, for their templates are sealed with another key now.
    assert not [row for row in before if row["embedding"] in content]
    assert len(store.templates(MODEL)) == 3 * (60 - len(removed))
    assert len(store.receipts()) == len(removed)


def test_removal_takes_the_name_out_of_waiting_events_and_keeps_the_row(store: Store) -> None:
    store.enroll(ANA, [template()], name="Ana")
    event = check_in(store, include_name=True)
    store.remove_subject(ANA)
    row = store.next_pending()
    assert row is not None
    assert row.payload == event.payload() | {"subject": {"id": ANA}}
    assert list(row.payload) == list(event.payload())
    assert [row.subject_id for row in store.attendance()] == [ANA]


@pytest.mark.parametrize("name", ["Ana", 'A "name": Ana', "Ana\u2028\u00fc"])
def test_names_in_events_are_erased_when_they_may_not_leave_any_more(store: Store, path: Path, name: str) -> None:
    store.enroll(ANA, [template()], name=name)
    named = [check_in(store, include_name=True).payload() for _ in range(3)]
    bare = check_in(store).payload()
    assert store.settle_event_names(allowed=True) == 0
    assert (store.named_events(), list(store.event_payloads())) == (3, [*named, bare])
    store.rename_subject(ANA, "Canary Name")
    assert b"Canary Name" in file_bytes(path)
    assert store.settle_event_names(allowed=False) == 3
    assert store.named_events() == 0
    assert list(store.event_payloads()) == [event | {"subject": {"id": ANA}} for event in [*named, bare]]
    store.rename_subject(ANA, None)
    store.checkpoint()
    assert b"Canary Name" not in file_bytes(path)
    assert store.integrity_problem() is None


def test_events_hold_the_name_a_subject_has_now(store: Store, path: Path) -> None:
    store.enroll(ANA, [template()], name="Canary Old")
    store.enroll(BEN, [template(2)], name="Ben")
    for subject in (ANA, BEN):
        check_in(store, subject, include_name=True)
    check_in(store)

    def names() -> list[str | None]:
        return [event["subject"].get("name") for event in store.event_payloads()]

    store.rename_subject(ANA, "Canary New")
    assert names() == ["Canary New", "Ben", None]
    store.enroll(ANA, [], name="Canary Newer")
    assert names() == ["Canary Newer", "Ben", None]
    store.rename_subject(ANA, None)
    assert names() == [None, "Ben", None]
    store.checkpoint()
    assert b"Canary" not in file_bytes(path)
    assert store.integrity_problem() is None


def test_an_old_name_that_a_restore_brought_back_is_renewed(store: Store) -> None:
    store.enroll(ANA, [template()], name="Ana")
    check_in(store, include_name=True)
    with store._writing() as db:
        db.execute("UPDATE subjects SET name = 'Anna'")
        integrity.seal(db, "subjects")
    assert store.settle_event_names(allowed=True) == 1
    assert next(store.event_payloads())["subject"] == {"id": ANA, "name": "Anna"}


def test_removal_survives_reopening_without_commit(path: Path) -> None:
    with Store.open(path) as store:
        store.enroll(ANA, [template()])
        store.remove_subject(ANA)
    with Store.open(path) as store:
        assert store.subjects() == []
        assert store.templates(MODEL) == []


def test_reader_in_the_way_of_erasure_is_admitted_and_made_up_for(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kiosk.store._connection._BUSY_TIMEOUT_S", 0.1)
    with Store.open(path) as store:
        store.enroll(ANA, [template()], name="Canary-Name")
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM subjects").fetchall()
        assert not store.remove_subject(ANA).complete
        assert "Canary" not in caplog.text
        reader.execute("COMMIT")
        reader.close()
        assert store.finish_erasures()
        assert store.receipts()[0].complete
        assert b"Canary-Name" not in file_bytes(path)


def test_removal_takes_the_subject_out_of_what_is_stored_about_others(store: Store, path: Path) -> None:
    for subject_id in ("E1", "E2", "E10"):
        store.enroll(SubjectId(subject_id), [template()])
    others = decision("E2")
    others = replace(
        others,
        candidates=(others.candidates[0], Candidate(ANA, 0.5)),
        frame_evidence=(FrameEvidence(0.0, Quality(90.0, 90.0, 128.0), 1.0, (Candidate(ANA, 0.6),)),),
    )
    arguments = {"event_type": EventType.CHECK_IN, "moment": moment(), "origin": ORIGIN}
    store.record_check_in(others, model_id=MODEL, gallery_size=3, **arguments)  # type: ignore[arg-type]
    reject(store, "E1", "E10")
    packed = [pack(row.evidence) for row in (*store.attendance(), *store.rejections())]
    assert all(evidence in file_bytes(path) for evidence in packed)
    store.remove_subject("E1")
    (kept,) = store.attendance()
    assert kept.evidence["candidates"] == [{"subject_id": "E2", "score": 0.81}, {"subject_id": None, "score": 0.5}]
    assert kept.evidence["frame_evidence"][0]["candidates"] == [{"subject_id": None, "score": 0.6}]
    (rejection,) = store.rejections()
    without = [{"subject_id": None, "score": 0.3}, {"subject_id": "E10", "score": 0.3}]
    assert rejection.evidence["candidates"] == without
    assert [frame["candidates"] for frame in rejection.evidence["frame_evidence"]] == [without, without]
    assert not any(evidence in file_bytes(path) for evidence in packed)


def test_removal_keeps_the_bare_id_in_the_subjects_own_attendance(store: Store) -> None:
    store.enroll(ANA, [template()])
    check_in(store)
    store.remove_subject(ANA)
    (row,) = store.attendance()
    assert row.subject_id == ANA
    assert row.evidence["candidates"][0] == {"subject_id": ANA, "score": 0.81}


def test_a_decision_made_before_an_erasure_and_stored_after_it_names_nobody_erased(store: Store) -> None:
    store.enroll(ANA, [template()])
    store.enroll(SubjectId("other"), [template(1)])
    store.remove_subject("other")
    reject(store, "other", ANA)
    check_in(store)
    (rejection,) = store.rejections()
    assert [candidate["subject_id"] for candidate in rejection.evidence["candidates"]] == [None, ANA]
    (row,) = store.attendance()
    assert [candidate["subject_id"] for candidate in row.evidence["candidates"]] == [ANA, None]


def test_removing_nobody(store: Store) -> None:
    with pytest.raises(InputError, match="no subject 'nobody'"):
        store.remove_subject("nobody")


def test_check_in_of_someone_erased_meanwhile_is_not_recorded(store: Store) -> None:
    event = store.record_check_in(
        decision(), event_type=EventType.CHECK_IN, moment=moment(), origin=ORIGIN, model_id=MODEL, gallery_size=1
    )
    assert event is None
    assert store.attendance() == []


# --- attendance


def test_check_in_and_outbox_row_are_one(store: Store) -> None:
    store.enroll(ANA, [template()], name="Ana")
    store.enroll(SubjectId("other"), [template(1)])
    event = check_in(store)
    row = store.attendance()[0]
    assert (row.seq, row.event_id, row.delivery) == (1, event.event_id, "pending")
    assert row.evidence["match"]["score"] == 0.81
    assert row.evidence["quality"]["size_px"] == 120
    assert row.evidence["candidates"][1] == {"subject_id": "other", "score": 0.5}
    pending = store.next_pending()
    assert pending is not None
    assert pending.payload == event.payload()
    assert pending.topic == "event/attendance"
    assert "Ana" not in str(pending.payload)
    assert store.event(event.event_id) == row
    assert store.event("nothing") is None


def test_failure_between_the_two_inserts_leaves_neither_and_no_gap(store: Store) -> None:
    store.enroll(ANA, [template()])
    check_in(store)
    with store._reading() as db:
        db.execute("CREATE TEMP TRIGGER fail BEFORE INSERT ON main.outbox BEGIN SELECT RAISE(ABORT, 'pulled'); END")
    with pytest.raises(StoreError, match="pulled"):
        check_in(store)
    with store._reading() as db:
        db.execute("DROP TRIGGER fail")
    assert check_in(store).seq == 2
    assert [row.seq for row in store.attendance()] == [1, 2]


def test_numbers_are_not_reused_after_retention(path: Path) -> None:
    with Store.open(path) as store:
        store.enroll(ANA, [template()])
        for _ in range(3):
            store.mark_sent([check_in(store).seq])
        assert store.prune(1, now_ms=NOW_MS + 2 * DAY_MS) == 3
        assert store.attendance() == []
    with Store.open(path) as store:
        assert check_in(store).seq == 4


def test_without_outbox_the_event_is_logged_only(store: Store) -> None:
    store.enroll(ANA, [template()])
    check_in(store, outbox=False)
    assert store.next_pending() is None
    assert store.attendance()[0].delivery is None
    assert store.prune(1, now_ms=NOW_MS + 2 * DAY_MS) == 1


def test_attendance_filters(store: Store) -> None:
    for subject_id in ("E1", "E2"):
        store.enroll(SubjectId(subject_id), [])
    for hour in range(6):
        check_in(store, f"E{1 + hour % 2}", moment(NOW_MS + hour * 3_600_000))
    start = datetime.fromtimestamp(NOW_MS / 1000, UTC)
    assert [row.seq for row in store.attendance(subject="E2")] == [2, 4, 6]
    assert [row.seq for row in store.attendance(since=start + timedelta(hours=4))] == [5, 6]
    assert [row.seq for row in store.attendance(until=start + timedelta(hours=2))] == [1, 2]
    assert [row.seq for row in store.attendance(after_seq=3, limit=2)] == [4, 5]
    assert [row.seq for row in store.attendance(newest_first=True, limit=2)] == [6, 5]
    assert [row.seq for row in store.attendance(after_seq=6)] == []
    last = store.last_visit("E1")
    assert last is not None
    assert last.seq == 5
    assert store.last_visit("E3") is None
    with pytest.raises(ValueError, match="zone"):
        store.attendance(since=start.replace(tzinfo=None))


def test_last_event_type_since_midnight(store: Store) -> None:
    store.enroll(ANA, [])
    midnight = datetime.fromtimestamp(NOW_MS / 1000, UTC)
    assert store.last_event_type(ANA, midnight) is None
    check_in(store, at=moment(NOW_MS - 1))
    assert store.last_event_type(ANA, midnight) is None
    check_in(store)
    assert store.last_event_type(ANA, midnight) is EventType.CHECK_IN
    check_in(store, event_type=EventType.CHECK_OUT)
    assert store.last_event_type(ANA, midnight) is EventType.CHECK_OUT


def test_only_an_identified_decision_is_recorded(store: Store) -> None:
    with pytest.raises(ValueError, match="identified"):
        store.record_check_in(
            Decision(Verdict.UNKNOWN, Reason.UNKNOWN, 0.6),
            event_type=EventType.CHECK_IN,
            moment=moment(),
            origin=ORIGIN,
            model_id=MODEL,
            gallery_size=1,
        )


# --- retention


def test_prune_keeps_what_is_young_or_not_sent(store: Store) -> None:
    store.enroll(ANA, [])
    old_sent, old_unsent, young = (check_in(store, at=moment(NOW_MS + n * DAY_MS)) for n in (0, 1, 10))
    store.mark_sent([old_sent.seq])
    store.mark_sent([young.seq])
    assert store.prune(5, now_ms=NOW_MS + 10 * DAY_MS) == 1
    assert [row.seq for row in store.attendance()] == [old_unsent.seq, young.seq]


def test_prune_does_not_believe_an_unset_clock(store: Store) -> None:
    store.enroll(ANA, [])
    trusted = check_in(store, at=moment(NOW_MS))
    unset = check_in(store, at=moment(0, synchronized=False))
    for event in (trusted, unset):
        store.mark_sent([event.seq])
    assert store.prune(5, now_ms=NOW_MS + DAY_MS) == 0
    assert store.prune(5, now_ms=NOW_MS + 9 * DAY_MS) == 1  # the trusted one; nothing later vouches for the other
    store.mark_sent([check_in(store, at=moment(NOW_MS + 9 * DAY_MS)).seq])
    assert store.prune(5, now_ms=NOW_MS + 20 * DAY_MS) == 2


def test_a_clock_that_leaps_is_believed_after_a_week(store: Store) -> None:
    store.enroll(ANA, [])
    check_in(store)

    def leap(days: float) -> int | None:
        found = store.doubt(NOW_MS + round(days * DAY_MS))
        return None if found is None else found.days

    # A year with the kiosk, not always on, and a month without.
    assert [leap(days) for days in (*range(0, 366, 15), 365, 395)] == [None] * 27
    # A leap that is mended within the week leaves no trace.
    assert [leap(days) for days in (760, 761, 762, 396, 760)] == [365, 366, 367, None, 364]
    assert [leap(760 + days) for days in (1, 2, 3, 4, 5, 6, 6.9, 7, 8)] == [*range(365, 371), 370, None, None]
    # After forty days without power: a week later.
    assert [leap(808 + days) for days in (0, 1, 2, 3, 4, 5, 6, 6.9, 7.1, 8)] == [*range(40, 47), 46, None, None]


def test_a_clock_in_doubt_does_not_measure_the_week_by_its_leaps(store: Store) -> None:
    store.enroll(ANA, [])
    check_in(store)

    def doubted(*days: float) -> list[bool]:
        return [store.doubt(NOW_MS + round(day * DAY_MS)) is not None for day in days]

    assert doubted(0, 365) == [False, True]
    # The second leap, and any after it, begins the week anew.
    assert doubted(*range(366, 372), 403) == [True] * 7
    assert doubted(*range(404, 410), 410) == [True] * 6 + [False]
    # From one question to the next a day counts at most; and going back and forth, nothing.
    assert doubted(500, 510, 520, 530, 540, 550, 560, 570) == [True] * 7 + [False]
    assert doubted(*[700, 700.9] * 20) == [True] * 40
    # A kiosk that is off from Friday evening to Monday morning: Monday to Friday, a day for the weekend, and so on.
    week = [800 + day + hour / 24 for day in (0, 1, 2, 3, 4, 7, 8, 9, 10, 11) for hour in range(8, 19)]
    assert doubted(570)[0] is False
    found = doubted(*week)
    assert week[found.index(False)] == pytest.approx(809, abs=0.5)


def test_at_first_a_clock_is_held_against_the_newest_event(store: Store) -> None:
    store.enroll(ANA, [])
    check_in(store, at=moment(NOW_MS + 900 * DAY_MS, synchronized=False))
    assert store.doubt(NOW_MS - 900 * DAY_MS) is None
    with store._writing() as db:
        integrity.clear_mark(db, integrity.CLOCK_BELIEVED)
    check_in(store)
    assert store.doubt(NOW_MS + 31 * DAY_MS) is not None
    assert store.doubt(NOW_MS + 30 * DAY_MS) is None


def test_prune_takes_nothing_young_for_old_when_the_first_boot_did_not_know_the_time(store: Store) -> None:
    store.enroll(ANA, [])
    for _ in range(3):
        store.mark_sent([check_in(store, at=moment(0, synchronized=False)).seq])
    reject(store, at=moment(0, synchronized=False))
    assert store.prune(5, now_ms=NOW_MS) == 0
    assert store.prune_rejections(5, now_ms=NOW_MS) == 0


def test_prune_forgets_answered_wishes(store: Store) -> None:
    store.enroll(ANA, [])
    check_in(store)
    store.request_replay("done", 1, 1)
    store.request_replay("waits", 1, 1)
    store.advance_replay("done", None)
    store.prune(5, now_ms=time.time_ns() // 1_000_000 + 9 * DAY_MS)
    assert store.request_replay("done", 1, 1) is None
    assert store.request_replay("waits", 1, 1) == "obeyed before"


# --- rejections


def test_a_rejection_is_kept_with_its_evidence_and_no_more(store: Store) -> None:
    store.enroll(ANA, [template()], name="Ana")
    event = reject(store, ANA)
    (row,) = store.rejections()
    assert (row.event_id, row.reason, row.occurred_at) == (event.event_id, "unknown", utc_text(NOW_MS))
    assert (row.boot_id, row.boottime_ms, row.clock_synchronized) == ("boot", 1000, True)
    assert (row.site, row.device, row.tz) == ("hq", "door-1", "UTC")
    assert row.evidence["match"] == {
        "score": 0.3, "threshold": 0.62, "margin": None, "frames": 2, "gallery_size": 2, "model": MODEL,
    }  # fmt: skip
    assert [frame["offset_s"] for frame in row.evidence["frame_evidence"]] == [0.0, 0.1]
    assert "Ana" not in str(row)
    assert store.find_rejections(event.event_id[:8]) == [row]
    assert store.find_rejections(event.event_id[:-1] + "g") == []
    assert store.next_pending() is None


def test_rejections_within_times(store: Store) -> None:
    ids = [reject(store, at=moment(NOW_MS + n * DAY_MS)).event_id for n in range(3)]
    day = datetime.fromtimestamp(NOW_MS / 1000, UTC) + timedelta(days=1)
    assert [row.event_id for row in store.rejections(since=day)] == ids[1:]
    assert [row.event_id for row in store.rejections(until=day)] == ids[:1]


def test_measures_that_are_no_numbers_are_stored_as_none(store: Store) -> None:
    bad = Decision(Verdict.REJECTED, Reason.BLURRED, 0.6, (), 0, Quality(float("nan"), float("inf"), 1.0))
    store.record_rejection(
        bad,
        rejected_event(bad, moment=moment(), origin=ORIGIN),
        moment=moment(),
        origin=ORIGIN,
        model_id=MODEL,
        gallery_size=0,
    )
    assert store.rejections()[0].evidence["quality"]["sharpness"] is None


def test_no_more_rejections_than_the_cap_and_the_oldest_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_REJECTIONS == 10_000
    monkeypatch.setattr("kiosk.store._rejections.MAX_REJECTIONS", 3)
    ids = [reject(store).event_id for _ in range(7)]
    assert [row.event_id for row in store.rejections()] == ids[-3:]


def test_rejections_are_pruned_by_their_own_days(store: Store) -> None:
    store.enroll(ANA, [])
    check_in(store)
    ids = [reject(store, at=moment(NOW_MS + n * DAY_MS)).event_id for n in range(3)]
    assert store.prune_rejections(7, now_ms=NOW_MS + 8 * DAY_MS) == 1
    assert [row.event_id for row in store.rejections()] == ids[1:]
    assert len(store.attendance()) == 1
    assert store.prune_rejections(0, now_ms=0) == 2
    assert store.rejections() == []


def test_pruning_rejections_does_not_believe_an_unset_clock(store: Store) -> None:
    reject(store, at=moment(NOW_MS))
    reject(store, at=moment(0, synchronized=False))
    assert store.prune_rejections(7, now_ms=NOW_MS + DAY_MS) == 0
    reject(store, at=moment(NOW_MS + DAY_MS))
    assert store.prune_rejections(7, now_ms=NOW_MS + 9 * DAY_MS) == 3


def test_events_are_found_by_the_beginning_of_their_id(store: Store) -> None:
    store.enroll(ANA, [])
    first, second = check_in(store, at=moment(NOW_MS)), check_in(store, at=moment(NOW_MS + DAY_MS))
    assert [row.seq for row in store.find_events(first.event_id)] == [1]
    assert [row.seq for row in store.find_events(second.event_id[:10])] == [2]
    assert [row.seq for row in store.find_events("019")] == [1, 2]


# --- outbox


def test_outbox_counts_and_errors(store: Store) -> None:
    store.enroll(ANA, [])
    first, second = check_in(store), check_in(store)
    store.mark_failed(first.seq, "nobody subscribes")
    counts = store.outbox_counts()
    assert (counts.pending, counts.sent, counts.parked) == (2, 0, 0)
    assert (counts.oldest_pending_at, counts.last_error) == (utc_text(NOW_MS), "nobody subscribes")
    row = store.next_pending()
    assert row is not None
    assert (row.seq, row.attempts, row.fresh) == (first.seq, 1, False)
    store.mark_sent([first.seq])
    row = store.next_pending()
    assert row is not None
    assert (row.seq, row.fresh, row.committed_boottime_s) == (second.seq, True, 1.0)
    assert store.outbox_counts().last_error is None


def test_rows_of_an_earlier_process_are_not_fresh(path: Path) -> None:
    with Store.open(path) as store:
        store.enroll(ANA, [])
        check_in(store)
    with Store.open(path) as store:
        row = store.next_pending()
        assert row is not None
        assert not row.fresh
        store.mark_sent([row.seq])
        check_in(store)
        row = store.next_pending()
        assert row is not None
        assert row.fresh


def test_parked_events_wait_until_they_are_retried(store: Store) -> None:
    store.enroll(ANA, [])
    first, second, third = check_in(store), check_in(store), check_in(store)
    store.mark_failed(first.seq, "breaks the connection", park=True)
    store.mark_failed(second.seq, "too large", park=True)
    assert [row.seq for row in store.lend_pending(5)] == [third.seq]
    parked = store.next_parked()
    assert parked is not None
    assert parked.seq == first.seq
    assert [(event.seq, event.state, event.error) for event in store.unsent_events()] == [
        (1, "parked", "breaks the connection"),
        (2, "parked", "too large"),
        (3, "pending", None),
    ]
    unsent = store.unsent()
    assert (unsent.pending, unsent.parked, unsent.last_error) == (1, 2, "breaks the connection")
    assert store.retry_parked([second.seq, third.seq]) == [second.seq]
    assert store.retry_parked() == [first.seq]
    assert [(row.seq, row.fresh) for row in store.lend_pending(5)] == [(1, False), (2, False), (3, True)]
    assert store.next_parked() is None


def test_of_what_was_set_aside_the_least_tried_is_next(store: Store) -> None:
    store.enroll(ANA, [])
    for seq in (check_in(store).seq, check_in(store).seq):
        store.mark_failed(seq, "too large", park=True)
    for expected in (1, 2, 1):
        row = store.next_parked()
        assert row is not None
        assert row.seq == expected
        store.mark_failed(row.seq, "too large")


def test_the_last_number_outlives_its_row(store: Store) -> None:
    assert store.last_seq() is None
    assert store.kept_from_seq() is None
    store.enroll(ANA, [])
    store.mark_sent([check_in(store).seq, check_in(store).seq])
    assert store.prune(1, now_ms=NOW_MS + DAY_MS * 3) == 2
    assert (store.last_seq(), store.kept_from_seq()) == (2, None)


def test_what_is_unsent_is_found_without_a_look_at_what_was_sent(store: Store) -> None:
    with store._reading() as db:
        plan = str(db.execute("EXPLAIN QUERY PLAN " + _outbox._UNSENT).fetchall())
        assert "COVERING INDEX outbox_unsent" in plan
        for sql in (_outbox._PENDING, _outbox._SELECT + " WHERE o.state <> 'sent' AND o.state = 'parked'"):
            plan = str(db.execute("EXPLAIN QUERY PLAN " + sql.replace("?", "1")).fetchall())
            assert "USING INDEX outbox_unsent (state=?)" in plan


def test_replays_are_remembered_and_go_on(path: Path) -> None:
    with Store.open(path) as store:
        store.enroll(ANA, [])
        events = [check_in(store) for _ in range(5)]
        store.mark_sent([event.seq for event in events[:4]])
        assert store.next_replay(10) is None
        assert store.request_replay("a", 2, 99) is None
        assert store.request_replay("a", 1, 1) == "obeyed before"
        assert store.request_replay("b", 1, 1) is None
        batch = store.next_replay(2)
        assert batch is not None
        assert (batch.command_id, [row.seq for row in batch.rows]) == ("a", [2, 3])
        store.advance_replay("a", 4)
    with Store.open(path) as store:
        batch = store.next_replay(2)
        assert batch is not None
        assert [row.seq for row in batch.rows] == [4]  # 5 has not been sent: it will be, anyway
        store.advance_replay("a", None)
        batch = store.next_replay(2)
        assert batch is not None
        assert batch.command_id == "b"
        store.advance_replay("b", 2)
        assert store.next_replay(2) is None
        assert store.request_replay("b", 1, 1) == "obeyed before"


def test_more_wishes_than_can_be_answered_are_not_heard(store: Store) -> None:
    store.enroll(ANA, [])
    check_in(store)
    for number in range(_outbox.MAX_WAITING_REPLAYS):
        assert store.request_replay(f"r{number}", 1, 5) is None
    assert store.request_replay("one-too-many", 1, 5) == "100 others wait"
    store.advance_replay("r0", None)
    assert store.request_replay("one-too-many", 1, 5) is None


def test_a_wish_for_what_is_not_kept_leaves_nothing_in_the_store(store: Store) -> None:
    """Whoever may ask must not be able to fill the card by asking."""
    store.enroll(ANA, [])
    check_in(store)
    files = (store.path, store.path.with_name("kiosk.db-wal"))
    before = [file.read_bytes() for file in files]
    for number in range(300):
        refusal = store.request_replay(f"{number:064d}", 9_000_000_000_000_000, 9_000_000_000_000_000)
        assert refusal == "none of these events is kept"
    assert [file.read_bytes() for file in files] == before
    assert store.row_counts()["replays"] == 0
    assert store.request_replay("a-later-wish", 1, 9_000_000_000_000_000) is None


def test_no_wish_is_heard_while_space_is_short(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.enroll(ANA, [])
    check_in(store)
    with monkeypatch.context() as short:
        short.setattr(store, "limits", Limits(min_free_mib=1 << 40))
        assert store.request_replay("a", 1, 1) == "too little is free on the store's disk"
    assert store.row_counts()["replays"] == 0
    assert store.request_replay("a", 1, 1) is None


def test_a_bounded_number_of_wishes_is_remembered_the_latest_and_those_that_wait(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_outbox, "MAX_REMEMBERED_REPLAYS", 3)
    store.enroll(ANA, [])
    check_in(store)
    assert store.request_replay("waits", 1, 1) is None
    for number in range(6):
        assert store.request_replay(f"r{number}", 1, 1) is None
        store.advance_replay(f"r{number}", None)
    # The last one was answered after it had been noted.
    assert store.row_counts()["replays"] == 1 + 3 + 1
    for known in ("waits", "r5", "r4", "r3", "r2"):
        assert store.request_replay(known, 1, 1) == "obeyed before"
    assert store.request_replay("r0", 1, 1) is None


def test_so_many_wishes_are_heard_a_day(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_replay_limits, "MOST_COMMANDS_A_DAY", 5)
    store.enroll(ANA, [])
    check_in(store)
    for number in range(5):
        assert store.request_replay(f"r{number}", 1, 1) is None
        store.advance_replay(f"r{number}", None)
    assert store.request_replay("one-too-many", 1, 1) == "5 were obeyed within 24 hours"
    assert store.row_counts()["replays"] == 5


def test_a_long_log_is_sent_again_three_times_a_day_and_gaps_beside_it() -> None:
    limits, kept = ReplayLimits(), 400_000
    for hour in range(2):
        assert limits.refusal(kept, kept, hour * 3600.0) is None
        limits.grant(kept, hour * 3600.0)
    for gap in range(900):
        assert limits.refusal(5, kept, 8000.0 + gap) is None, "a consumer cannot fill its gaps"
        limits.grant(5, 8000.0 + gap)
    assert "more than 3 times all" in (limits.refusal(kept, kept, 9000.0) or "")
    # A day after the first.
    assert limits.refusal(kept, kept, DAY_S) is None


def test_a_short_log_may_be_sent_again_more_often_and_a_range_counts_as_what_is_kept_of_it(store: Store) -> None:
    store.enroll(ANA, [])
    for _ in range(10):
        check_in(store)
    for number in range(20):
        assert store.request_replay(f"r{number}", 1, 9_000_000_000_000_000) is None
        store.advance_replay(f"r{number}", None)
    limits = ReplayLimits()
    limits.grant(FREE_EVENTS_A_DAY, 0.0)
    assert limits.refusal(1, 10, 1.0) is not None


class OutboxMachine(RuleBasedStateMachine):
    """Whatever happens, the oldest unsent event is next, and numbers have no gap."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store.open(self.folder / "k.db")
        self.store.enroll(ANA, [])
        self.committed = 0
        self.unsent: list[int] = []

    @rule()
    def commit(self) -> None:
        event = check_in(self.store, at=moment(NOW_MS + self.committed))
        self.committed += 1
        assert event.seq == self.committed
        self.unsent.append(event.seq)

    @rule()
    def fail_to_commit(self) -> None:
        with contextlib.suppress(StoreError), self.store._writing() as db:
            db.execute(
                "INSERT INTO attendance SELECT NULL, 'x', 'x', 'x', 'x', 'x', 0, 'x', 0, 'x', 'x', 'x', NULL, NULL"
            )
            raise StoreError("stop")

    @precondition(lambda self: self.unsent)
    @rule()
    def send(self) -> None:
        self.store.mark_sent([self.unsent.pop(0)])

    @precondition(lambda self: self.unsent)
    @rule()
    def refuse(self) -> None:
        self.store.mark_failed(self.unsent[0], "refused")

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store.open(self.folder / "k.db")

    @rule(days=st.integers(1, 5))
    def prune(self, days: int) -> None:
        self.store.prune(days, now_ms=NOW_MS + 3 * DAY_MS)

    @invariant()
    def oldest_unsent_is_next(self) -> None:
        row = self.store.next_pending()
        assert (row.seq if row else None) == (self.unsent[0] if self.unsent else None)
        assert self.store.outbox_counts().pending == len(self.unsent)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)


OutboxMachine.TestCase.settings = settings(
    max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestOutboxMachine = OutboxMachine.TestCase


# --- several at once


def test_changed_tells_other_connections_writes_only(store: Store, path: Path) -> None:
    assert not store.changed()
    store.enroll(ANA, [])
    assert not store.changed()
    with Store.open(path) as other:
        other.enroll(SubjectId("E2"), [])
    assert store.changed()
    assert not store.changed()


def test_threads_share_a_store(store: Store) -> None:
    store.enroll(ANA, [])
    failures: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(25):
                check_in(store)
                store.next_pending()
                store.attendance(limit=1)
        except Exception as error:  # noqa: BLE001 - whatever happens in a thread is this test's result
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [row.seq for row in store.attendance()] == list(range(1, 101))


def _write_many(path: Path, count: int) -> None:
    with Store.open(path) as store:
        for _ in range(count):
            check_in(store)
            store.checkpoint()


def test_processes_take_turns(store: Store, path: Path) -> None:
    store.enroll(ANA, [])
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write_many, args=(path, 20)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for _ in range(20):
        check_in(store)
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert [row.seq for row in store.attendance()] == list(range(1, 81))
    assert store.integrity_problem() is None


def test_writer_that_never_gets_its_turn_says_so(store: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(path) as other, other._alone():
        monkeypatch.setattr("kiosk.store._connection._BUSY_TIMEOUT_S", 0.05)
        with pytest.raises(StoreError, match="another process has been writing"):
            store.enroll(ANA, [])
    assert store.enroll(ANA, [])
