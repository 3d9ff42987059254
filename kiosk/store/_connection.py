"""One SQLite connection, and the rule that only one connection of all processes writes or checkpoints at a time.

SQLite before 3.51.3 can damage a WAL database when two connections write and checkpoint at the same moment, so
every write transaction, checkpoint and closing of a writer holds a lock on a file beside the database.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlite_utils import Database

from kiosk import integrity, migrations
from kiosk.biometrics import ModelId
from kiosk.errors import KioskError, PermissionDeniedError, StoreError, UnavailableError
from kiosk.events import utc_text
from kiosk.signatures import EventSigner
from kiosk.store import _mentions
from kiosk.store._backups import Backups, is_backup
from kiosk.store._chain import Process
from kiosk.store._damage import find_damage, one_line
from kiosk.store._files import beside, free_bytes, link_flag, open_lock
from kiosk.store._keys import KeyFile, key_for_upgrade
from kiosk.store._limits import DEFAULT_LIMITS, Limits
from kiosk.store._restore import Restored, is_gone, make_sound
from kiosk.store._versions import copy_before_upgrade, telling_way_back
from kiosk.store._wal import PAGE_BYTES

log = logging.getLogger(__name__)

_BUSY_TIMEOUT_S = 10.0
_CHECKPOINT_TIMEOUT_MS = 100
_SLOW_S = 1.0
_KNOWN = b"there is a store\n"
"""In the lock file from the first successful opening on: from then on an empty or missing database is damage."""
_FIX = "set store.path (KIOSK_STORE__PATH) to a place you may write to"
_PRAGMAS = (
    # A check-in exists once committed, power cut or not: anything below FULL loses acknowledged commits in WAL mode.
    "PRAGMA synchronous = FULL",
    # Erased templates are overwritten with zeros; the default depends on how SQLite was built.
    "PRAGMA secure_delete = ON",
    "PRAGMA foreign_keys = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA mmap_size = 0",
)

_SPOILING = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_CALLERS_OWN = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE})

Params = Sequence[object] | Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RunningDaemon:
    """The process that holds a store's daemon lock, and the model it loaded (None: it has not said)."""

    process: str
    model_id: ModelId | None


class Trouble:
    """What is wrong with writing at the moment; told once when it begins and once when it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.quiet = True
        """A command tells its failure itself; a daemon has the log for it."""
        self.damaged = False
        """The file is damaged; only the next start can restore it."""
        self.suspect = False
        """The connection itself may be spoiled: use a new one."""
        self.fault: str | None = None

    def note(self, problem: KioskError, code: int = sqlite3.SQLITE_OK) -> None:
        """A failure of the disk, not of what was asked of it."""
        self.suspect = self.suspect or code in _SPOILING
        self.damaged = self.damaged or code in _DAMAGED
        if code not in _CALLERS_OWN:
            self._begin(str(problem))

    def note_success(self, duration_s: float) -> None:
        """Something was written, in so many seconds."""
        if duration_s > _SLOW_S:
            self._begin(f"{self._path}: writing takes long ({duration_s:.1f} s): is its disk failing or overloaded?")
        elif self.fault is not None and not self.damaged:
            if not self.quiet:
                log.info("store: writing works again")
            self.fault = None

    def _begin(self, fault: str) -> None:
        if self.fault is None and not self.quiet:
            log.error("store: %s", fault)
        self.fault = fault


class Connection:
    """Base of the table classes: opens the file, lends the database under the right locks, translates errors."""

    limits: Limits = DEFAULT_LIMITS
    signer: EventSigner | None = None
    """Who signs the events that are committed here; None: nobody."""

    def __init__(self, path: Path, *, writable: bool, keys: KeyFile | None = None) -> None:
        self.path = path
        self.keys = keys or KeyFile.of(path)
        """The key of the templates."""
        self.writable = writable
        self.backs_up = True
        """Whether a backup is taken before the store is brought up to date."""
        self.process: Process = "command"
        """Of which kind this process is, for the audit log."""
        self._thread_lock = threading.RLock()
        self._database: Database | None = None
        self._lock_fd = -1
        self._seen_version = 0
        self._file: tuple[int, int] | None = None
        self._trouble = Trouble(path)
        self.backups = Backups(path)
        """The copies of this store."""
        self.backup_fault: str | None = None
        """Why the last attempt to take a backup failed, as long as none has succeeded since."""
        self.purge_fault: str | None = None
        """What was in the way of the last attempt to leave no trace of what was erased."""
        self.created = False
        """Whether this opening began a new store."""
        self.restored: Restored | None = None
        """What this opening had to restore from a backup."""

    def _open(self, *, verified: bool = False) -> None:
        with telling_way_back(self.path):
            self._open_file(verified=verified)

    def _open_file(self, *, verified: bool) -> None:
        if self.path.is_dir():
            raise StoreError(f"{self.path}: this is a folder, not a database file; {_FIX}")
        if is_backup(self.path):
            raise StoreError(
                f"{self.path}: this is a backup, no store, and must stay as it is; copy it elsewhere to look into it, "
                "to restore it see docs/reliability.md"
            )
        if self.writable:
            self._open_lock_file()
        elif not self.path.is_file():
            if self.backups.all():
                raise StoreError(f"{self.path}: the store is gone; `kiosk run` restores the newest backup")
            raise UnavailableError(
                f"{self.path}: there is no store yet; enroll somebody, or set store.path (KIOSK_STORE__PATH) to yours"
            )
        try:
            with self._translated(), self._alone():
                if self.writable:
                    self._prepare_file(verified=verified)
                self._set_up(self._connect())
                self._note_existence()
        except KioskError:
            self._release_files()
            raise

    def close(self) -> None:
        """Idempotent. The last writer's closing moves the WAL into the database."""
        with self._thread_lock, self._translated():
            if self._database is None:
                return
            with self._alone():
                self._database.conn.close()
            self._database = None
            self._release_files()

    def _renew(self) -> None:
        """A connection that met a broken disk, or whose file is no longer the one of that name, is replaced.

        The old one goes on where there can be no new one yet: reading may still work. A new store is never begun.
        """
        if not self._trouble.suspect and self._file == _identity(self.path):
            return
        old = self._database, self._lock_fd
        self._lock_fd = -1
        try:
            if not beside(self.path, ".lock").exists():
                raise StoreError(f"{self.path}: the store is gone; bring its disk back, or restart the kiosk")
            if is_gone(self.path):
                self._rescue()
                raise self.note_damage("its file is gone or empty")
            self._open()
            self._leave_no_failed_frames()
        except KioskError as error:
            self._database, self._lock_fd = old
            self._trouble.note(error)
            raise
        self._trouble.suspect = False
        self._seen_version = -1
        if old[0] is not None:
            with contextlib.suppress(sqlite3.Error):
                old[0].conn.close()
            os.close(old[1])

    def _rescue(self) -> None:
        """A deleted file lives on for those who have it open: it becomes a backup, and the next start restores that."""
        if self._database is None or self._trouble.damaged:
            return
        try:
            with self.backups.alone():
                self.backups.take(self._database.conn)
        except (KioskError, sqlite3.Error, OSError) as error:
            log.warning("store: %s: what was in the deleted file could not be kept: %s", self.path, one_line(error))

    def _leave_no_failed_frames(self) -> None:
        """What a failed commit left in the write-ahead log must not be taken for one that succeeded, later on."""
        if self._trouble.suspect and self._database is not None:
            with self._translated(), self._alone():
                self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def changed(self) -> bool:
        """Whether another connection has written since the last call (or since opening)."""
        with self._reading() as db:
            version = _data_version(db)
            changed, self._seen_version = version != self._seen_version, version
        return changed

    def checkpoint(self) -> bool:
        """Move the whole WAL into the database and cut it to zero bytes. False while a reader is in the way."""
        with self._reading() as db, self._alone():
            # Nobody at the door waits for somebody who reads.
            db.execute(f"PRAGMA busy_timeout = {_CHECKPOINT_TIMEOUT_MS}")
            try:
                busy: int = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            finally:
                db.execute(f"PRAGMA busy_timeout = {round(_BUSY_TIMEOUT_S * 1000)}")
        return not busy

    def integrity_problem(self) -> str | None:
        """What differs from what was written, None when nothing does. Reads everything but the end of the log."""
        with self._translated():
            return find_damage(self.path, log=False)

    def note_damage(self, problem: str) -> StoreError:
        """Damage was found: from now on the store counts as damaged. Returns the error that says so."""
        error = StoreError(
            f"{self.path}: the store is damaged ({problem}); restart the kiosk, which restores the newest backup"
        )
        self._trouble.note(error, sqlite3.SQLITE_CORRUPT)
        return error

    def last_restore(self) -> Restored | None:
        """What was restored from a backup, however long ago."""
        with self._reading() as db:
            document = integrity.mark(db, integrity.RESTORED)
        return None if document is None else Restored.of(document)

    def copy_problem(self) -> str | None:
        """That this file is a backup put in place of the store; None where it is a store."""
        with self._reading() as db:
            return copy_problem(db, self.path)

    @contextlib.contextmanager
    def daemon_lock(self, model_id: str = "") -> Iterator[None]:
        """Be the one daemon on this store; ends with the process at the latest. ``model_id``: what it recognizes with.

        Raises:
            UnavailableError: another daemon holds it.
        """
        fd = _open_lock(beside(self.path, ".daemon"))
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = _read_owner(fd)
                raise UnavailableError(
                    f"{self.path}: another kiosk daemon (process {owner.process}) uses this store; stop it first, "
                    f"or give this one a store.path of its own"
                ) from None
            os.truncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n{model_id}\n".encode(), 0)
            yield
        finally:
            os.close(fd)

    def running_daemon(self) -> RunningDaemon | None:
        """The daemon on this store, if there is one and this user may know."""
        try:
            fd = os.open(beside(self.path, ".daemon"), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            # Shared, so that two who ask do not take each other for the daemon.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read_owner(fd)
        else:
            return None
        finally:
            os.close(fd)

    def _space_problem(self) -> str | None:
        """Why nothing new is to be written, None while there is room."""
        try:
            free = free_bytes(self.path)
        except OSError as error:
            return f"{self.path}: {(error.strerror or str(error)).lower()}; is its disk there?"
        if free >= self.limits.min_free_mib << 20:
            return None
        return (
            f"{self.path}: only {free / 2**20:.1f} MiB are free on its disk, the last {self.limits.min_free_mib} are "
            f"for what is recorded already (store.min_free_mib); free some"
        )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Database]:
        """One transaction: all of it is on the disk after the block, or nothing of it.

        Also what would bear a loss is flushed: :mod:`kiosk.store._wal` tells damage from a power cut by that.
        """
        started_s = time.monotonic()
        with self._thread_lock:
            if self.writable and self._database is not None:
                self._renew()
            with self._reading() as db, self._alone():
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                    db.execute("COMMIT")
                except BaseException:
                    with contextlib.suppress(sqlite3.Error):
                        db.rollback()
                    raise
            self._trouble.note_success(time.monotonic() - started_s)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Database]:
        with self._thread_lock, self._translated():
            if self._database is None:
                raise StoreError(f"{self.path}: the store is closed")
            yield self._database

    def _rows(self, sql: str, params: Params = ()) -> list[dict[str, Any]]:
        with self._reading() as db:
            return rows(db, sql, params)

    def _open_lock_file(self) -> None:
        """Create the folder (0700) and the lock file, with errors that name what is in the way."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise _os_problem(self.path, error) from error
        self._lock_fd = _open_lock(beside(self.path, ".lock"))

    def _prepare_file(self, *, verified: bool) -> None:
        """Create the database (0600) where there is none yet; refuse or restore one that is damaged."""
        known = os.pread(self._lock_fd, 1, 0) != b""
        try:
            # Before SQLite opens it by its name.
            flag = link_flag(self.path)
            if verified:
                # Nobody may write to the file that is put aside.
                with self.daemon_lock():
                    self.restored = make_sound(self.path, self.keys, existed=known, signer=self.signer)
            elif is_gone(self.path) and (known or self.backups.all()):
                raise StoreError(
                    f"{self.path}: the store that was here is gone or empty; `kiosk run` restores the newest backup "
                    f"(to start a new one, move {self.path.name}* and {self.backups.folder.name}/ away)"
                )
            # One that is there is not opened here: closing it would end the locks that an open connection holds.
            if not self.path.exists():
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flag, 0o600))
                self.created = True
            elif not os.access(self.path, os.W_OK, effective_ids=True):
                os.close(os.open(self.path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise _os_problem(self.path, error) from error

    def _note_existence(self) -> None:
        self._file = _identity(self.path)
        if self.writable and os.pread(self._lock_fd, 1, 0) == b"":
            os.pwrite(self._lock_fd, _KNOWN, 0)
            os.fsync(self._lock_fd)

    def _connect(self) -> sqlite3.Connection:
        mode = "rw" if self.writable else "ro"
        return sqlite3.connect(
            f"file:{quote(str(self.path))}?mode={mode}",
            uri=True,
            timeout=_BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )

    def _set_up(self, connection: sqlite3.Connection) -> None:
        try:
            db = Database(connection, execute_plugins=False)
            integrity.install(db)
            _mentions.install(db)
            version = migrations.check(db, self.path)
            if self.writable:
                _refuse_copy(db, self.path)
                for pragma in (f"PRAGMA page_size = {PAGE_BYTES}", "PRAGMA journal_mode = WAL", *_PRAGMAS):
                    db.execute(pragma)
                self._upgrade(db, version)
            elif version < len(migrations.STEPS):
                raise StoreError(
                    f"{self.path}: the store is of an older version; `kiosk run` brings it up to date, and so does "
                    "`kiosk outbox retry`, which needs neither camera nor broker"
                )
            self._seen_version = _data_version(db)
        except (sqlite3.Error, KioskError):
            connection.close()
            raise
        self._database = db

    def _upgrade(self, db: Database, version: int) -> None:
        old = 0 < version < len(migrations.STEPS)
        daemon = self.running_daemon() if old else None
        if daemon is not None:
            raise UnavailableError(
                f"{self.path}: a kiosk daemon of an older version (process {daemon.process}) uses this store; "
                f"restart it first, which brings the store up to date"
            )
        key = None
        if old and version < migrations.ENCRYPTED_SINCE:
            if version >= migrations.SEALED_SINCE and integrity.damaged_rows(db, "templates"):
                raise StoreError(
                    f"{self.path}: the store is damaged, and was not brought up to date; `kiosk run` restores the "
                    "newest backup when it starts"
                )
            key = key_for_upgrade(self.keys, db, self.path)
        if old and self.backs_up:
            copy_before_upgrade(self.backups, db.conn, version)
        migrations.migrate(db, self.path, key=key)
        if old:
            # An upgrade writes every row.
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process or connection of ours writes meanwhile. A reader needs and takes no lock."""
        if self.writable:
            self._take_file_lock()
        try:
            yield
        finally:
            if self.writable:
                fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def _take_file_lock(self) -> None:
        deadline = time.monotonic() + _BUSY_TIMEOUT_S
        while True:
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StoreError(f"{self.path}: another process has been writing for too long; try again") from None
                time.sleep(0.005)
            else:
                return

    def _release_files(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            problem = _sqlite_problem(self.path, error)
            if self.writable:
                self._trouble.note(problem, _code(error))
            raise problem from error


def rows(db: Database, sql: str, params: Params = ()) -> list[dict[str, Any]]:
    cursor = db.conn.execute(sql, params)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def scalar(db: Database, sql: str, params: Params = ()) -> Any:  # noqa: ANN401 - whatever the column holds
    """First column of the first row, None without a row."""
    row = db.conn.execute(sql, params).fetchone()
    return None if row is None else row[0]


def _refuse_copy(db: Database, path: Path) -> None:
    """A backup in place of the store would give out numbers a second time."""
    problem = copy_problem(db, path)
    if problem is not None:
        raise StoreError(problem)


def copy_problem(db: Database, path: Path) -> str | None:
    """That a file is a backup, and how it becomes a store; None where it is a store."""
    copy = integrity.mark(db, integrity.COPY)
    if copy is None:
        return None
    return (
        f"{path}: this is a backup of {copy['taken_at']} in place of the store, and would give numbers out again; "
        f"move it away, and `kiosk run` restores the newest file in {Backups(path).folder} (docs/reliability.md)"
    )


def time_text(moment: datetime | None) -> str | None:
    """As the tables store times, for comparing with them."""
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ValueError("a time without a zone does not say when")
    return utc_text(round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000))


def prefix_range(prefix: str) -> dict[str, object]:
    """Parameters ``low`` and ``high`` between which all ids that begin with ``prefix`` (lower case hex) lie."""
    return {"low": prefix, "high": prefix + "g"}


def _data_version(db: Database) -> int:
    return int(db.execute("PRAGMA data_version").fetchone()[0])


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _open_lock(path: Path) -> int:
    try:
        return open_lock(path)
    except OSError as error:
        raise _os_problem(path, error) from error


def _read_owner(fd: int) -> RunningDaemon:
    lines = [*os.pread(fd, 512, 0).decode("ascii", "replace").splitlines(), "", ""]
    return RunningDaemon(lines[0].strip(), ModelId(lines[1].strip()) if lines[1].strip() else None)


def _os_problem(path: Path, error: OSError) -> KioskError:
    owner = "run as its owner, or " if error.errno in {errno.EACCES, errno.EPERM} else ""
    what = f"{path}: {(error.strerror or str(error)).lower()}; {owner}{_FIX}"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return PermissionDeniedError(what)
    return StoreError(what)


def _code(error: sqlite3.DatabaseError) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _sqlite_problem(path: Path, error: sqlite3.DatabaseError) -> KioskError:
    match _code(error):
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN:
            return PermissionDeniedError(f"{path}: {error}; run as its owner, or {_FIX}")
        case sqlite3.SQLITE_NOTADB:
            return StoreError(f"{path}: this is not an SQLite database; {_FIX}")
        case sqlite3.SQLITE_CORRUPT:
            return StoreError(
                f"{path}: the database is damaged ({error}); `kiosk run` restores the newest backup when it starts"
            )
        case sqlite3.SQLITE_FULL:
            return StoreError(f"{path}: no space left on its disk; free some, nothing was written")
        case _:
            return StoreError(f"{path}: {error}")
