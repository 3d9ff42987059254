"""A damaged store is put aside and replaced: the newest good backup, and on top of it what the damaged file still has.

The new file is finished, verified and on the disk under the name ``.restoring`` before the old one is touched; whatever
interrupts the exchange, the next start finishes it. Numbers of events are never reused: numbering goes on above the
highest that backup, damaged file or write-ahead log show.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from kiosk import events, integrity, migrations
from kiosk.biometrics import Candidate, Reason, SubjectId, Verdict
from kiosk.errors import KeyFileError, StoreError
from kiosk.events import (
    AttendanceEvent,
    ManualEntry,
    Method,
    SubjectRef,
    TimeCorrection,
    Void,
    VoidedEvent,
    utc_ms,
)
from kiosk.evidence import CodeEvidence, Evidence, ManualEvidence
from kiosk.packing import pack, unpack
from kiosk.signatures import EventSigner
from kiosk.store import _mentions
from kiosk.store._backups import DAMAGED_KEPT, Backup, Backups
from kiosk.store._chain import Action, Actor, append, record_head, recorded_head
from kiosk.store._damage import find_damage, one_line
from kiosk.store._erasures import erase_again, erase_removed, erase_unseen
from kiosk.store._files import beside, create_private, open_reading, rename
from kiosk.store._keys import KeyFile, key_for_upgrade
from kiosk.store._salvage import MOST_LOST, Reading, highest_seq, open_damaged
from kiosk.store._sealing import BOUND, Key, Refused
from kiosk.store._stale import note_stale
from kiosk.store._versions import telling_way_back
from kiosk.store._wal import WriteAheadLog

log = logging.getLogger(__name__)

SEQ_JUMP = 100_000
"""Numbering goes on so far above the highest known number where nothing shows how high it really was."""

_EMPTY = "it is empty or gone"
_DELIVERY = frozenset({"state", "attempts", "last_error", "sent_at", "corrected_at", "next_seq", "complete"})
"""Columns without a digest that are taken over from the damaged file as they are."""
_CHANGING = frozenset({"outbox", "attendance", "replays"})
"""Tables whose rows go on after they are written; the backup has an earlier state of them."""
_KEYS = {
    "subjects": "id",
    "templates": "id",
    "attendance": "seq",
    "outbox": "seq",
    "rejections": "number",
    "calibrations": "id",
    "replays": "command_id",
    "codes": "id",
    "audit": "seq",
}

_DROP_REMOVED_CODES = """
    DELETE FROM codes
    WHERE subject_id NOT IN (SELECT id FROM subjects)
       OR (SELECT a.action FROM audit AS a WHERE a.subject_id = codes.subject_id AND a.action IN ('code', 'remove_code')
           AND json_extract(a.details, '$.kind') = codes.kind
           ORDER BY a.seq DESC LIMIT 1) = 'remove_code'
"""
# Those of the backup that were given anew since, and of which the damaged file shows nothing any more.
_DROP_REPLACED_CODES = """
    DELETE FROM codes
    WHERE id NOT IN (SELECT value FROM json_each(?))
      AND EXISTS (SELECT 1 FROM audit AS a WHERE a.seq > ? AND a.subject_id = codes.subject_id
                  AND a.action IN ('code', 'remove_code') AND json_extract(a.details, '$.kind') = codes.kind)
"""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did.

    ``salvaged``: rows by table that the damaged file had beyond the backup. ``lost_events``: ranges of ``seq`` that
    neither had; events in it that were never sent are gone. ``unread``: tables in part unreadable, where more may be
    lost. ``next_seq``: where numbering goes on, ``jumped`` when nothing told how high it had been.
    ``taken_for_erased``: people of the backup whom the damaged file did not have, when it did not tell whether they
    were erased. ``kept``: whether there was a file to put aside, as ``damaged_file``.
    """

    at: str
    problem: str
    backup_at: str
    damaged_file: str
    salvaged: dict[str, int]
    lost_events: tuple[tuple[int, int], ...]
    unread: tuple[str, ...]
    next_seq: int
    jumped: bool
    taken_for_erased: int = 0
    kept: bool = True

    @classmethod
    def of(cls, document: dict[str, Any]) -> Restored:
        """From the mark the store keeps."""
        ranges = tuple((first, last) for first, last in document.pop("lost_events"))
        return cls(**{**document, "lost_events": ranges, "unread": tuple(document.pop("unread"))})

    def describe(self) -> str:
        """In one line: what happened, what came back, what did not."""
        salvaged = (
            ", ".join(f"{count} of {table}" for table, count in self.salvaged.items() if count) or "nothing newer"
        )
        lost = ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in self.lost_events)
        parts = [
            f"restored at {self.at} from the backup of {self.backup_at}, for the store was damaged ({self.problem})",
            f"salvaged from the damaged file: {salvaged}",
        ]
        if lost:
            parts.append(f"LOST events (seq): {lost}")
        if self.jumped:
            parts.append("LOST, too: whatever else was recorded after that backup; how much cannot be told")
        if not lost and not self.jumped:
            parts.append("no event is known to be lost")
        if self.unread:
            parts.append(f"in part unreadable, so that more may be lost since the backup: {', '.join(self.unread)}")
        if self.taken_for_erased:
            parts.append(
                f"people of the backup who were there no more, and are taken for erased: {self.taken_for_erased} "
                "(`kiosk audit list` has their ids)"
            )
        if self.jumped:
            parts.append(
                f"how far numbering had come cannot be read: it goes on at {self.next_seq}, "
                f"numbers {self.next_seq - SEQ_JUMP} to {self.next_seq - 1} are left out"
            )
        kept = (
            f"what there was of the damaged file is kept as {self.damaged_file}"
            if self.kept
            else "nothing was left of it"
        )
        return "; ".join([*parts, kept])


def make_sound(path: Path, keys: KeyFile, *, existed: bool, signer: EventSigner | None = None) -> Restored | None:
    """Verify a store before it is opened, and restore it when it is damaged. The caller keeps all others out.

    ``existed``: whether there has been a store, so that an empty or missing file is damage. ``signer``: of events that
    have to be made anew.

    Returns:
        What was restored; None when nothing had to be.

    Raises:
        StoreError: it is damaged, and no backup is good; everything is left as it is.
    """
    backups = Backups(path)
    resumed = _resume_exchange(path, backups)
    _roll_back(path)
    problem = _problem(path, existed=existed or bool(backups.all()))
    if problem is None:
        return resumed
    backup = _newest_good(backups)
    if backup is None:
        raise StoreError(f"{path}: the store is damaged ({problem}) and was left as it is; {_no_backup(path, backups)}")
    restored = _prepare(path, keys, problem, backup, signer)
    _finish_exchange(path, backups, restored.damaged_file)
    log.error("%s: %s", path, restored.describe())
    return restored


def describe_damage(path: Path) -> str | None:
    """What is wrong with a store and what can be done about it, for `kiosk check`; None when nothing is.

    Raises:
        StoreError: another program's file, or one of a newer version.
    """
    if path.is_dir() or not os.access(path.parent, os.R_OK | os.X_OK):
        return None
    backups = Backups(path)
    lock = beside(path, ".lock")
    try:
        with telling_way_back(path):
            problem = _problem(path, existed=bool(backups.all()) or (lock.exists() and lock.stat().st_size > 0))
    except sqlite3.DatabaseError:
        # It cannot be read just now: whoever opens it learns why.
        return None
    if problem is None:
        return None
    newest = backups.all()[:1]
    if not newest:
        return f"{path}: the store is damaged ({problem}); {_no_backup(path, backups)}"
    return (
        f"{path}: the store is damaged ({problem}); (re)start `kiosk run`: it restores the backup of "
        f"{newest[0].taken_at}, or an older one, and what can be salvaged"
    )


def _no_backup(path: Path, backups: Backups) -> str:
    return (
        f"there is no good backup in {backups.folder}: move {path.name}* away, and put a backup of yours there, under "
        f"the name it had, or nothing to start empty"
    )


def is_empty(path: Path) -> bool:
    """Whether there is nothing of a store under this name."""
    return is_gone(path) and is_gone(beside(path, "-wal"))


def is_gone(path: Path) -> bool:
    """Whether a file that had content is missing or empty. A store has its first page from its creation on."""
    return not (path.exists() and path.stat().st_size)


def _problem(path: Path, *, existed: bool) -> str | None:
    if is_empty(path):
        return _EMPTY if existed else None
    return _EMPTY if is_gone(path) else find_damage(path)


def _roll_back(path: Path) -> None:
    """Finish what a power cut in the moment of the file's creation began: it had no write-ahead log yet, but a journal.

    Only who may write can do that; everything after this only reads.
    """
    if not beside(path, "-journal").exists():
        return
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()


def _newest_good(backups: Backups) -> Backup | None:
    for backup in backups.all():
        try:
            problem = find_damage(backup.path, still=True)
        except (sqlite3.Error, StoreError) as error:
            problem = one_line(error)
        if problem is None:
            return backup
        log.warning("%s is no good: %s", backup.path, problem)
    return None


def _prepare(path: Path, keys: KeyFile, problem: str, backup: Backup, signer: EventSigner | None) -> Restored:
    """Build the new store beside the old one; under its final name for that once it is complete."""
    unfinished = beside(path, ".restoring-unfinished")
    with create_private(unfinished, backup.path) as target, backup.path.open("rb") as source:
        shutil.copyfileobj(source, target)
    moment = datetime.now(UTC)
    try:
        with contextlib.closing(sqlite3.connect(unfinished, isolation_level=None)) as connection:
            db = Database(connection, execute_plugins=False)
            # One file, nothing beside it that would have to be moved along.
            db.execute("PRAGMA journal_mode = DELETE")
            db.execute("PRAGMA synchronous = EXTRA")
            db.execute("PRAGMA secure_delete = ON")
            integrity.install(db)
            _mentions.install(db)
            old = migrations.check(db, path) < migrations.ENCRYPTED_SINCE
            migrations.migrate(db, path, key=key_for_upgrade(keys, db, unfinished) if old else None)
            with open_damaged(path, backup.path) as (damaged, own_first_page):
                db.execute("BEGIN IMMEDIATE")
                log_now = WriteAheadLog.read(path)
                # What is behind a damaged header of the log may not have been found, and its numbers were given out.
                log_unsound = log_now is not None and not log_now.header_sound
                merge = Merge(db, damaged, keys, log_unsound=log_unsound, own_first_page=own_first_page, signer=signer)
                merge.run()
                restored = Restored(
                    at=f"{moment:%Y-%m-%dT%H:%M:%SZ}",
                    problem=problem,
                    backup_at=backup.taken_at,
                    damaged_file=Backups(path).name_for_damaged(moment),
                    kept=not is_empty(path),
                    salvaged=dict(merge.salvaged),
                    lost_events=tuple(merge.lost_events()),
                    unread=tuple(merge.unread),
                    next_seq=merge.highest + 1,
                    jumped=merge.jumped,
                    taken_for_erased=len(merge.taken_for_erased),
                )
                integrity.set_mark(db, integrity.RESTORED, asdict(restored))
                integrity.clear_mark(db, integrity.COPY)
                merge.log_restore(restored)
                db.execute("COMMIT")
        rest = find_damage(unfinished, still=True)
        if rest is not None:
            raise StoreError(f"{path}: restoring failed: {rest}; the damaged file is where it was")
        rename(unfinished, beside(path, ".restoring"))
    finally:
        for suffix in ("", "-journal"):
            beside(unfinished, suffix).unlink(missing_ok=True)
    return restored


def _resume_exchange(path: Path, backups: Backups) -> Restored | None:
    """Finish what the last start began to exchange. What was only prepared is out of date by now, and thrown away."""
    new = beside(path, ".restoring")
    if not new.exists():
        return None
    if path.exists():
        new.unlink()
        return None
    _finish_exchange(path, backups)
    db = open_reading(path)
    with contextlib.closing(db.conn):
        document = integrity.mark(db, integrity.RESTORED)
    if document is None:
        return None
    restored = Restored.of(document)
    log.error("%s: %s", path, restored.describe())
    return restored


def _finish_exchange(path: Path, backups: Backups, damaged_name: str | None = None) -> None:
    """Put the damaged files aside and the complete new one in their place, from wherever that was interrupted."""
    new = beside(path, ".restoring")
    if not new.exists():
        return
    if damaged_name is None:
        with contextlib.closing(sqlite3.connect(f"file:{new}?mode=ro&immutable=1", uri=True)) as connection:
            (document,) = connection.execute("SELECT document FROM marks WHERE name = 'restored'").fetchone()
        damaged_name = json.loads(document)["damaged_file"]
    aside = path.with_name(damaged_name)
    for suffix in ("", "-wal", "-shm"):
        rename(beside(path, suffix), beside(aside, suffix))
    rename(new, path)
    backups.delete_damaged(but=DAMAGED_KEPT)


class Merge:
    """Takes from a damaged database what the restored backup does not have."""

    def __init__(
        self,
        db: Database,
        damaged: Database | None,
        keys: KeyFile,
        *,
        log_unsound: bool,
        own_first_page: bool = True,
        signer: EventSigner | None = None,
    ) -> None:
        self._db = db
        self._keys = keys
        self._damaged = damaged
        self._own_first_page = own_first_page
        self._signer = signer
        self._log_unsound = log_unsound
        self._before = self._scalar("SELECT COALESCE(MAX(seq), 0) FROM attendance")
        self._audited_before = self._scalar("SELECT COALESCE(MAX(seq), 0) FROM audit")
        self._unsealable = False
        self._subjects_before: dict[str, str] = dict(db.execute("SELECT id, created_at FROM subjects").fetchall())
        self._seen: dict[str, list[str]] = {"subjects": [], "codes": []}
        """Ids that the damaged file has."""
        self.taken_for_erased: list[dict[str, Any]] = []
        """Receipts."""
        self.highest = 0
        self.jumped = False
        self.salvaged: Counter[str] = Counter()
        self.unread: list[str] = []

    def run(self) -> None:
        """All tables; the caller holds the transaction."""
        floor = (integrity.mark(self._db, integrity.SEQ_FLOOR) or {"seq": 0})["seq"]
        numbers = [self._before, floor, self._scalar("SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence")]
        readings: dict[str, Reading] = {}
        if self._damaged is not None:
            # First: nobody who was erased comes back with the backup.
            readings["audit"] = self._take("audit")
            readings["erasures"] = self._take_erasures()
            for table in _KEYS:
                if table not in readings:
                    readings[table] = self._take(table)
            self._mend(readings)
        self._number(numbers, readings)

    def log_restore(self, restored: Restored) -> None:
        """A row behind the end of the audit log: what has gone before may have lost its end, and then it says so.

        Numbers go on above the end that the damaged file recorded, so that what is lost leaves a gap.
        """
        end_known = self._end_of_audit_known() and not self._log_unsound
        known = [head for head in (self._audit_head(self._db), self._audit_head(self._damaged)) if head is not None]
        known += self._db.execute("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").fetchall()
        seq, digest = max(known, key=itemgetter(0), default=(0, ""))
        record_head(self._db, seq, digest)
        details = {
            "backup_at": restored.backup_at,
            "damaged_file": restored.damaged_file if restored.kept else None,
            "log_complete": end_known and self._scalar("SELECT COUNT(*) FROM audit") == seq,
        }
        append(self._db, Actor.present("daemon"), Action.RESTORE, details)
        for receipt in self.taken_for_erased:
            details = {
                "receipt_id": receipt["receipt_id"],
                "templates": receipt["templates_erased"],
                "reason": "restore",
            }
            append(self._db, Actor.present("daemon"), Action.REMOVE, details, subject_id=receipt["subject_id"])

    def _end_of_audit_known(self) -> bool:
        """Whether the damaged file tells where its audit log ends, or that its version had none.

        A version that only the backup tells is no proof: the log may have begun after that.
        """
        if self._damaged is None:
            return False
        return self._audit_head(self._damaged) is not None or (self._own_first_page and self._has_no_audit())

    def _has_no_audit(self) -> bool:
        if self._damaged is None:
            return False
        with contextlib.suppress(sqlite3.DatabaseError):
            (version,) = self._damaged.execute("PRAGMA user_version").fetchone()
            return bool(0 < version < migrations.AUDITED_SINCE and not integrity.present(self._damaged, "audit"))
        return False

    @staticmethod
    def _audit_head(db: Database | None) -> tuple[int, str] | None:
        if db is None:
            return None
        with contextlib.suppress(sqlite3.DatabaseError):
            return recorded_head(db)
        return None

    def _is_older_than(self, table: str) -> bool:
        """Whether the damaged file is of a version that had no such table."""
        if self._damaged is None:
            return False
        try:
            (version,) = self._damaged.execute("PRAGMA user_version").fetchone()
            return 0 < version < len(migrations.STEPS) and not integrity.present(self._damaged, table)
        except sqlite3.DatabaseError:
            return False

    def lost_events(self) -> list[tuple[int, int]]:
        """Ranges above the backup that nothing was found of."""
        last, ranges = self._before, []
        known = self._db.execute("SELECT seq FROM attendance WHERE seq > ? ORDER BY seq", [self._before])
        end = self.highest - SEQ_JUMP if self.jumped else self.highest
        for seq in [*(row[0] for row in known), end + 1]:
            if seq > last + 1:
                ranges.append((last + 1, seq - 1))
            last = seq
        return ranges

    def _take_erasures(self) -> Reading:
        reading = self._reading("erasures")
        erase_again(self._db, reading.rows(), backup_audit_seq=self._audited_before)
        if not _is_whole(reading):
            self.unread.append("erasures")
        return reading

    def _take(self, table: str) -> Reading:
        reading, key = self._reading(table), _KEYS[table]
        if self._is_older_than(table):
            return reading
        rows = reading.rows()
        if table == "templates" and reading.columns is not None and "key_id" not in reading.columns:
            rows = self._encrypted(rows)
        for row in map(partial(self._as_now, table, reading.columns), rows):
            if table in self._seen:
                self._seen[table].append(row["id"])
            have = self._db.execute(f"SELECT digest FROM {table} WHERE {key} = ?", [row[key]]).fetchone()  # noqa: S608
            if have is None:
                self._add(table, row)
            elif have[0] != row["digest"] and table == "templates":
                self._take_template(row)
            elif have[0] != row["digest"]:
                self._update(table, row, [*integrity.COLUMNS[table], "digest"])
                self.salvaged[table] += 1
            elif table in _CHANGING:
                self._update(table, row, [])
        if not _is_whole(reading) or (table == "templates" and self._unsealable):
            self.unread.append(table)
        return reading

    def _add(self, table: str, row: dict[str, Any]) -> None:
        self._insert(table, row)
        self.salvaged[table] += 1

    def _take_template(self, row: dict[str, Any]) -> None:
        """One whose number the backup knows: sealed with another key since, or another one, after that was deleted."""
        same = " AND ".join(f"{column} IS ?" for column in BOUND)
        if self._scalar(f"SELECT COUNT(*) FROM templates WHERE {same}", *(row[column] for column in BOUND)):  # noqa: S608
            self._update("templates", row, ["embedding", "key_id", "digest"])
            return
        # Bound to its number, it has to be sealed again for the new one.
        number = self._scalar("SELECT COALESCE(MAX(id), 0) + 1 FROM templates")
        moved = self._resealed(row, {**row, "id": number})
        if moved is None:
            self._unsealable = True
            return
        self._add("templates", moved)
        integrity.seal(self._db, "templates", "id = ?", [number])

    def _resealed(self, row: dict[str, Any], new: dict[str, Any]) -> dict[str, Any] | None:
        """None where it cannot be read."""
        try:
            ring = self._keys.read()
            key = ring.find(row["key_id"])
            if key is None:
                return None
            embedding = key.unseal(row["embedding"], row)
        except (KeyFileError, Refused):
            return None
        return {**new, "key_id": ring.current.id, "embedding": ring.current.seal(embedding, new)}

    def _encrypted(self, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Templates of a version that did not encrypt, where that is so lately that it may be."""
        key: Key | None = None
        with contextlib.suppress(KeyFileError):
            if not self._keys.exists():
                key = self._keys.create(self._keys.path.parent, adopting=True).current
            else:
                ring = self._keys.read()
                key = ring.current if ring.adopting else None
        for row in rows:
            if key is None:
                self._unsealable = True
                continue
            yield {**row, "key_id": key.id, "embedding": key.seal(row["embedding"], row)}

    def _insert(self, table: str, row: dict[str, Any]) -> None:
        """With what has no digest where it is possible at all, with its defaults where it is not."""
        sealed = {name: row[name] for name in (*integrity.COLUMNS[table], "digest")}
        extra = {name: row[name] for name in _DELIVERY & row.keys()}
        try:
            self._insert_values(table, sealed | extra)
        except sqlite3.IntegrityError:
            self._insert_values(table, sealed)

    def _insert_values(self, table: str, values: dict[str, Any]) -> None:
        marks = ", ".join("?" * len(values))
        self._db.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", list(values.values()))  # noqa: S608

    def _update(self, table: str, row: dict[str, Any], columns: Sequence[str]) -> None:
        names = [*columns, *sorted(_DELIVERY & row.keys())]
        if not names:
            return
        changes = ", ".join(f"{name} = ?" for name in names)
        with contextlib.suppress(sqlite3.IntegrityError):
            self._db.execute(
                f"UPDATE {table} SET {changes} WHERE {_KEYS[table]} = ?",  # noqa: S608 - names from the code
                [*(row[name] for name in names), row[_KEYS[table]]],
            )

    def _mend(self, readings: dict[str, Reading]) -> None:
        """Templates without their subject, which gets its bare id; people erased and codes taken away since the backup;
        events without their other half.
        """
        self._db.execute(
            "INSERT INTO subjects (id, created_at) SELECT subject_id, MIN(created_at) FROM templates"
            " WHERE subject_id NOT IN (SELECT id FROM subjects) GROUP BY subject_id"
        )
        integrity.seal(self._db, "subjects", "digest IS NULL")
        self._erase_removed(readings)
        self._drop_codes(readings)
        migrations.name_methods(self._db)
        outbox = readings["outbox"]
        if not _is_whole(outbox):
            # In their order, for each signed event names the one before it.
            lost = "SELECT * FROM attendance WHERE seq NOT IN (SELECT seq FROM outbox) AND seq > ? ORDER BY seq"
            for row in self._dicts(lost):
                _queue_again(self._db, row, self._signer)
        for row in self._dicts("SELECT * FROM outbox WHERE seq NOT IN (SELECT seq FROM attendance) AND seq > ?"):
            _log_again(self._db, row)
            self.salvaged["attendance"] += 1

    def _erase_removed(self, readings: dict[str, Reading]) -> None:
        """The receipts may be damaged: then the audit log tells who was erased, and where it does not either, that the
        damaged file, whose own table of the people was read as a whole, does not have somebody.
        """
        with contextlib.suppress(sqlite3.DatabaseError):
            mark = integrity.mark(self._damaged, integrity.STALE_KEYS) if self._damaged is not None else None
            if mark is not None:
                note_stale(self._db, mark["key_ids"])
        erase_removed(self._db, backup_subjects=self._subjects_before, backup_audit_seq=self._audited_before)
        told = _is_whole(readings["erasures"]) or self._has_whole_audit()
        if not told and self._own_first_page and not self._log_unsound and _is_whole(readings["subjects"]):
            there = {row[0] for row in self._db.execute("SELECT id FROM subjects")}
            gone = there.intersection(self._subjects_before).difference(self._seen["subjects"])
            self.taken_for_erased = erase_unseen(self._db, gone)

    def _has_whole_audit(self) -> bool:
        """Whether nothing is missing up to the end that the damaged file records."""
        head = self._audit_head(self._damaged)
        return head is not None and not self._log_unsound and self._scalar("SELECT COUNT(*) FROM audit") >= head[0]

    def _drop_codes(self, readings: dict[str, Reading]) -> None:
        """A badge that was lost, and taken away or replaced, must not open again: what the audit log tells of counts,
        and where that has gaps, that the damaged file's own table, read as a whole, has no such code.
        """
        self._db.execute(_DROP_REMOVED_CODES)
        seen = json.dumps(self._seen["codes"])
        self._db.execute(_DROP_REPLACED_CODES, [seen, self._audited_before])
        codes, audit = readings["codes"], readings["audit"]
        log_is_whole = _is_whole(audit) and self._end_of_audit_known()
        table_is_whole = self._own_first_page and _is_whole(codes)
        if table_is_whole and not log_is_whole and not self._is_older_than("codes"):
            self._db.execute("DELETE FROM codes WHERE id NOT IN (SELECT value FROM json_each(?))", [seen])

    def _number(self, numbers: list[int], readings: dict[str, Reading]) -> None:
        attendance = readings.get("attendance")
        numbers += [self._scalar("SELECT COALESCE(MAX(seq), 0) FROM attendance")]
        counter = None
        if self._damaged is not None and attendance is not None:
            with contextlib.suppress(sqlite3.DatabaseError):
                numbers.append((integrity.mark(self._damaged, integrity.SEQ_FLOOR) or {"seq": 0})["seq"])
            counter = highest_seq(self._damaged, max(numbers))
            numbers += [seq for seq in attendance.unsound if 0 < seq <= max(numbers) + MOST_LOST]
        lost_sight = counter is None and (attendance is None or not attendance.complete)
        self.jumped = lost_sight or self._log_unsound
        self.highest = max([*numbers, counter or 0]) + (SEQ_JUMP if self.jumped else 0)
        self._db.execute("DELETE FROM sqlite_sequence WHERE name = 'attendance'")
        self._db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('attendance', ?)", [self.highest])
        integrity.set_mark(self._db, integrity.SEQ_FLOOR, {"seq": self.highest})

    def _reading(self, table: str) -> Reading:
        if self._damaged is None:
            raise RuntimeError("nothing to read")
        columns: tuple[str, ...] = ()
        with contextlib.suppress(sqlite3.DatabaseError):
            columns = integrity.present(self._damaged, table)
        return Reading(self._damaged, table, columns=columns or None)

    def _as_now(self, table: str, columns: tuple[str, ...] | None, row: dict[str, Any]) -> dict[str, Any]:
        """A row of an earlier version as the steps since then would have left it: what they add is empty."""
        if columns is None or len(columns) == len(integrity.COLUMNS[table]):
            return row
        row = {**dict.fromkeys(integrity.COLUMNS[table]), **row}
        return {**row, "digest": integrity.digest(self._db, table, row)}

    def _dicts(self, sql: str) -> list[dict[str, Any]]:
        cursor = self._db.conn.execute(sql, [self._before])
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _scalar(self, sql: str, *params: object) -> Any:  # noqa: ANN401 - whatever the column holds
        return self._db.execute(sql, params).fetchone()[0]


def _is_whole(reading: Reading) -> bool:
    """Whether every row there was could be read, and is as it was written."""
    return reading.complete and not reading.unsound


def _queue_again(db: Database, row: dict[str, Any], signer: EventSigner | None) -> None:
    """The event of an attendance row whose outbox row is lost. It may have been sent: consumers know its id.

    But for the name it is the same, and so is its signature, where the event before it is there as it was.
    """
    # That module rests on the connection, which rests on this one.
    from kiosk.store._attendance import queue_event

    evidence = unpack(row["evidence"])
    common = {name: row[name] for name in ("event_id", "seq", "occurred_at", "tz", "site", "device")}
    if row["corrects"] is not None:
        queue_event(db, TimeCorrection.model_validate({**common, "corrects": evidence["corrects"]}), signer)
        return
    clock = {"boot_id": row["boot_id"], "boottime_ms": row["boottime_ms"]}
    synchronized = bool(row["clock_synchronized"])
    announced = db.execute("SELECT 1 FROM attendance WHERE corrects = ?", [row["seq"]]).fetchone()
    if row["corrected_at"] is not None and announced is None:
        clock["corrected_by_ms"] = utc_ms(row["corrected_at"]) - utc_ms(row["occurred_at"])
        common["occurred_at"], synchronized = row["corrected_at"], True
    common |= {"clock_synchronized": synchronized, "clock": clock}
    if row["voids"] is not None:
        queue_event(db, Void.model_validate({**common, "voids": evidence["voids"]}), signer)
        return
    common["subject"] = SubjectRef(id=row["subject_id"])
    if row["added_at"] is not None:
        adds = {"event_type": row["added_type"], "occurred_at": row["added_at"]}
        queue_event(db, ManualEntry.model_validate({**common, "adds": adds}), signer)
        return
    event = {
        **common,
        "event_type": row["event_type"],
        "method": evidence.get("method", Method.FACE),
        "match": evidence["match"],
        "pad": evidence.get("pad") or {},
    }
    queue_event(db, AttendanceEvent.model_validate(event), signer)


def _log_again(db: Database, row: dict[str, Any]) -> None:
    """The attendance row of an event that waits to be sent, with as much as the event tells."""
    payload = json.loads(row["payload"])
    clock, adds = payload.get("clock") or {}, payload.get("adds") or {}
    about = payload.get("corrects") or payload.get("voids")
    if about is None:
        subject_id = payload["subject"]["id"]
    else:
        found = db.execute("SELECT subject_id FROM attendance WHERE seq = ?", [about["seq"]]).fetchone()
        subject_id = "" if found is None else found[0]
    db.execute(
        "INSERT INTO attendance (seq, event_id, event_type, subject_id, occurred_at, tz, clock_synchronized, boot_id,"
        " boottime_ms, site, device, evidence, corrects, added_type, added_at, voids)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            row["seq"],
            row["event_id"],
            payload["event_type"],
            subject_id,
            payload["occurred_at"],
            payload["tz"],
            int(payload["clock_synchronized"]),
            clock.get("boot_id", ""),
            clock.get("boottime_ms", 0),
            payload["site"],
            payload["device"],
            pack(_evidence_of(payload)),
            payload.get("corrects", {}).get("seq"),
            adds.get("event_type"),
            adds.get("occurred_at"),
            payload.get("voids", {}).get("seq"),
        ],
    )
    integrity.seal(db, "attendance", "seq = ?", [row["seq"]])


def _evidence_of(payload: dict[str, Any]) -> dict[str, Any]:
    match payload["event_type"]:
        case events.TIME_CORRECTION:
            return {"corrects": payload["corrects"]}
        case events.MANUAL_ENTRY:
            # Why, the event does not tell.
            return ManualEvidence(None).document()
        case events.VOID:
            return ManualEvidence(None, VoidedEvent.model_validate(payload["voids"])).document()
    match = payload["match"]
    if match is None:
        # Whether it was a PIN or a badge, the event does not tell.
        return CodeEvidence("code", Reason.MATCH).document()
    return Evidence(
        verdict=Verdict.IDENTIFIED,
        reason=Reason.MATCH,
        threshold=match["threshold"],
        candidates=(Candidate(SubjectId(payload["subject"]["id"]), match["score"]),),
        frames=match["frames"],
        margin=match["margin"],
        gallery_size=match["gallery_size"],
        model=match["model"],
        pad=payload.get("pad"),
    ).document()
