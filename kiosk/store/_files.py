"""Files beside the store: their names, and how they are written so that a power cut leaves the old or the new one."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from sqlite_utils import Database

from kiosk import integrity
from kiosk.errors import StoreError
from kiosk.files import sync

_ATTEMPTS = 10


def beside(path: Path, suffix: str) -> Path:
    """``kiosk.db`` and ``.lock``: ``kiosk.db.lock``."""
    return path.with_name(path.name + suffix)


def open_reading(path: Path, *, still: bool = False) -> Database:
    """A connection that never writes nor checkpoints. ``still``: nobody writes, so that not even -shm is needed."""
    mode = "ro&immutable=1" if still else "ro"
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
    )
    db = Database(connection, execute_plugins=False)
    integrity.install(db)
    return db


def create_private(path: Path, owner_of: Path) -> BinaryIO:
    """A new, empty file (0600) that belongs to whom the other one belongs to, for root may be the one who asks; open.

    The folder may be that user's, who may have put a link there: what has this name is taken away, not followed.

    Raises:
        StoreError: something of this name appears again and again.
        OSError: it cannot be created.
    """
    for _ in range(_ATTEMPTS):
        path.unlink(missing_ok=True)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            continue
        try:
            give_to_owner(fd, owner_of)
        except BaseException:
            os.close(fd)
            raise
        return os.fdopen(fd, "r+b")
    raise StoreError(f"{path}: another program puts a file of this name there again and again; stop it")


def open_lock(path: Path, *, dir_fd: int | None = None) -> int:
    """A file to lock, created (0600) where there is none; its number.

    Raises:
        StoreError: it is a link, or root would write to what may be another file's second name.
        OSError: it cannot be opened.
    """
    # In a folder that is open it is found by its name alone, however the folder was named.
    place = path if dir_fd is None else path.name
    try:
        fd = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError(f"{path}: this is a link, which no file of the store beside the database may be") from None
        raise
    if os.geteuid() == 0 and os.fstat(fd).st_nlink > 1:
        os.close(fd)
        raise StoreError(f"{path}: this file has a second name, and root does not write to it; remove it")
    return fd


def open_folder(path: Path) -> int:
    """Its number, to open files in it whatever becomes of its name.

    Raises:
        StoreError: root would follow another user's link.
        OSError: it cannot be opened.
    """
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | link_flag(path))


def link_flag(path: Path) -> int:
    """For opening a file that may lie elsewhere: ``O_NOFOLLOW``, but where there is a link to follow.

    Raises:
        StoreError: this process is root's, and somebody else made the link.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return os.O_NOFOLLOW
    if not stat.S_ISLNK(status.st_mode):
        return os.O_NOFOLLOW
    if os.geteuid() == 0 and status.st_uid != 0:
        raise StoreError(
            f"{path}: this is a link that root did not make and does not follow; run this as the user who owns the "
            "store, or give the link to root"
        )
    return 0


def give_to_owner(fd: int, owner_of: Path) -> None:
    """Without effect unless this process is root's. By number: the name may be another file's by now."""
    if os.geteuid() == 0:
        owner = owner_of.stat()
        os.fchown(fd, owner.st_uid, owner.st_gid)


def rename(source: Path, target: Path) -> None:
    """Rename, and wait until that is on the disk. A source that is not there is nothing to do."""
    if source.exists():
        source.replace(target)
        sync(target.parent)


def free_bytes(path: Path) -> int:
    """What an ordinary user may still write to the file system of a file or folder."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
