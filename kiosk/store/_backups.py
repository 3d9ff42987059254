"""Copies of the store, taken while it is in use: ``backups/`` beside it, one file each, readable by its owner only.

A copy is taken by a connection that only reads, from one state of the store (a snapshot), so that it blocks no writer
and is restarted by none. It is read back and verified in full before it gets its name; an older one is deleted only
after that.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from kiosk import integrity
from kiosk.errors import StoreError
from kiosk.events import utc_text
from kiosk.files import sync
from kiosk.store._damage import find_damage
from kiosk.store._files import (
    beside,
    create_private,
    free_bytes,
    give_to_owner,
    open_folder,
    open_lock,
    open_reading,
)

log = logging.getLogger(__name__)

FOLDER = "backups"
DAMAGED_KEPT = 2
"""So many damaged files are kept when a store is restored: they may hold what a person can still recover."""

_STEP_BYTES = 1 << 20
"""What is written before the disk is given a pause, for the commits of others go to the same one."""
_PAUSE_S = 0.01
_LOCK_TIMEOUT_S = 120.0
_SPARE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Backup:
    """One copy. ``number`` tells the order, for the clock may have been wrong; ``taken_at``: UTC, RFC 3339."""

    path: Path
    number: int
    taken_at: str


def is_backup(path: Path) -> bool:
    """Whether it lies and is called as a backup does."""
    return path.parent.name == FOLDER and re.search(r"-\d{6,}-\d{8}T\d{6}Z\.db$", path.name) is not None


class Backups:
    """The copies of one store."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.folder = store.with_name(FOLDER)
        self._name = re.compile(re.escape(store.stem) + r"-(\d{6,})-(\d{8}T\d{6}Z)\.db")

    def all(self) -> list[Backup]:
        """Newest first."""
        found = []
        # Whoever may not look into the folder may not open the store either, and is told so there.
        with contextlib.suppress(FileNotFoundError, PermissionError):
            for path in self.folder.iterdir():
                match = self._name.fullmatch(path.name)
                if match:
                    found.append(Backup(path, int(match[1]), _written_out(match[2])))
        return sorted(found, key=lambda backup: backup.number, reverse=True)

    def damaged(self) -> list[Path]:
        """Stores that were moved aside, newest first."""
        name = re.compile("(" + re.escape(self.store.name) + r"\.damaged-\d{6}-\d{8}T\d{6}Z)(-wal|-shm)?")
        # Of some there is only a log.
        found = (name.fullmatch(path.name) for path in self.store.parent.glob(f"{self.store.name}.damaged-*"))
        return sorted({self.store.with_name(match[1]) for match in found if match}, reverse=True)

    def name_for_damaged(self, moment: datetime) -> str:
        """The next free one. They are numbered as backups are."""
        newest = self.damaged()[:1]
        number = int(newest[0].name.removeprefix(f"{self.store.name}.damaged-")[:6]) + 1 if newest else 1
        return f"{self.store.name}.damaged-{number:06}-{moment:%Y%m%dT%H%M%SZ}"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else takes or deletes copies meanwhile.

        Raises:
            StoreError: somebody does for too long, or the folder is not to be trusted.
        """
        self.folder.mkdir(mode=0o700, exist_ok=True)
        folder = open_folder(self.folder)
        try:
            give_to_owner(folder, self.store.parent)
            fd = open_lock(self.folder / ".lock", dir_fd=folder)
        finally:
            os.close(folder)
        try:
            give_to_owner(fd, self.store.parent)
            deadline_s = time.monotonic() + _LOCK_TIMEOUT_S
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline_s:
                        raise StoreError(f"{self.folder}: another process takes a backup; try again") from None
                    time.sleep(0.02)
            yield
        finally:
            os.close(fd)

    def take(self, source: sqlite3.Connection | None = None) -> Backup:
        """Take and verify one; the caller holds :meth:`alone`.

        ``source``: a connection that still has what is gone from the folder; by default the file is opened anew.

        Raises:
            StoreError: no room for it, or the store is damaged.
            OSError, sqlite3.Error: it cannot be written.
        """
        self._make_room()
        number = max((backup.number for backup in self.all()), default=0) + 1
        moment = datetime.now(UTC)
        target = self.folder / f"{self.store.stem}-{number:06}-{moment:%Y%m%dT%H%M%SZ}.db"
        unfinished = self.folder / f".{target.name}"
        try:
            create_private(unfinished, self.store if self.store.exists() else self.store.parent).close()
            if source is None:
                with contextlib.closing(open_reading(self.store).conn) as opened:
                    _copy(opened, unfinished)
            else:
                _copy(source, unfinished)
            problem = find_damage(unfinished, still=True)
            if problem is not None:
                raise StoreError(
                    f"{self.store}: the store is damaged ({problem}), no backup was taken of it; "
                    f"restart the kiosk, which restores the newest good one"
                )
            sync(unfinished)
            unfinished.replace(target)
            sync(self.folder)
        finally:
            unfinished.unlink(missing_ok=True)
        return Backup(target, number, _written_out(f"{moment:%Y%m%dT%H%M%SZ}"))

    def keep_newest(self, count: int) -> None:
        """Delete all but so many."""
        for backup in self.all()[count:]:
            backup.path.unlink(missing_ok=True)
        sync(self.folder)

    def delete_damaged(self, *, but: int = 0) -> None:
        """Delete stores that were moved aside, all or all but the newest."""
        for path in self.damaged()[but:]:
            for suffix in ("-wal", "-shm", ""):
                beside(path, suffix).unlink(missing_ok=True)

    def possible(self) -> bool:
        """Whether there may be a file, or one in the making, that an erased person is still in."""
        unfinished = any(beside(self.store, suffix).exists() for suffix in (".salvage", ".restoring"))
        return self.folder.exists() or unfinished or bool(self.damaged())

    def sweep(self) -> None:
        """Delete what was interrupted in the making: copies, and what a restore worked on."""
        for leftover in self.folder.glob(f".{self.store.stem}-*"):
            leftover.unlink(missing_ok=True)
        for suffix in (".salvage", ".restoring", ".restoring-unfinished", ".restoring-unfinished-journal"):
            beside(self.store, suffix).unlink(missing_ok=True)

    def _make_room(self) -> None:
        self.sweep()
        needed = sum(path.stat().st_size for path in (self.store, beside(self.store, "-wal")) if path.exists())
        free = free_bytes(self.folder)
        if free < needed + _SPARE_BYTES:
            raise StoreError(
                f"{self.folder}: no room for a backup: {free >> 20} MiB free, {(needed + _SPARE_BYTES) >> 20} needed; "
                f"free some, or set store.backups.keep lower"
            )


def gallery_state(db: Database) -> tuple[Any, ...]:
    """Changes whenever something is done that the audit log tells of: enrolled, removed, calibrated. Cheap to ask."""
    return (
        *db.execute("SELECT COUNT(*), COALESCE(MAX(id), 0) FROM templates").fetchone(),
        *db.execute("SELECT COALESCE(MAX(id), 0) FROM calibrations").fetchone(),
        *db.execute("SELECT COUNT(*) FROM erasures").fetchone(),
        *db.execute("SELECT COALESCE(MAX(seq), 0) FROM audit").fetchone(),
        tuple(row[0] for row in db.execute("SELECT digest FROM subjects ORDER BY id")),
    )


def _copy(source: sqlite3.Connection, target: Path) -> None:
    """Copy page by page, in steps. The pages keep their numbers, which :mod:`kiosk.store._salvage` makes use of."""
    with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as copy:
        copy.execute("PRAGMA synchronous = OFF")
        copy.execute("PRAGMA journal_mode = OFF")
        # The snapshot: without it every commit of another connection would start the copy anew.
        source.execute("BEGIN")
        source.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()

        (page_bytes,) = source.execute("PRAGMA page_size").fetchone()

        def pause(_status: int, _remaining: int, _total: int) -> None:
            sync(target)
            time.sleep(_PAUSE_S)

        source.backup(copy, pages=max(1, _STEP_BYTES // page_bytes), progress=pause)
        source.execute("COMMIT")
        _mark(copy)


def _mark(copy: sqlite3.Connection) -> None:
    """It is not to be mistaken for the store it was taken of."""
    db = Database(copy, execute_plugins=False)
    integrity.install(db)
    if integrity.mark(db, integrity.SCHEMA) is None:
        return
    # Within the one file; back to the store's own way afterwards, for a restore may need its first page.
    db.execute("PRAGMA journal_mode = DELETE")
    integrity.set_mark(db, integrity.COPY, {"taken_at": utc_text(time.time_ns() // 1_000_000)})
    db.execute("PRAGMA journal_mode = WAL")


def _written_out(compact: str) -> str:
    moment = datetime.strptime(compact, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return utc_text(round(moment.timestamp() * 1000))
