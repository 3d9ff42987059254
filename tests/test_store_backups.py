"""Backups of a store in use: whole, private, kept in number, taken by themselves, and clean of whoever was erased."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from test_store import ANA, MODEL, OLD, check_in, embedding, template
from test_store_damage import dump, overwrite

from kiosk.biometrics import SubjectId
from kiosk.errors import StoreError
from kiosk.store import Backup, BackupKeeper, Store
from kiosk.store._damage import find_damage

pytestmark = pytest.mark.stories


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "kiosk.db") as store:
        for number in range(10):
            store.enroll(SubjectId(f"E{number}"), [template(number)], name=f"Canary-Name-{number}")
        for _ in range(50):
            check_in(store)
        yield store


def take(store: Store) -> Backup:
    with store.backups.alone():
        return store.backups.take()


def wait_for(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it never happened"
        time.sleep(0.02)


def test_a_backup_is_the_store_private_and_without_a_log(store: Store) -> None:
    backup = take(store)
    assert find_damage(backup.path, still=True) is None
    assert dump(backup.path) == dump(store.path)
    assert store.backups.all() == [backup]
    folder = store.path.parent / "backups"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


def test_the_store_may_be_named_from_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Store.open(Path("kiosk.db")) as store:
        backup = take(store)
        assert [one.path for one in store.backups.all()] == [backup.path]
    assert (tmp_path / "backups" / ".lock").exists()


def test_a_backup_in_place_of_the_store_is_refused_and_restored_from_its_folder(store: Store) -> None:
    backup, path = take(store), store.path
    told = check_in(store).seq
    store.close()
    shutil.copyfile(backup.path, path)
    for verified in (False, True):
        with pytest.raises(StoreError, match=r"this is a backup of .* in place of the store") as caught:
            Store.open(path, verified=verified)
        assert "\n" not in str(caught.value)
    with Store.open(path, writable=False) as reader:
        assert len(reader.subjects()) == 10
        assert reader.copy_problem() is not None
    # What the message says.
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    with Store.open(path, verified=True) as restored:
        assert restored.copy_problem() is None
        assert check_in(restored).seq > told
        assert len(restored.templates(MODEL)) == 10
    with Store.open(path) as again:
        assert again.copy_problem() is None


def test_a_backup_is_not_opened_where_it_lies(store: Store) -> None:
    backup = take(store)
    for writable in (False, True):
        with pytest.raises(StoreError, match="this is a backup, no store"):
            Store.open(backup.path, writable=writable)
    assert sorted(file.name for file in backup.path.parent.iterdir()) == [".lock", backup.path.name]


def test_on_a_new_card_backups_and_key_are_enough(store: Store, tmp_path: Path) -> None:
    backup = take(store)
    told = check_in(store).seq
    card = tmp_path / "card"
    (card / "backups").mkdir(parents=True)
    shutil.copy(backup.path, card / "backups")
    shutil.copy(store.keys.path, card)
    with Store.open(card / "kiosk.db", verified=True) as moved:
        assert len(moved.templates(MODEL)) == 10
        assert check_in(moved).seq > told
        assert "restore" in [row.action for row in moved.audit_rows()]


def test_a_backup_belongs_to_whom_the_store_belongs_to(store: Store) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(store.path, 65534, 65534)
    os.chown(store.path.parent, 65534, 65534)
    backup = take(store)
    assert {file.stat().st_uid for file in (backup.path, backup.path.parent, backup.path.parent / ".lock")} == {65534}


def test_the_newest_are_kept_whatever_the_clock_says(store: Store) -> None:
    taken = [take(store) for _ in range(5)]
    renamed = taken[3].path.with_name("kiosk-000004-19700101T000000Z.db")
    taken[3].path.rename(renamed)
    store.backups.keep_newest(2)
    assert [backup.number for backup in store.backups.all()] == [5, 4]
    assert take(store).number == 6


def test_commits_go_on_while_a_backup_is_taken_and_it_shows_one_moment(store: Store) -> None:
    for number in range(1200):
        store.enroll(SubjectId(f"S{number}"), [template(number)])
    before = len(store.attendance())
    stop, waits_s = threading.Event(), []

    def commit() -> None:
        while not stop.is_set():
            started_s = time.monotonic()
            check_in(store)
            waits_s.append(time.monotonic() - started_s)

    thread = threading.Thread(target=commit)
    thread.start()
    try:
        backup = take(store)
    finally:
        stop.set()
        thread.join()
    during = len(waits_s)
    assert during > 5
    with contextlib.closing(sqlite3.connect(backup.path)) as db:
        (seen,) = db.execute("SELECT COUNT(*) FROM attendance").fetchone()
        assert db.execute("SELECT COUNT(*) FROM outbox").fetchone() == (seen,)
    assert before <= seen <= before + during
    assert len(store.attendance()) == before + during


def test_nothing_is_taken_of_a_damaged_store_and_nothing_deleted(store: Store) -> None:
    backup = take(store)
    store.checkpoint()
    overwrite(store.path, b"Canary-Name-3", b"Canary-Name-2")
    keeper = BackupKeeper(store, every_h=0, keep=1, look_s=0.02)
    keeper.start()
    wait_for(lambda: store.damaged)
    keeper.stop()
    assert "row 4 of subjects differs" in str(store.condition().fault)
    assert "restart the kiosk" in str(store.condition().fault)
    assert store.backups.all() == [backup]


_TAKE_SLOWLY = """
import sys, time
from kiosk.store import Store, _backups
_backups._STEP_BYTES, _backups._PAUSE_S = 4096, 0.05
with Store.open(sys.argv[1], writable=False) as store, store.backups.alone():
    print("taking", flush=True)
    store.backups.take()
"""


def test_a_backup_that_was_killed_half_way_is_never_seen_and_swept_away(store: Store) -> None:
    process = subprocess.Popen([sys.executable, "-c", _TAKE_SLOWLY, str(store.path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "taking\n"
    wait_for(lambda: any(store.backups.folder.glob(".kiosk-*.db")))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert store.backups.all() == []
    assert any(store.backups.folder.glob(".kiosk-*.db"))
    backup = take(store)
    assert {file.name for file in store.backups.folder.iterdir()} == {".lock", backup.path.name}


# --- by themselves


@pytest.fixture
def keep(store: Store) -> Iterator[Callable[..., BackupKeeper]]:
    started: list[BackupKeeper] = []

    def start(**options: float) -> BackupKeeper:
        keeper = BackupKeeper(store, **{"every_h": 24, "keep": 3, "look_s": 0.05} | options)  # type: ignore[arg-type]
        keeper.start()
        started.append(keeper)
        return keeper

    yield start
    for keeper in started:
        keeper.stop()


def test_the_first_is_taken_at_once_and_then_none_without_a_reason(
    store: Store, keep: Callable[..., BackupKeeper]
) -> None:
    keep()
    wait_for(store.backups.all)
    for _ in range(5):
        check_in(store)
    time.sleep(0.5)
    assert len(store.backups.all()) == 1
    assert store.condition().last_backup_at == store.backups.all()[0].taken_at


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.enroll(SubjectId("new"), [template(77)]),
        lambda store: store.enroll(ANA, [template(78)]),
        lambda store: store.rename_subject(ANA, "Anna"),
    ],
    ids=["new subject", "new template", "new name"],
)
def test_a_changed_gallery_is_backed_up_soon(
    store: Store, keep: Callable[..., BackupKeeper], change: Callable[[Store], object]
) -> None:
    take(store)
    keep()
    time.sleep(0.3)
    assert len(store.backups.all()) == 1
    with Store.open(store.path) as other:
        change(other)
    wait_for(lambda: len(store.backups.all()) == 2)
    assert dump(store.backups.all()[0].path)["subjects"] == dump(store.path)["subjects"]
    assert dump(store.backups.all()[0].path)["templates"] == dump(store.path)["templates"]


def test_an_old_backup_is_followed_by_the_next_one(store: Store, keep: Callable[..., BackupKeeper]) -> None:
    old = take(store)
    os.utime(old.path, (time.time() - 90_000,) * 2)
    keep()
    wait_for(lambda: len(store.backups.all()) == 2)
    keep(every_h=0, keep=2)
    wait_for(lambda: store.backups.all()[0].number >= 5)
    assert len(store.backups.all()) <= 3


def test_with_keep_0_none_is_taken(store: Store, keep: Callable[..., BackupKeeper]) -> None:
    keep(keep=0)
    time.sleep(0.3)
    assert not store.backups.folder.exists()


# --- erasure


def everything(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


def test_erasure_covers_backups_and_damaged_files(store: Store) -> None:
    older = [take(store) for _ in range(3)]
    store.checkpoint()
    aside = store.path.with_name(store.backups.name_for_damaged(datetime.now(UTC)))
    aside.write_bytes(store.path.read_bytes())
    assert b"Canary-Name-4" in everything(store.path.parent)
    receipt = store.remove_subject("E4")
    assert receipt.complete
    content = everything(store.path.parent)
    assert b"Canary-Name-4" not in content
    assert embedding(4).tobytes()[:32] not in content
    assert b"Canary-Name-5" in content
    (fresh,) = store.backups.all()
    assert fresh.number == older[-1].number + 1
    assert dump(fresh.path)["subjects"] == dump(store.path)["subjects"]
    assert not aside.exists()


def test_a_receipt_is_open_until_the_backups_are_clean(
    store: Store, keep: Callable[..., BackupKeeper], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backup = take(store)
    monkeypatch.setattr("kiosk.store._backups._LOCK_TIMEOUT_S", 0.1)
    with store.backups.alone():
        assert not store.remove_subject("E4").complete
    assert "another process takes a backup" in str(store.purge_fault)
    assert "Canary" not in caplog.text
    assert b"Canary-Name-4" in backup.path.read_bytes()
    keep(keep=0)
    wait_for(lambda: store.receipts()[0].complete)
    assert b"Canary-Name-4" not in everything(store.path.parent)


def test_a_backup_in_the_making_does_not_bring_the_erased_back(store: Store) -> None:
    process = subprocess.Popen([sys.executable, "-c", _TAKE_SLOWLY, str(store.path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "taking\n"
    wait_for(lambda: any(file.stat().st_size > 8192 for file in store.backups.folder.glob(".kiosk-*.db")))
    take_first = process.poll() is None
    receipt = store.remove_subject("E4")
    assert process.wait() == 0
    process.stdout.close()
    assert take_first
    assert receipt.complete
    assert b"Canary-Name-4" not in everything(store.path.parent)


def test_dropping_another_models_templates_covers_backups(store: Store) -> None:
    store.enroll(ANA, [template(500, OLD), template(501)])
    take(store)
    (old,) = store._rows("SELECT embedding FROM templates WHERE model_id = ?", [OLD])
    assert old["embedding"] in everything(store.path.parent)
    store.drop_templates_except(MODEL)
    assert store.purge()
    assert old["embedding"] not in everything(store.path.parent)


def test_a_store_without_backups_is_erased_from_as_before(store: Store) -> None:
    assert store.remove_subject("E4").complete
    assert not store.backups.folder.exists()


def test_waiting_for_another_backup_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kiosk.store._backups._LOCK_TIMEOUT_S", 0.1)
    with store.backups.alone(), pytest.raises(StoreError, match="another process takes a backup"):
        take(store)


_OPEN_AND_CLOSE = """
import sys
from kiosk.store import Store
with Store.open(sys.argv[1]) as store:
    store.rename_subject("E1", sys.argv[2])
"""


@pytest.mark.parametrize("act", ["verify", "take", "renew"])
def test_looking_at_an_open_store_does_not_end_its_locks(store: Store, act: str) -> None:
    """Closing any file handle of the database would (howtocorrupt.html, 2.2): the next to close took our log away."""
    check_in(store)
    log, index = (store.path.with_name(f"kiosk.db-{name}") for name in ("wal", "shm"))
    inodes = log.stat().st_ino, index.stat().st_ino
    for name in ("Anna", "Anne"):
        if act == "verify":
            assert store.integrity_problem() is None
        elif act == "take":
            take(store)
        else:
            store._trouble.suspect = True
            check_in(store)
        subprocess.run([sys.executable, "-c", _OPEN_AND_CLOSE, str(store.path), name], check=True)
        assert (log.stat().st_ino, index.stat().st_ino) == inodes
        subject = store.subject("E1")
        assert subject is not None
        assert subject.name == name
        assert check_in(store)
    assert find_damage(store.path, log=False) is None
