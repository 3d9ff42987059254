"""The thread that takes backups of the store while the daemon works, and finishes what erasures left open."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any

from sqlite_utils import Database

from kiosk.errors import KioskError
from kiosk.store._backups import gallery_state
from kiosk.store._files import open_reading
from kiosk.store._store import Store

log = logging.getLogger(__name__)

_LOOK_S = 30.0
"""A changed gallery is backed up once it has stayed the same from one look to the next: within a minute."""
_RETRY_S = 600.0
_HOUR_S = 3600.0

_State = tuple[Any, ...]


class BackupKeeper:
    """Takes a backup when there is none, when the gallery has changed, and when the newest is ``every_h`` old.

    It works with a reading connection of its own: neither the loop nor a commit ever waits for it. With ``keep`` 0 it
    takes none, and only finishes erasures.
    """

    def __init__(self, store: Store, *, every_h: float, keep: int, look_s: float = _LOOK_S) -> None:
        self._store = store
        self._every_s = every_h * _HOUR_S
        self._keep = keep
        self._look_s = look_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="backups", daemon=True)
        self._next_due_s = 0.0
        self._retry_at_s = 0.0
        self._seen: _State | None = None
        self._backed_up: _State | None = None

    def start(self) -> None:
        self._next_due_s = time.monotonic() + self._remaining_s()
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread; a backup in the making is thrown away with the process, never half of one left."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._look()
            except Exception:  # the thread must outlive a defect; without it there are no backups
                log.exception("looking after the backups failed unexpectedly")
            self._stopping.wait(self._look_s)

    def _look(self) -> None:
        if time.monotonic() < self._retry_at_s:
            return
        try:
            # The receipt stays open until the backups are clean, too.
            finished = self._store.finish_erasures()
            if self._keep and self._due():
                self._take()
        except (KioskError, OSError, sqlite3.Error) as error:
            self._note_fault(str(error))
            self._look_for_damage()
        else:
            self._note_fault(None)
            if not finished:
                self._retry_at_s = time.monotonic() + _RETRY_S

    def _look_for_damage(self) -> None:
        """A backup fails for many reasons. One of them ends the daemon, for only a start restores a store."""
        try:
            problem = self._store.integrity_problem()
        except KioskError:
            # It cannot be read just now.
            return
        if problem is not None:
            self._store.note_damage(problem)

    def _due(self) -> bool:
        with _reader(self._store) as db:
            now = gallery_state(db)
        if self._backed_up is None:
            self._backed_up = self._state_of_newest()
        settled, self._seen = now == self._seen, now
        if self._backed_up is None or time.monotonic() >= self._next_due_s:
            return True
        return now != self._backed_up and settled

    def _take(self) -> None:
        backups = self._store.backups
        with backups.alone():
            started_s = time.monotonic()
            backup = backups.take()
            backups.keep_newest(self._keep)
        self._backed_up = self._state_of_newest()
        self._next_due_s = time.monotonic() + self._every_s
        log.info("backup %s taken in %.1f s", backup.path.name, time.monotonic() - started_s)

    def _state_of_newest(self) -> _State | None:
        newest = self._store.backups.all()[:1]
        if not newest:
            return None
        try:
            with contextlib.closing(open_reading(newest[0].path, still=True).conn) as connection:
                return gallery_state(Database(connection, execute_plugins=False))
        except sqlite3.Error:
            # Of an older version, or no good any more.
            return None

    def _remaining_s(self) -> float:
        """Until the next is due: at once where the newest seems to be from the future, and the clock says nothing."""
        newest = self._store.backups.all()[:1]
        if not newest:
            return 0.0
        age_s = time.time() - newest[0].path.stat().st_mtime
        return max(0.0, self._every_s - age_s) if age_s >= 0 else 0.0

    def _note_fault(self, fault: str | None) -> None:
        if fault is not None:
            self._retry_at_s = time.monotonic() + _RETRY_S
            if fault != self._store.backup_fault:
                log.error("no backup could be taken: %s", fault)
        self._store.backup_fault = fault


@contextlib.contextmanager
def _reader(store: Store) -> Iterator[Database]:
    with contextlib.closing(open_reading(store.path).conn) as connection:
        yield Database(connection, execute_plugins=False)
