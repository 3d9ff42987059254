"""The store's schema, as ordered steps. A step that has shipped is never edited; a change is a new step."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sqlite_utils import Database

from kiosk import integrity
from kiosk.errors import StoreError
from kiosk.packing import pack

Step = Callable[[Database], None]


class SealingKey(Protocol):
    """Encrypts an embedding for its row, as :class:`kiosk.store._sealing.Key` does."""

    @property
    def id(self) -> str: ...

    def seal(self, embedding: bytes, row: Mapping[str, object]) -> bytes: ...


APPLICATION_ID = 0x4B494F53
"""Written to the file's header ("KIOS"), so that another program's database is never taken for ours."""

_TABLES = (
    """
    CREATE TABLE subjects (
        id TEXT PRIMARY KEY,
        name TEXT,
        created_at TEXT NOT NULL,
        consent_reference TEXT,
        consent_at TEXT
    ) STRICT
    """,
    """
    CREATE TABLE templates (
        id INTEGER PRIMARY KEY,
        subject_id TEXT NOT NULL REFERENCES subjects(id) ON DELETE CASCADE,
        model_id TEXT NOT NULL,
        embedding BLOB NOT NULL,
        quality TEXT,
        source_sha256 TEXT,
        created_at TEXT NOT NULL
    ) STRICT
    """,
    "CREATE INDEX templates_by_subject ON templates(subject_id)",
    # No reference to subjects: attendance outlives an erased subject, under the bare id.
    # AUTOINCREMENT: a number is not given out again after retention has deleted its row.
    """
    CREATE TABLE attendance (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        event_id TEXT NOT NULL UNIQUE,
        event_type TEXT NOT NULL,
        subject_id TEXT NOT NULL,
        occurred_at TEXT NOT NULL,
        tz TEXT NOT NULL,
        clock_synchronized INTEGER NOT NULL,
        boot_id TEXT NOT NULL,
        boottime_ms INTEGER NOT NULL,
        site TEXT NOT NULL,
        device TEXT NOT NULL,
        evidence TEXT NOT NULL
    ) STRICT
    """,
    "CREATE INDEX attendance_by_subject ON attendance(subject_id, seq)",
    "CREATE INDEX attendance_by_time ON attendance(occurred_at)",
    """
    CREATE TABLE outbox (
        seq INTEGER PRIMARY KEY REFERENCES attendance(seq),
        event_id TEXT NOT NULL UNIQUE,
        topic TEXT NOT NULL,
        payload TEXT NOT NULL,
        state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'sent', 'parked')),
        attempts INTEGER NOT NULL DEFAULT 0,
        last_error TEXT,
        created_at TEXT NOT NULL,
        sent_at TEXT
    ) STRICT
    """,
    "CREATE INDEX outbox_unsent ON outbox(seq) WHERE state <> 'sent'",
    """
    CREATE TABLE erasures (
        receipt_id TEXT PRIMARY KEY,
        subject_id TEXT NOT NULL,
        erased_at TEXT NOT NULL,
        templates_erased INTEGER NOT NULL,
        attendance_kept INTEGER NOT NULL,
        complete INTEGER NOT NULL
    ) STRICT
    """,
)


def _create_tables(db: Database) -> None:
    for statement in _TABLES:
        db.execute(statement)


def _create_rejections(db: Database) -> None:
    # No AUTOINCREMENT: nobody outside ever sees the number.
    db.execute(
        """
        CREATE TABLE rejections (
            number INTEGER PRIMARY KEY,
            event_id TEXT NOT NULL UNIQUE,
            reason TEXT NOT NULL,
            occurred_at TEXT NOT NULL,
            tz TEXT NOT NULL,
            clock_synchronized INTEGER NOT NULL,
            boot_id TEXT NOT NULL,
            boottime_ms INTEGER NOT NULL,
            site TEXT NOT NULL,
            device TEXT NOT NULL,
            evidence TEXT NOT NULL
        ) STRICT
        """
    )
    db.execute("CREATE INDEX rejections_by_time ON rejections(occurred_at)")


def _create_calibrations(db: Database) -> None:
    db.execute(
        """
        CREATE TABLE calibrations (
            id INTEGER PRIMARY KEY,
            model_id TEXT NOT NULL,
            created_at TEXT NOT NULL,
            document TEXT NOT NULL
        ) STRICT
        """
    )


_DELIVERY_TABLES = (
    # Evidence is packed (kiosk.packing). corrects: seq of the event whose time this row corrects. corrected_at: when it
    # really happened, where the kiosk learned that later.
    """
    CREATE TABLE new_attendance (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        event_id TEXT NOT NULL UNIQUE,
        event_type TEXT NOT NULL,
        subject_id TEXT NOT NULL,
        occurred_at TEXT NOT NULL,
        tz TEXT NOT NULL,
        clock_synchronized INTEGER NOT NULL,
        boot_id TEXT NOT NULL,
        boottime_ms INTEGER NOT NULL,
        site TEXT NOT NULL,
        device TEXT NOT NULL,
        evidence BLOB NOT NULL,
        corrects INTEGER,
        corrected_at TEXT
    ) STRICT
    """,
    # The event_id is unique by the other table's; a second index would only wear the disk.
    """
    CREATE TABLE new_outbox (
        seq INTEGER PRIMARY KEY REFERENCES new_attendance(seq),
        event_id TEXT NOT NULL,
        topic TEXT NOT NULL,
        payload TEXT NOT NULL,
        state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'sent', 'parked')),
        attempts INTEGER NOT NULL DEFAULT 0,
        last_error TEXT,
        created_at TEXT NOT NULL,
        sent_at TEXT
    ) STRICT
    """,
    """
    CREATE TABLE new_rejections (
        number INTEGER PRIMARY KEY,
        event_id TEXT NOT NULL UNIQUE,
        reason TEXT NOT NULL,
        occurred_at TEXT NOT NULL,
        tz TEXT NOT NULL,
        clock_synchronized INTEGER NOT NULL,
        boot_id TEXT NOT NULL,
        boottime_ms INTEGER NOT NULL,
        site TEXT NOT NULL,
        device TEXT NOT NULL,
        evidence BLOB NOT NULL
    ) STRICT
    """,
    """
    INSERT INTO new_attendance
    SELECT seq, event_id, event_type, subject_id, occurred_at, tz, clock_synchronized, boot_id, boottime_ms, site,
           device, packed(evidence), NULL, NULL
    FROM attendance
    """,
    # The clock: events that wait, or may be asked for again, say what those made from now on say.
    """
    INSERT INTO new_outbox
    SELECT seq, o.event_id, topic,
           json_set(payload, '$.clock', json_object('boot_id', boot_id, 'boottime_ms', boottime_ms,
                                                    'corrected_by_ms', NULL)),
           state, attempts, last_error, created_at, sent_at
    FROM outbox AS o JOIN attendance USING (seq)
    """,
    """
    INSERT INTO new_rejections
    SELECT number, event_id, reason, occurred_at, tz, clock_synchronized, boot_id, boottime_ms, site, device,
           packed(evidence)
    FROM rejections
    """,
    # Numbers given out stay given out, also those whose rows are gone.
    "DELETE FROM sqlite_sequence WHERE name = 'new_attendance'",
    "INSERT INTO sqlite_sequence SELECT 'new_attendance', seq FROM sqlite_sequence WHERE name = 'attendance'",
    "DROP TABLE outbox",
    "DROP TABLE attendance",
    "DROP TABLE rejections",
    "ALTER TABLE new_attendance RENAME TO attendance",
    "ALTER TABLE new_outbox RENAME TO outbox",
    "ALTER TABLE new_rejections RENAME TO rejections",
    "CREATE INDEX attendance_by_subject ON attendance(subject_id, seq)",
    "CREATE INDEX attendance_by_time ON attendance(COALESCE(corrected_at, occurred_at))",
    """
    CREATE INDEX attendance_uncorrected ON attendance(boot_id)
        WHERE clock_synchronized = 0 AND corrected_at IS NULL
    """,
    # With the state in it, what is unsent is found and counted without a look at the payloads.
    "CREATE INDEX outbox_unsent ON outbox(state, seq) WHERE state <> 'sent'",
    "CREATE INDEX rejections_by_time ON rejections(occurred_at)",
    """
    CREATE TABLE replays (
        command_id TEXT PRIMARY KEY,
        received_at TEXT NOT NULL,
        next_seq INTEGER NOT NULL,
        to_seq INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE INDEX replays_waiting ON replays(received_at) WHERE next_seq <= to_seq",
)


def _prepare_delivery(db: Database) -> None:
    """Packed evidence; corrections of the time, which share the log's numbers; ranges asked for again."""
    db.conn.create_function("packed", 1, lambda text: pack(json.loads(text)), deterministic=True)
    for statement in _DELIVERY_TABLES:
        db.execute(statement)


_FIRST_SEALED = (
    "subjects",
    "templates",
    "attendance",
    "outbox",
    "rejections",
    "replays",
    "calibrations",
    "erasures",
)


def _add_digests(db: Database) -> None:
    db.execute("CREATE TABLE marks (name TEXT PRIMARY KEY, document TEXT NOT NULL, digest BLOB) STRICT")
    for table in _FIRST_SEALED:
        db.execute(f"ALTER TABLE {table} ADD COLUMN digest BLOB")
        # Columns that later steps add are not among them yet.
        integrity.seal(db, table, columns=integrity.present(db, table))
    # The numbering so far: rows may have been deleted at its end.
    found = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'attendance'").fetchone()
    integrity.set_mark(db, integrity.SEQ_FLOOR, {"seq": 0 if found is None else found[0]})


def _add_audit(db: Database) -> None:
    # No reference to subjects: what was done with whom outlives an erased subject, under the bare id.
    db.execute(
        """
        CREATE TABLE audit (
            seq INTEGER PRIMARY KEY,
            occurred_at TEXT NOT NULL,
            clock_synchronized INTEGER NOT NULL,
            uid INTEGER NOT NULL,
            login TEXT,
            sudo_user TEXT,
            process TEXT NOT NULL,
            action TEXT NOT NULL,
            subject_id TEXT,
            details TEXT NOT NULL,
            hash TEXT NOT NULL,
            digest BLOB
        ) STRICT
        """
    )
    integrity.set_mark(db, integrity.AUDIT_HEAD, {"seq": 0, "hash": ""})


def _add_consent_terms(db: Database) -> None:
    """Which text was agreed to, and until which day (included)."""
    sound = integrity.sound("subjects", columns=integrity.present(db, "subjects"))
    for column in ("consent_version", "consent_until"):
        db.execute(f"ALTER TABLE subjects ADD COLUMN {column} TEXT")
    # A row that was damaged before stays so: a new digest would vouch for it.
    integrity.seal(db, "subjects", sound, columns=integrity.present(db, "subjects"))


_ENCRYPTED_TEMPLATES = (
    # embedding: sealed by the key of that id (kiosk.store._sealing); the key itself is not in the store.
    """
    CREATE TABLE new_templates (
        id INTEGER PRIMARY KEY,
        subject_id TEXT NOT NULL REFERENCES subjects(id) ON DELETE CASCADE,
        model_id TEXT NOT NULL,
        embedding BLOB NOT NULL,
        quality TEXT,
        source_sha256 TEXT,
        created_at TEXT NOT NULL,
        key_id TEXT NOT NULL,
        digest BLOB
    ) STRICT
    """,
    """
    INSERT INTO new_templates (id, subject_id, model_id, embedding, quality, source_sha256, created_at, key_id)
    SELECT id, subject_id, model_id,
           sealed_template(id, subject_id, model_id, embedding, quality, source_sha256, created_at),
           quality, source_sha256, created_at, sealing_key()
    FROM templates
    """,
    # Secure deletion overwrites the whole of its pages, with whatever they held before.
    "DROP TABLE templates",
    "ALTER TABLE new_templates RENAME TO templates",
    "CREATE INDEX templates_by_subject ON templates(subject_id)",
)


def _encrypt_templates(db: Database) -> None:
    """The caller has seen to it that none is damaged: sealed, it would look sound."""
    any_there = db.execute("SELECT EXISTS (SELECT 1 FROM templates)").fetchone()[0]
    db.execute("PRAGMA secure_delete = ON")
    for statement in _ENCRYPTED_TEMPLATES:
        db.execute(statement)
    integrity.seal(db, "templates", columns=integrity.present(db, "templates"))
    if any_there:
        # The write-ahead log and the backups hold them as they were; kiosk.store clears those.
        integrity.set_mark(db, integrity.STALE_KEYS, {"key_ids": []})


def _add_codes(db: Database) -> None:
    """The second way in; and events say from now on which way somebody came."""
    # Number and hash are unique by the store's rule, not by a constraint: a restore brings together rows of two times.
    db.execute(
        """
        CREATE TABLE codes (
            id TEXT PRIMARY KEY,
            subject_id TEXT NOT NULL REFERENCES subjects(id) ON DELETE CASCADE,
            kind TEXT NOT NULL CHECK (kind IN ('pin', 'badge')),
            number INTEGER,
            salt BLOB NOT NULL,
            hash BLOB NOT NULL,
            failures INTEGER NOT NULL DEFAULT 0,
            created_at TEXT NOT NULL,
            digest BLOB
        ) STRICT
        """
    )
    name_methods(db)


def name_methods(db: Database) -> None:
    """Say in events of earlier versions that it was a face, for they may be sent, or asked for again, from now on."""
    # A row that is damaged is left as it is, for its digest to tell.
    sound = integrity.sound("outbox")
    unnamed = f"""
        SELECT seq FROM outbox
        WHERE {sound} AND json_extract(payload, '$.event_type') IN ('check_in', 'check_out')
          AND json_extract(payload, '$.method') IS NULL
    """  # noqa: S608 - names from the code
    db.execute(f"CREATE TEMP TABLE unnamed AS {unnamed}")
    db.execute(
        "UPDATE outbox SET payload = json_set(payload, '$.method', 'face') WHERE seq IN (SELECT seq FROM unnamed)"
    )
    integrity.seal(db, "outbox", "seq IN (SELECT seq FROM unnamed)")
    db.execute("DROP TABLE unnamed")


def _add_manual_entries(db: Database) -> None:
    """Corrections by hand. added_type, added_at: what happened when, as somebody says who added it; voids: ``seq`` of
    the event that counts no more.
    """
    sound = integrity.sound("attendance", columns=integrity.present(db, "attendance"))
    for column in ("added_type TEXT", "added_at TEXT", "voids INTEGER"):
        db.execute(f"ALTER TABLE attendance ADD COLUMN {column}")
    # A row that was damaged before stays so: a new digest would vouch for it.
    integrity.seal(db, "attendance", sound, columns=integrity.present(db, "attendance"))
    # There are few of them: these cost the other rows nothing.
    db.execute("CREATE INDEX attendance_added ON attendance(subject_id, added_at) WHERE added_at IS NOT NULL")
    db.execute("CREATE INDEX attendance_voids ON attendance(voids) WHERE voids IS NOT NULL")


STEPS: tuple[Step, ...] = (
    _create_tables,
    _create_rejections,
    _create_calibrations,
    _prepare_delivery,
    _add_digests,
    _add_audit,
    _add_consent_terms,
    _encrypt_templates,
    _add_codes,
    _add_manual_entries,
)

SEALED_SINCE = STEPS.index(_add_digests) + 1
"""From this schema version on every row carries a digest."""
AUDITED_SINCE = STEPS.index(_add_audit) + 1
"""From this schema version on there is an audit log."""

ENCRYPTED_SINCE = STEPS.index(_encrypt_templates) + 1
"""From this schema version on templates are encrypted."""


class NewerStoreError(StoreError):
    """The store was brought up to date by a newer version of the kiosk."""


def migrate(db: Database, path: Path, steps: Sequence[Step] = STEPS, *, key: SealingKey | None = None) -> None:
    """Bring the schema up to date, one transaction a step. The caller keeps other writers out.

    ``key``: for the templates of a version that did not encrypt them; None where there are none.

    Raises:
        StoreError: see :func:`check`.
    """
    integrity.install(db)
    _install_sealing(db, key)
    for number in range(check(db, path, steps), len(steps)):
        db.execute("BEGIN IMMEDIATE")
        try:
            steps[number](db)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {number + 1}")
            integrity.note_schema(db, number + 1)
            db.execute("COMMIT")
        except (sqlite3.Error, ValueError):
            db.rollback()
            raise


def check(db: Database, path: Path, steps: Sequence[Step] = STEPS) -> int:
    """The schema version of the file (0: empty).

    Raises:
        StoreError: the file belongs to another program or to a newer version of this one.
    """
    version = _pragma(db, "user_version")
    application = _pragma(db, "application_id")
    if application != APPLICATION_ID and (version or _has_tables(db)):
        raise StoreError(f"{path}: this is another program's database; point store.path (KIOSK_STORE__PATH) elsewhere")
    refuse_newer(version, path, steps)
    return version


def refuse_newer(version: int, path: Path, steps: Sequence[Step] = STEPS) -> None:
    """
    Raises:
        NewerStoreError: the schema version is one that this program does not know.
    """
    if version > len(steps):
        raise NewerStoreError(
            f"{path}: the store has schema version {version}, this program knows only {len(steps)}; install the newer "
            "version of the kiosk again"
        )


def _install_sealing(db: Database, key: SealingKey | None) -> None:
    names = ("id", "subject_id", "model_id", "embedding", "quality", "source_sha256", "created_at")

    def sealed_template(*values: Any) -> bytes:  # noqa: ANN401 - whatever the columns hold
        if key is None:
            raise ValueError("no key")
        row = dict(zip(names, values, strict=True))
        return key.seal(row["embedding"], row)

    db.conn.create_function("sealed_template", len(names), sealed_template)
    db.conn.create_function("sealing_key", 0, lambda: None if key is None else key.id)


def _pragma(db: Database, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def _has_tables(db: Database) -> bool:
    return bool(db.execute("SELECT EXISTS (SELECT 1 FROM sqlite_master)").fetchone()[0])
