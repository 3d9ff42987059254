"""A store between versions of the kiosk: a backup before it is brought up to date, and the way back to an older one."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from kiosk import migrations
from kiosk.errors import StoreError
from kiosk.migrations import NewerStoreError
from kiosk.store._backups import Backup, Backups
from kiosk.store._damage import one_line
from kiosk.store._files import open_reading

log = logging.getLogger(__name__)


@contextlib.contextmanager
def telling_way_back(path: Path) -> Iterator[None]:
    """Where the block finds that a store is of a newer version, say which backup this version could go on from.

    Raises:
        StoreError: that it is, in one line.
    """
    try:
        yield
    except NewerStoreError as error:
        raise StoreError(f"{error}; {_way_back(path)}") from None


def _way_back(path: Path) -> str:
    newest = next(filter(_known, Backups(path).all()), None)
    if newest is None:
        return f"there is no backup of an older version in {Backups(path).folder} to go back to"
    return (
        f"or go back to {newest.path.name} of {newest.taken_at}, losing what is newer: move {path.name}, "
        f"{path.name}-wal and {path.name}-shm away and start `kiosk run` (docs/updates.md)"
    )


def _known(backup: Backup) -> bool:
    try:
        with contextlib.closing(open_reading(backup.path, still=True).conn) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error:
        return False
    return 0 < int(version) <= len(migrations.STEPS)


def copy_before_upgrade(backups: Backups, source: sqlite3.Connection, version: int) -> None:
    """What a step spoils, or a newer version did, can be undone with it. The caller keeps other writers out.

    Without room for it the upgrade goes on all the same: each step is one transaction, and the door waits.
    """
    if version < migrations.ENCRYPTED_SINCE:
        # Its templates are in the clear, and no copy of that may stay.
        return
    try:
        with backups.alone():
            backup = backups.take(source)
    except (StoreError, sqlite3.Error, OSError) as error:
        log.warning("%s: no backup was taken before it is brought up to date: %s", backups.store, one_line(error))
    else:
        log.warning(
            "%s: brought up to date from schema version %s to %s; as it was it is in %s",
            backups.store,
            version,
            len(migrations.STEPS),
            backup.path.name,
        )
