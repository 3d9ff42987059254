"""A store and another version of the kiosk: a backup before it is brought up to date, and going back."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlite_utils import Database
from test_store import ANA, check_in, template
from test_store_disk import mount, occupy, run

from kiosk import integrity, migrations
from kiosk.errors import StoreError
from kiosk.store import Store, describe_damage


def _add_nickname(db: Database) -> None:
    """As a step of a later version may look: the digests cover a column that this version does not know."""
    db.execute("ALTER TABLE subjects ADD COLUMN nickname TEXT")
    integrity.seal(db, "subjects", columns=integrity.present(db, "subjects"))


@contextmanager
def newer_kiosk() -> Iterator[None]:
    steps = (*migrations.STEPS, _add_nickname)
    columns = {**integrity.COLUMNS, "subjects": (*integrity.COLUMNS["subjects"], "nickname")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrations, "STEPS", steps)
        patch.setattr(migrations.migrate, "__defaults__", (steps,))
        patch.setattr(migrations.check, "__defaults__", (steps,))
        patch.setattr(migrations.refuse_newer, "__defaults__", (steps,))
        patch.setattr(integrity, "COLUMNS", columns)
        yield


@pytest.fixture
def filled(path: Path) -> Path:
    with Store.open(path) as store:
        store.enroll(ANA, [template()])
        check_in(store)
    return path


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def test_a_backup_is_taken_before_a_store_is_brought_up_to_date(filled: Path) -> None:
    known = len(migrations.STEPS)
    with newer_kiosk(), Store.open(filled, verified=True) as store:
        (backup,) = store.backups.all()
        assert (version(backup.path), version(filled)) == (known, known + 1)
        assert store.restored is None
    with newer_kiosk(), Store.open(filled, verified=True) as store:
        assert store.backups.all() == [backup]


def test_who_keeps_no_backups_gets_none(filled: Path) -> None:
    with newer_kiosk(), Store.open(filled, backs_up=False) as store:
        assert store.backups.all() == []


def test_an_older_kiosk_refuses_a_newer_store_and_names_the_backup_and_goes_back_to_it(filled: Path) -> None:
    with newer_kiosk(), Store.open(filled) as store:
        (backup,) = store.backups.all()
        check_in(store)
        store.backups.take()
    before = filled.read_bytes()
    told = rf"schema version \d+, this program knows only \d+; install the newer .* go back to {backup.path.name} of"
    for verified, writable in ((True, True), (False, True), (False, False)):
        with pytest.raises(StoreError, match=told) as caught:
            Store.open(filled, verified=verified, writable=writable)
        assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match=told):
        describe_damage(filled)
    # Nothing was taken for damage.
    assert filled.read_bytes() == before
    assert not list(filled.parent.glob("*.damaged-*"))
    for file in filled.parent.glob("kiosk.db*"):
        if file.name in {"kiosk.db", "kiosk.db-wal", "kiosk.db-shm"}:
            file.unlink()
    with Store.open(filled, verified=True) as store:
        assert store.restored is not None
        assert store.restored.backup_at == backup.taken_at
        assert [subject.id for subject in store.subjects()] == [ANA]
        # Numbers that were given out after the backup are not given out again.
        assert check_in(store).seq > 100_000


def test_without_a_backup_of_before_it_says_so(filled: Path) -> None:
    with newer_kiosk(), Store.open(filled, backs_up=False):
        pass
    with pytest.raises(StoreError, match="there is no backup of an older version"):
        Store.open(filled, verified=True)


def test_without_room_for_a_backup_it_is_brought_up_to_date_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=8m", "none", disk)
    try:
        with Store.open(disk / "kiosk.db") as store:
            store.enroll(ANA, [template()])
        occupy(disk, leave_bytes=2 << 20)
        with newer_kiosk(), Store.open(disk / "kiosk.db", verified=True) as store:
            assert [subject.id for subject in store.subjects()] == [ANA]
            assert store.backups.all() == []
        assert "no backup was taken before it is brought up to date" in caplog.text
    finally:
        run("umount", "-l", disk)
