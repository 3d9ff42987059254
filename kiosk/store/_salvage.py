"""What can still be read from a damaged database file: every row whose digest says that it is as it was written.

The file itself stays as it is. A copy is repaired as far as reading needs: the committed pages of the write-ahead log
are put in their places, a lost end is filled up, and where the first page (header and definitions) is useless, that of
a backup takes its place. Then each table is read from its beginning, and around what cannot be read.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from sqlite_utils import Database

from kiosk import integrity
from kiosk.store._files import beside, create_private, open_reading
from kiosk.store._wal import WriteAheadLog

_MAGIC = b"SQLite format 3\0"
_FARTHEST = 1 << 40
_MOST_UNSOUND = 10_000
"""So many damaged rows in a row come from a tree that leads in a circle."""
MOST_LOST = 1_000_000
"""An event counter so far above every row that can be read is taken for damage itself."""


@dataclass
class Reading:
    """One table, read row by row; what could not be read is known once all rows have been taken."""

    db: Database
    table: str
    complete: bool = True
    unsound: set[int] = field(default_factory=set)
    """Row ids of the rows that differ from what was written."""
    columns: tuple[str, ...] | None = None
    """What the rows' digests cover; None: what the present version seals."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """The sound rows: forward, with growing steps over what is unreadable, and back towards it."""
        position = last = 0
        step = 1
        while position < _FARTHEST:
            try:
                for row in self._sound("rowid > ? ORDER BY rowid", position):
                    _follow(row["rowid"], last)
                    if step > 1:
                        yield from self._back(row["rowid"], last)
                        step = 1
                    position = last = row["rowid"]
                    yield row
            except sqlite3.DatabaseError:
                self.complete = False
                position += step
                step *= 2
            else:
                break
        if not self.complete:
            yield from self._back(_FARTHEST, last)

    def _back(self, above: int, last: int) -> Iterator[dict[str, Any]]:
        with contextlib.suppress(sqlite3.DatabaseError):
            for row in self._sound("rowid < ? AND rowid > ? ORDER BY rowid DESC", above, last):
                if row["rowid"] >= above:
                    return
                above = row["rowid"]
                yield row

    def _sound(self, where: str, *params: int) -> Iterator[dict[str, Any]]:
        unsound = 0
        for row in self._select(where, *params):
            if row.pop("sound"):
                unsound = 0
                yield row
            elif unsound == _MOST_UNSOUND:
                raise sqlite3.DatabaseError("nothing but damaged rows")
            else:
                unsound += 1
                self.unsound.add(row["rowid"])

    def _select(self, where: str, *params: int) -> Iterator[dict[str, Any]]:
        try:
            cursor = self.db.conn.execute(
                f"SELECT rowid AS rowid, {integrity.sound(self.table, columns=self.columns)} AS sound, *"  # noqa: S608 - names from the code
                f" FROM {self.table} NOT INDEXED WHERE {where}",
                params,
            )
        except UnicodeDecodeError:
            # No text factory is asked for the names of columns.
            raise sqlite3.DatabaseError("damaged column names") from None
        names = [column[0] for column in cursor.description]
        return (dict(zip(names, row, strict=True)) for row in cursor)


@contextlib.contextmanager
def open_damaged(path: Path, backup: Path) -> Iterator[tuple[Database | None, bool]]:
    """A readable copy of a damaged database, None when not even its pages are those of a database; and whether its
    first page (version, definitions) is its own, not the backup's.
    """
    copy = beside(path, ".salvage")
    try:
        if not path.exists() or not path.stat().st_size:
            yield None, False
            return
        with create_private(copy, path) as target:
            with path.open("rb") as source:
                shutil.copyfileobj(source, target)
            _apply_log(path, target)
            target.flush()
            own = _repair(copy, target, backup)
        with _connection(copy) as db:
            yield db, own
    finally:
        copy.unlink(missing_ok=True)


def _follow(rowid: int, last: int) -> None:
    """A tree that is damaged may lead in a circle."""
    if rowid <= last:
        raise sqlite3.DatabaseError("rows out of order")


def highest_seq(db: Database, known: int) -> int | None:
    """What the event counter says; None when it cannot be read, or cannot be right given that ``known`` exists."""
    try:
        found = db.execute("SELECT MAX(seq) FROM sqlite_sequence WHERE name = 'attendance'").fetchone()
        seq = found[0]
    except sqlite3.DatabaseError:
        return None
    return seq if isinstance(seq, int) and known <= seq <= known + MOST_LOST else None


@contextlib.contextmanager
def _connection(path: Path) -> Iterator[Database]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        # What changes with delivery has no digest.
        connection.text_factory = lambda content: content.decode("utf-8", "replace")
        db = Database(connection, execute_plugins=False)
        integrity.install(db)
        # Tolerates definitions that are wrong in part, and a file that is too short.
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("PRAGMA cell_size_check = ON")
        yield db
    finally:
        connection.close()


def _apply_log(path: Path, target: BinaryIO) -> None:
    log = WriteAheadLog.read(path)
    if log is None:
        return
    committed = log.committed()
    most_pages = max((frame.pages for frame in committed), default=0)
    with beside(path, "-wal").open("rb") as source:
        for frame in committed:
            if 0 < frame.page <= most_pages + 1:
                source.seek(frame.offset)
                target.seek((frame.page - 1) * log.page_bytes)
                target.write(source.read(log.page_bytes))


def _repair(copy: Path, target: BinaryIO, backup: Path) -> bool:
    """Make a copy, open as ``target``, readable; whether its first page could stay."""
    with contextlib.closing(open_reading(backup, still=True).conn) as connection:
        db = Database(connection, execute_plugins=False)
        # An earlier version has fewer.
        tables = [table for table in integrity.COLUMNS if integrity.present(db, table)]
    with backup.open("rb") as source:
        header = source.read(100)
        page_bytes = struct.unpack_from(">H", header, 16)[0] or 4096
        source.seek(0)
        first_page = source.read(page_bytes)
    own = _first_page_is_good(copy, header, tables)
    if not own:
        target.seek(0)
        target.write(first_page)
    target.seek(0, 2)
    pages = -(-target.tell() // page_bytes)
    target.truncate(pages * page_bytes)
    # Journal of the old kind (1, 1): the copy has no log. Then the size, valid for the change counter at 24.
    for at, content in ((18, b"\x01\x01"), (28, struct.pack(">I", pages))):
        target.seek(at)
        target.write(content)
    target.seek(24)
    counter = target.read(4)
    target.seek(92)
    target.write(counter)
    return own


def _first_page_is_good(copy: Path, backup_header: bytes, tables: Sequence[str]) -> bool:
    """Whether the header is that of our databases and these tables are defined."""
    with copy.open("rb") as target:
        header = target.read(100)
    # Page size to text encoding, but for what every write changes.
    constant = [slice(0, 18), slice(20, 24), slice(44, 48), slice(56, 60)]
    if any(header[part] != backup_header[part] for part in constant):
        return False
    connection = sqlite3.connect(f"file:{copy}?mode=ro&immutable=1", uri=True)
    try:
        connection.execute("PRAGMA writable_schema = ON")
        for table in tables:
            connection.execute(f"SELECT 1 FROM {table} LIMIT 0")  # noqa: S608 - names from the code
    except sqlite3.DatabaseError:
        return False
    finally:
        connection.close()
    return True
