"""Whether everything in a database file is as it was written."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path

from sqlite_utils import Database

from kiosk import integrity, migrations
from kiosk.store._files import beside, open_reading
from kiosk.store._wal import WriteAheadLog, frames_taken

logger = logging.getLogger(__name__)

_NOT_DAMAGE = frozenset(
    {
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
    }
)


def find_damage(path: Path, *, still: bool = False, log: bool = True) -> str | None:
    """What is wrong with a database file of ours, in words; None when all is well.

    Everything is read: the structure and every index against its table (SQLite's ``integrity_check``), every row
    against its digest, the definitions and the numbering against what was noted of them, and the end of the write-ahead
    log. ``still``: a file of its own that nobody writes, as a backup is. ``log``: look at the log, too; never while
    this process has the database open, for that ends the locks it holds (https://sqlite.org/howtocorrupt.html, 2.2).

    Raises:
        StoreError: another program's file, or one of a newer version.
        sqlite3.DatabaseError: it cannot be read just now, which is not damage.
    """
    try:
        with contextlib.closing(open_reading(path, still=still).conn) as connection:
            db = Database(connection, execute_plugins=False)
            # One state of it, whoever writes meanwhile.
            db.execute("BEGIN")
            problem = _find(db, path)
            db.execute("COMMIT")
            return problem or (_log_problem(db, path) if log and not still else None)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _NOT_DAMAGE:
            raise
        return one_line(error)


def one_line(problem: object) -> str:
    return " ".join(str(problem).split())


def _find(db: Database, path: Path) -> str | None:
    schema = integrity.mark(db, integrity.SCHEMA)
    if schema is None and migrations.check(db, path) >= migrations.SEALED_SINCE:
        return "the record of its definitions is damaged"
    if schema is not None:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == schema["version"]:
            # Its rows may have columns, and so digests, that are not known here: no damage that a restore would mend.
            migrations.refuse_newer(version, path)
    problem = None if schema is None else integrity.schema_problem(db, schema)
    (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if problem is None and verdict != "ok":
        problem = one_line(verdict)
    if problem is not None or schema is None:
        return problem
    # What the mark says is ours: a wrong application id is damage.
    if db.execute("PRAGMA application_id").fetchone()[0] != migrations.APPLICATION_ID:
        return "its application id is damaged"
    return _row_problem(db) or _numbering_problem(db)


def _row_problem(db: Database) -> str | None:
    """The first one and how many more; whose templates they are goes to the log alone, for `health` tells the rest."""
    damaged = {table: integrity.damaged_rows(db, table) for table in integrity.COLUMNS}
    if damaged["templates"]:
        owners = sorted({_owner(db, number) for number in damaged["templates"]})
        logger.warning("damaged templates are of: %s", ", ".join(map(ascii, owners)))
    found = [f"row {number} of {table}" for table, numbers in damaged.items() for number in numbers]
    rest = f" and {len(found) - 1} more rows" if len(found) > 1 else ""
    return f"{found[0]}{rest} differs from what was written" if found else None


def _owner(db: Database, number: int) -> str:
    (subject,) = db.execute("SELECT CAST(subject_id AS BLOB) FROM templates WHERE id = ?", [number]).fetchone()
    return bytes(subject or b"").decode("utf-8", "replace")


def _numbering_problem(db: Database) -> str | None:
    floor = integrity.mark(db, integrity.SEQ_FLOOR)
    if floor is None:
        return "the record of its numbering is damaged"
    highest = db.execute("SELECT COALESCE(MAX(seq), 0) FROM attendance").fetchone()[0]
    counters = [row[0] for row in db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'attendance'")]
    expected = max(highest, floor["seq"])
    return None if counters in ([expected], [] if not expected else [expected]) else "its event counter is damaged"


def _log_problem(db: Database, path: Path) -> str | None:
    log = WriteAheadLog.read(path)
    if log is None or not beside(path, "-shm").exists():
        return None
    db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    taken = frames_taken(path)
    problem = log.problem(*taken)
    if problem is None and log.unfinished(*taken):
        logger.warning("%s: the last transaction in the write-ahead log was not finished and is left out", path)
    return problem
