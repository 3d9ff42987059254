"""Commands run as root in a folder of the service's user, who may have put links there: none is followed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from test_store import ANA, template

from kiosk.errors import KioskError, StoreError
from kiosk.store import KeyFile, Store, _files
from kiosk.store._files import beside, create_private, open_lock

pytestmark = pytest.mark.stories

NOBODY = 65534
OURS = b"root's own\n" * 10

Act = Callable[[Path], None]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root owns what others may not")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that is nobody's business, outside the folder of the store."""
    file = tmp_path / "victim"
    file.write_bytes(OURS)
    file.chmod(0o640)
    return file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    return folder / "kiosk.db"


def plant(link: Path, target: Path) -> None:
    """As the service's user does it."""
    link.symlink_to(target)
    if os.geteuid() == 0:
        os.lchown(link, NOBODY, NOBODY)


def enroll(path: Path) -> None:
    with Store.open(path) as store:
        store.enroll(ANA, [template()])


def take_backup(path: Path) -> None:
    with Store.open(path) as store, store.backups.alone():
        store.backups.take()


def remove(path: Path) -> None:
    with Store.open(path) as store:
        assert store.remove_subject(ANA).complete


def restore(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[:4096] = bytes(4096)
    path.write_bytes(content)
    with Store.open(path, verified=True) as store:
        assert store.restored is not None


def be_daemon(path: Path) -> None:
    with Store.open(path) as store, store.daemon_lock():
        pass


def nothing(path: Path) -> None:
    """Nothing has to be there before."""


@pytest.mark.parametrize(
    ("before", "name", "act", "refused"),
    [
        (nothing, "kiosk.db.lock", enroll, "this is a link"),
        (nothing, "kiosk.db.key.new", enroll, None),
        # SQLite's own doing.
        (enroll, "kiosk.db-wal", enroll, "unable to open"),
        (enroll, "kiosk.db-shm", enroll, "unable to open"),
        (enroll, "kiosk.db.daemon", be_daemon, "this is a link"),
        (enroll, "backups/.lock", take_backup, "this is a link"),
        (take_backup, ".salvage", restore, None),
        (take_backup, ".restoring-unfinished", restore, None),
    ],
)
def test_no_link_beside_the_store_is_followed(
    path: Path,
    victim: Path,
    before: Callable[[Path], None],
    name: str,
    act: Callable[[Path], None],
    refused: str | None,
) -> None:
    before(path)
    link = beside(path, name) if name.startswith((".salvage", ".rest")) else path.parent / name
    link.parent.mkdir(exist_ok=True)
    plant(link, victim)
    about = victim.stat()
    with pytest.raises(KioskError, match=rf"\A[^\n]*{refused}[^\n]*\Z") if refused else contextlib.nullcontext():
        act(path)
    assert victim.read_bytes() == OURS
    now = victim.stat()
    assert (now.st_uid, now.st_gid, now.st_mode) == (about.st_uid, about.st_gid, about.st_mode)


def test_an_unfinished_backup_that_is_a_link_is_replaced(
    path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name has the time in it; whoever knows that puts a link there between cleaning up and creating it."""
    enroll(path)
    real = _files.create_private

    def late(target: Path, owner_of: Path) -> object:
        plant(target, victim)
        return real(target, owner_of)

    monkeypatch.setattr("kiosk.store._backups.create_private", late)
    take_backup(path)
    assert victim.read_bytes() == OURS


def test_whoever_is_faster_every_time_gets_one_line(path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.unlink

    def unlink(target: Path, *, missing_ok: bool = False) -> None:
        real(target, missing_ok=missing_ok)
        plant(target, victim)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(StoreError, match="again and again"):
        create_private(path, path.parent)
    assert victim.read_bytes() == OURS


@as_root
@pytest.mark.parametrize("name", ["backups", "kiosk.db", "kiosk.db.key"])
def test_root_follows_no_link_of_another_user_and_its_own(path: Path, tmp_path: Path, name: str) -> None:
    """Backups, database and key may lie elsewhere, by a link that an administrator made."""
    enroll(path)
    elsewhere = tmp_path / "elsewhere" / name
    elsewhere.parent.mkdir()
    if name == "backups":
        elsewhere.mkdir()
    else:
        (path.parent / name).rename(elsewhere)
    plant(path.parent / name, elsewhere)
    about = elsewhere.stat()
    if name == "kiosk.db.key":
        with Store.open(path) as store:
            assert not store.remove_subject(ANA).complete
            assert "a link that root did not make" in (store.purge_fault or "")
    else:
        with pytest.raises(StoreError, match="a link that root did not make"):
            take_backup(path)
    assert (elsewhere.stat().st_uid, elsewhere.stat().st_gid) == (about.st_uid, about.st_gid)
    os.lchown(path.parent / name, 0, 0)
    if name == "kiosk.db.key":
        with Store.open(path) as store:
            assert store.finish_erasures()
        assert len(KeyFile.of(path).read().keys) == 1
    else:
        take_backup(path)


@as_root
def test_root_writes_to_no_lock_with_a_second_name(path: Path, victim: Path) -> None:
    beside(path, ".lock").hardlink_to(victim)
    with pytest.raises(StoreError, match="a second name"):
        open_lock(beside(path, ".lock"))
    with pytest.raises(StoreError, match="a second name"):
        enroll(path)
    assert (victim.read_bytes(), victim.stat().st_uid) == (OURS, os.getuid())


@as_root
def test_what_root_creates_for_the_service_belongs_to_it(path: Path) -> None:
    take_backup(path)
    for file in (path.parent / "backups", path.parent / "backups" / ".lock"):
        assert file.stat().st_uid == NOBODY
