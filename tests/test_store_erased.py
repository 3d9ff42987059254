"""Whoever was erased stays erased when a damaged store is restored from a backup that still has them, with all keys."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_store import MODEL, check_in, template
from test_store_damage import page_bytes

from kiosk import integrity
from kiosk.biometrics import ModelId, SubjectId
from kiosk.store import Action, ErasureReceipt, KeyFile, Store

pytestmark = pytest.mark.stories

ERASED = SubjectId("E1")
NAME = b"Erased Person"
OTHERS = ["E0", "E2", "E3"]


@pytest.fixture
def backed_up(path: Path) -> Path:
    """People, and a backup that has all of them."""
    with Store.open(path) as store:
        for number, subject_id in enumerate([ERASED, *OTHERS]):
            name = NAME.decode() if subject_id == ERASED else f"Name {number}"
            store.enroll(SubjectId(subject_id), [template(number)], name=name)
        store.mark_sent([check_in(store, ERASED, include_name=True).seq])
        with store.backups.alone():
            store.backups.take()
    return path


@contextlib.contextmanager
def somebody_reads(path: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM subjects").fetchall()
        yield


def erase(path: Path, subject_id: str = ERASED) -> ErasureReceipt:
    """As far as a reader in the way lets it: the backup still has the person."""
    with Store.open(path) as store:
        with somebody_reads(path):
            receipt = store.remove_subject(subject_id)
        assert not receipt.complete
        assert NAME in store.backups.all()[0].path.read_bytes()
    return receipt


def alter(path: Path, sql: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        assert db.execute(sql).rowcount


def zero(path: Path, *tables: str) -> None:
    """The first page of each."""
    content = bytearray(path.read_bytes())
    size = page_bytes(bytes(content))
    with contextlib.closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT name, rootpage FROM sqlite_master WHERE type = 'table'").fetchall()
    for name, page in found:
        if name in tables:
            content[(page - 1) * size : page * size] = bytes(size)
    path.write_bytes(content)


def who(store: Store) -> list[str]:
    return sorted(one.subject_id for one in store.templates(MODEL))


def files(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.rglob("*") if file.is_file())


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kiosk.store._connection._BUSY_TIMEOUT_S", 0.1)


def alter_receipt(path: Path) -> None:
    alter(path, "UPDATE erasures SET templates_erased = 7")


def alter_receipt_id(path: Path) -> None:
    alter(path, "UPDATE erasures SET receipt_id = 'another'")


def zero_receipts(path: Path) -> None:
    zero(path, "erasures")


def zero_receipts_and_events(path: Path) -> None:
    zero(path, "erasures", "outbox", "attendance")


@pytest.mark.parametrize("damage", [alter_receipt, alter_receipt_id, zero_receipts, zero_receipts_and_events])
def test_where_the_receipt_is_damaged_the_audit_log_tells(backed_up: Path, damage: Callable[[Path], None]) -> None:
    receipt = erase(backed_up)
    damage(backed_up)
    with Store.open(backed_up, verified=True) as store:
        assert store.restored is not None
        assert "erasures" in store.restored.unread
        assert store.restored.taken_for_erased == 0
        assert (store.subject(ERASED), who(store)) == (None, OTHERS)
        (again,) = store.receipts()
        assert (again.receipt_id, again.subject_id, again.complete) == (receipt.receipt_id, ERASED, False)
        assert again.templates_erased == 1
        assert all("name" not in payload["subject"] for payload in store.event_payloads())
        assert store.finish_erasures()
        assert store.receipts()[0].complete
    assert NAME not in files(backed_up)


def test_where_neither_tells_who_is_there_no_more_is_taken_for_erased(backed_up: Path) -> None:
    erase(backed_up)
    zero(backed_up, "erasures", "audit")
    with Store.open(backed_up, verified=True) as store:
        assert store.restored is not None
        assert {"erasures", "audit"} <= set(store.restored.unread)
        assert store.restored.taken_for_erased == 1
        assert "taken for erased: 1 (" in store.restored.describe()
        assert who(store) == OTHERS
        (receipt,) = store.receipts()
        assert (receipt.subject_id, receipt.templates_erased, receipt.complete) == (ERASED, 1, False)
        last = store.audit_rows()[-1]
        assert (last.action, last.subject_id, last.detail()["reason"]) == (Action.REMOVE, ERASED, "restore")
        assert store.finish_erasures()
    assert NAME not in files(backed_up)


def test_where_nothing_at_all_tells_nobody_is_taken_for_erased(backed_up: Path) -> None:
    """The people cannot be read either: all could be gone for that."""
    erase(backed_up, "E0")
    zero(backed_up, "erasures", "audit", "subjects")
    with Store.open(backed_up, verified=True) as store:
        assert store.restored is not None
        assert {"erasures", "audit", "subjects"} <= set(store.restored.unread)
        assert store.restored.taken_for_erased == 0
        assert who(store) == sorted([ERASED, *OTHERS])
        assert store.receipts() == []


@pytest.mark.parametrize("backup_first", [False, True])
def test_whoever_was_enrolled_anew_stays_although_the_log_lost_that_row(path: Path, *, backup_first: bool) -> None:
    """``backup_first``: before both, and not between."""
    with Store.open(path) as store:
        store.enroll(ERASED, [template(1)], name=NAME.decode())
        if backup_first:
            with store.backups.alone():
                store.backups.take()
        with somebody_reads(path):
            store.remove_subject(ERASED)
        if not backup_first:
            with store.backups.alone():
                store.backups.take()
        store.enroll(ERASED, [template(2)], name="Back Again")
    alter(path, "UPDATE audit SET login = 'x' WHERE seq = (SELECT MAX(seq) FROM audit)")
    alter(path, "UPDATE erasures SET templates_erased = 7")
    with Store.open(path, verified=True) as store:
        assert store.restored is not None
        subject = store.subject(ERASED)
        assert subject is not None
        assert (subject.name, subject.templates) == ("Back Again", 1)
        assert store.finish_erasures()
    assert NAME not in files(path)


def test_an_old_page_brings_nobody_back_whom_the_backup_knows_to_be_erased(backed_up: Path) -> None:
    """What is damaged is the log, which alone told of the erasure; the backup came after it."""
    with Store.open(backed_up) as store:
        old = backed_up.read_bytes()
        with somebody_reads(backed_up):
            store.remove_subject(ERASED)
            with store.backups.alone():
                store.backups.take()
    backed_up.write_bytes(old)
    alter(backed_up, "UPDATE subjects SET name = 'x' WHERE id = 'E0'")
    with Store.open(backed_up, verified=True) as store:
        assert store.restored is not None
        assert who(store) == OTHERS
        assert [receipt.complete for receipt in store.receipts()] == [False]


@pytest.mark.parametrize("marks", ["whole", "damaged"])
def test_the_key_of_whom_the_backup_never_had_is_dropped(backed_up: Path, marks: str) -> None:
    new = SubjectId("new")
    keys = KeyFile.of(backed_up)
    with Store.open(backed_up) as store:
        store.enroll(new, [template(9)])
    erase(backed_up, new)
    ids = [key.id for key in keys.read().keys]
    assert len(ids) == 2
    zero(backed_up, "subjects", *(["marks"] if marks == "damaged" else []))
    with Store.open(backed_up, verified=True) as store:
        assert store.restored is not None
        with store._reading() as db:
            assert integrity.mark(db, integrity.STALE_KEYS)
        assert len(who(store)) == 1 + len(OTHERS)
        assert store.finish_erasures()
        assert [receipt.complete for receipt in store.receipts()] == [True]
        assert len(who(store)) == 1 + len(OTHERS)
    (left,) = keys.read().keys
    # Any of the two may have sealed what is erased.
    assert left.id not in ids


def test_templates_of_a_model_given_up_stay_away_and_their_key_goes(backed_up: Path) -> None:
    """No receipt tells of them, and the mark of their key is all there is to show that it has to go."""
    other = ModelId("other-int8@abcdef")
    with Store.open(backed_up) as store:
        (old,) = KeyFile.of(backed_up).read().keys
        for number, subject_id in enumerate([ERASED, *OTHERS]):
            store.enroll(SubjectId(subject_id), [template(number, other)])
        store.drop_templates_except(other)
    zero(backed_up, "rejections")
    with Store.open(backed_up, verified=True) as store:
        assert store.restored is not None
        assert store.template_models() == {other: 1 + len(OTHERS)}
        assert store.finish_erasures()
        assert len(store.templates(other)) == 1 + len(OTHERS)
    (left,) = KeyFile.of(backed_up).read().keys
    assert left.id != old.id


def test_a_key_that_was_to_go_goes_after_a_restore_too(backed_up: Path) -> None:
    with Store.open(backed_up) as store:
        (old,) = KeyFile.of(backed_up).read().keys
        with store._writing() as db:
            integrity.set_mark(db, integrity.STALE_KEYS, {"key_ids": [old.id]})
    zero(backed_up, "rejections")
    with Store.open(backed_up, verified=True) as store:
        assert store.restored is not None
        assert store.finish_erasures()
        assert len(who(store)) == 1 + len(OTHERS)
    (left,) = KeyFile.of(backed_up).read().keys
    assert left.id != old.id


# Once an erasure is complete, a restore has nothing of it to finish


@pytest.mark.parametrize("sealing", [False, True])
def test_a_restore_after_a_complete_erasure_keeps_the_damaged_file(backed_up: Path, sealing: bool) -> None:
    """The backup was taken in the middle of it, with the receipt open and the key noted."""
    keys = KeyFile(backed_up.with_suffix(".db.key"))
    if sealing:
        secret = backed_up.with_name("master")
        secret.write_bytes(bytes(range(32)))
        secret.chmod(0o600)
        keys = KeyFile(keys.path, secret)
        Store.open(backed_up, keys=keys).close()
    else:
        with Store.open(backed_up) as store:
            assert store.remove_subject(ERASED).complete
    ring = keys.read()
    content = bytearray(backed_up.read_bytes())
    content[4096:16_384] = bytes(255 - byte for byte in content[4096:16_384])
    backed_up.write_bytes(content)
    with Store.open(backed_up, verified=True, keys=keys) as store:
        assert store.restored is not None
        assert backed_up.with_name(store.restored.damaged_file).exists()
        assert store.finish_erasures()
        assert all(receipt.complete for receipt in store.receipts())
    assert backed_up.with_name(store.restored.damaged_file).exists()
    assert keys.read() == ring


def test_a_store_that_was_gone_left_no_file(backed_up: Path) -> None:
    backed_up.unlink()
    with Store.open(backed_up, verified=True) as store:
        assert store.restored is not None
        assert "nothing was left of it" in store.restored.describe()
        assert not backed_up.with_name(store.restored.damaged_file).exists()
