"""Files beside the store: their names, and how they are written so that a power cut leaves the old or the new one."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from sqlite_utils import Database

from kiosk import integrity


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


def create_private(path: Path, owner_of: Path) -> None:
    """An empty file (0600) that belongs to whom the other one belongs to, for root may be the one who asks."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        give_to_owner(fd, owner_of)
    finally:
        os.close(fd)


def give_to_owner(target: int | Path, owner_of: Path) -> None:
    """Without effect unless this process is root's."""
    if os.geteuid() == 0:
        owner = owner_of.stat()
        os.chown(target, owner.st_uid, owner.st_gid)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def rename(source: Path, target: Path) -> None:
    """Rename, and wait until that is on the disk. A source that is not there is nothing to do."""
    if source.exists():
        source.replace(target)
        sync(target.parent)


def free_bytes(path: Path) -> int:
    """What an ordinary user may still write to the file system of a file or folder."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
