"""A digest in every row, so that nothing in the store is silently wrong.

SQLite's own checks find damaged pages and do not see a bit that has flipped within a value. Each row therefore carries
a digest over those of its values that never change by themselves. What changes with delivery (``state``, ``attempts``,
``sent_at``, ...) is left out; ``state`` must be one of its words, and no single bit makes one of them another.

The digest tells damage, not forgery: who may write the file may write digests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlite_utils import Database

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "subjects": (
        "id",
        "name",
        "created_at",
        "consent_reference",
        "consent_at",
        "consent_version",
        "consent_until",
    ),
    "templates": ("id", "subject_id", "model_id", "embedding", "quality", "source_sha256", "created_at", "key_id"),
    "attendance": (
        "seq",
        "event_id",
        "event_type",
        "subject_id",
        "occurred_at",
        "tz",
        "clock_synchronized",
        "boot_id",
        "boottime_ms",
        "site",
        "device",
        "evidence",
        "corrects",
        "added_type",
        "added_at",
        "voids",
    ),
    "outbox": ("seq", "event_id", "topic", "payload", "created_at"),
    "rejections": (
        "number",
        "event_id",
        "reason",
        "occurred_at",
        "tz",
        "clock_synchronized",
        "boot_id",
        "boottime_ms",
        "site",
        "device",
        "evidence",
    ),
    "replays": ("command_id", "received_at", "to_seq"),
    "calibrations": ("id", "model_id", "created_at", "document"),
    "erasures": ("receipt_id", "subject_id", "erased_at", "templates_erased", "attendance_kept"),
    "audit": (
        "seq",
        "occurred_at",
        "clock_synchronized",
        "uid",
        "login",
        "sudo_user",
        "process",
        "action",
        "subject_id",
        "details",
        "hash",
    ),
    "codes": ("id", "subject_id", "kind", "number", "salt", "hash", "failures", "created_at"),
    "marks": ("name", "document"),
}
"""What each table's digest covers. A step of the migrations that changes this seals the table anew.

A store of an earlier version, or a backup of it, has fewer tables or columns; :func:`present` tells which.
"""

SCHEMA = "schema"
"""Mark: the schema version, and the digest of each table's and index's definition."""
SEQ_FLOOR = "seq_floor"
"""Mark: the highest ``seq`` known to be given out when its row was deleted or lost. Never reused."""
RESTORED = "restored"
"""Mark: what the last restore from a backup brought back and what it did not."""
CHAIN_HEAD = "chain_head"
"""Mark: ``digest`` of the last event, once it was deleted for its age: the next signed event follows from it."""
AUDIT_HEAD = "audit_head"
"""Mark: ``seq`` and ``hash`` of the audit log's last row, so that a cut end shows."""
NOTED = "noted"
"""Mark: the settings and the model that the daemon last noted in the audit log."""
STALE_KEYS = "stale_keys"
"""Mark: ``key_ids`` that sealed templates which have been erased since (``*``: nobody knows which did). There while
keys or copies are left to drop."""
COPY = "copy"
"""Mark: ``taken_at``; this file is a backup, and no store that goes on. A restore takes it away."""
CODE_FAILURES = "code_failures"
"""Mark: the last wrong codes, each with the number it was for and when, by the clock of which boot."""

CLOCK_BELIEVED = "clock_believed"
"""Mark: ``at_ms``, when the clock was believed last for deleting what is old. While it is not: ``seen_ms``, what it
showed at the last look, and ``lasted_ms``, for how long it has gone on."""

_DIGEST_BYTES = 16


def install(db: Database) -> None:
    """Give a connection the SQL function ``row_digest`` that the functions below use."""
    db.conn.create_function("row_digest", -1, _row_digest, deterministic=True)


def present(db: Database, table: str) -> tuple[str, ...]:
    """The sealed columns that a table has in this database; none where it has no such table.

    Only what may be of an earlier version need be asked: nothing vanishes in silence, for the definitions are sealed,
    too (:func:`schema_problem`).
    """
    there = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
    return tuple(column for column in COLUMNS[table] if column in there)


def seal(
    db: Database,
    table: str,
    where: str = "TRUE",
    params: Sequence[object] = (),
    *,
    columns: Sequence[str] | None = None,
) -> None:
    """Compute the digest of rows after their values were written, within the same transaction.

    ``columns``: what it covers, where that is not what the present version seals.
    """
    expression = _expression(table, columns=columns)
    db.execute(f"UPDATE {table} SET digest = {expression} WHERE {where}", params)  # noqa: S608 - names from above


def damaged_rows(db: Database, table: str) -> list[int]:
    """Row ids of those whose values are not what was written."""
    # SQLite verifies CHECK constraints, too, but not on a connection that only reads.
    columns = present(db, table)
    if not columns:
        return []
    wrong = f"NOT {sound(table, columns=columns)}" + (
        " OR state NOT IN ('pending', 'sent', 'parked')" if table == "outbox" else ""
    )
    return [row[0] for row in db.execute(f"SELECT rowid FROM {table} NOT INDEXED WHERE {wrong}")]  # noqa: S608


def sound(table: str, alias: str | None = None, *, columns: Sequence[str] | None = None) -> str:
    """SQL condition: the row is as it was written. ``alias``: what the statement calls the table."""
    return f"({alias or table}.digest IS {_expression(table, alias, columns=columns)})"


def digest(db: Database, table: str, row: Mapping[str, object]) -> bytes:
    """What the digest of a row of these values would be."""
    columns = COLUMNS[table]
    sql = f"SELECT row_digest('{table}', {', '.join(['CAST(? AS BLOB)'] * len(columns))})"
    return bytes(db.execute(sql, [row[column] for column in columns]).fetchone()[0])


def set_mark(db: Database, name: str, document: Mapping[str, Any]) -> None:
    """Keep a small document under a name, in place of the one before."""
    db.execute("INSERT OR REPLACE INTO marks (name, document) VALUES (?, ?)", [name, json.dumps(document)])
    seal(db, "marks", "name = ?", [name])


def clear_mark(db: Database, name: str) -> None:
    db.execute("DELETE FROM marks WHERE name = ?", [name])


def mark(db: Database, name: str) -> dict[str, Any] | None:
    """The document kept under a name; None without one, or when it is damaged."""
    if not _has_table(db, "marks"):
        return None
    found = db.execute(f"SELECT document FROM marks WHERE name = ? AND {sound('marks')}", [name]).fetchone()  # noqa: S608
    return None if found is None else dict(json.loads(found[0]))


def note_schema(db: Database, version: int) -> None:
    """Remember the definitions as they are. Without effect in a store that has no marks yet."""
    if _has_table(db, "marks"):
        set_mark(db, SCHEMA, {"version": version, "objects": _definitions(db)})


def schema_problem(db: Database, schema: Mapping[str, Any]) -> str | None:
    """How version and definitions differ from those in the mark. More objects than those do no harm."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version != schema["version"]:
        return f"schema version {version} instead of {schema['version']}"
    now = _definitions(db)
    changed = [name for name, digest in schema["objects"].items() if now.get(name) != digest]
    return f"the definition of {changed[0]} has changed" if changed else None


def _definitions(db: Database) -> dict[str, str]:
    found = db.execute("SELECT name, type || ' ' || tbl_name || ' ' || sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {name: hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest() for name, text in found}


def _has_table(db: Database, name: str) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", [name]).fetchone() is not None


def _expression(table: str, alias: str | None = None, *, columns: Sequence[str] | None = None) -> str:
    # As bytes: text that is no longer UTF-8 is to be hashed as well.
    values = ", ".join(f"CAST({alias or table}.{column} AS BLOB)" for column in columns or COLUMNS[table])
    return f"row_digest('{table}', {values})"


def _row_digest(table: str, *values: bytes | None) -> bytes:
    """BLAKE2b, 16 bytes, over the values as netstrings (``3:abc,``; ``-`` for NULL), personalized by the table."""
    text = b"".join([b"-" if value is None else b"%d:%b," % (len(value), value) for value in values])
    return hashlib.blake2b(text, digest_size=_DIGEST_BYTES, person=table.encode()).digest()
