"""Rows of the audit log, each chained to the one before it by its hash.

Written in the transaction of the change they tell of. No name of an enrolled person, no embedding, no image; subjects
stand there under their ids, as in the attendance log, and stay when they are erased: the id alone says nothing about a
person whom nothing else describes.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Self

from sqlite_utils import Database

from kiosk import integrity
from kiosk.clock import SystemClock
from kiosk.events import utc_text

COLUMNS = "seq, occurred_at, clock_synchronized, uid, login, sudo_user, process, action, subject_id, details, hash"
"""Of the table, in the order in which they are hashed."""

_MAX_SUDO_USER = 64

Process = Literal["command", "daemon"]


class Action(StrEnum):
    """What a row tells of."""

    ENROLL = "enroll"
    CONSENT = "consent"
    RENAME = "rename"
    REMOVE = "remove"
    CODE = "code"
    REMOVE_CODE = "remove_code"
    ADD_EVENT = "add_event"
    VOID_EVENT = "void_event"
    DROP_TEMPLATES = "drop_templates"
    EXPORT = "export"
    IMPORT = "import"
    REKEY = "rekey"
    CALIBRATE = "calibrate"
    RESET_CALIBRATION = "reset_calibration"
    INSTALL_MODEL = "install_model"
    REMOVE_MODEL = "remove_model"
    ROLLBACK_MODEL = "rollback_model"
    USE_MODEL = "use_model"
    SETTINGS = "settings"
    RESTORE = "restore"
    END_LOST = "end_lost"
    """Where the log's end was recorded, nothing is any more: rows before this one may be missing."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something. ``sudo_user`` is what the environment says, and no proof."""

    uid: int
    login: str | None
    sudo_user: str | None
    process: Process

    @classmethod
    def present(cls, process: Process) -> Self:
        """The user this process runs as."""
        uid = os.getuid()
        try:
            login = pwd.getpwuid(uid).pw_name
        except KeyError:
            login = None
        return cls(uid, login, _plain(os.environ.get("SUDO_USER")), process)


@dataclass(frozen=True, slots=True)
class Entry:
    """A row to be written."""

    action: Action
    details: Mapping[str, Any]
    subject_id: str | None = None


def append(
    db: Database, actor: Actor, action: Action, details: Mapping[str, Any], *, subject_id: str | None = None
) -> None:
    """Add a row behind the recorded end. The caller holds the transaction.

    What was done to the rows since that end was recorded stays visible: the new row's hash follows from the record, not
    from what the last row says now.
    """
    append_all(db, actor, [Entry(action, details, subject_id)])


def append_all(db: Database, actor: Actor, entries: Sequence[Entry]) -> None:
    """Add rows of one moment, as :func:`append` does one."""
    last = db.execute("SELECT COALESCE(MAX(seq), 0) FROM audit").fetchone()[0]
    head = recorded_head(db)
    lost = [] if head is not None else [Entry(Action.END_LOST, {})]
    seq, previous = (last, _hash_of(db, last)) if head is None else (max(head[0], last), head[1])
    first, at = seq + 1, [utc_text(time.time_ns() // 1_000_000), int(SystemClock().synchronized())]
    rows = []
    for entry in [*lost, *entries]:
        seq += 1
        text = json.dumps(entry.details, sort_keys=True, separators=(",", ":"))
        who = [actor.uid, actor.login, actor.sudo_user, actor.process]
        values: list[Any] = [seq, *at, *who, entry.action.value, entry.subject_id, text]
        previous = chain_hash(previous, values)
        rows.append([*values, previous])
    db.conn.executemany(f"INSERT INTO audit ({COLUMNS}) VALUES ({', '.join('?' * len(rows[0]))})", rows)  # noqa: S608 - our own names
    integrity.seal(db, "audit", "seq >= ?", [first])
    record_head(db, seq, previous)


def chain_hash(previous: str, values: Iterable[object]) -> str:
    """SHA-256 (hex) over the JSON array of the hash before (empty for the first row) and a row's other values.

    In the order of the table's columns; without spaces, in ASCII with escapes: ``["",1,"2026-...",1,...]``.
    """
    return hashlib.sha256(json.dumps([previous, *values], separators=(",", ":")).encode()).hexdigest()


def record_head(db: Database, seq: int, digest: str) -> None:
    """Keep number and hash of the last row apart from the table."""
    integrity.set_mark(db, integrity.AUDIT_HEAD, {"seq": seq, "hash": digest})


def recorded_head(db: Database) -> tuple[int, str] | None:
    """Number and hash of the last row as they are kept apart; None where that is gone, damaged, or no such thing."""
    mark = integrity.mark(db, integrity.AUDIT_HEAD) or {}
    seq, digest = mark.get("seq"), mark.get("hash")
    return (seq, digest) if isinstance(seq, int) and isinstance(digest, str) else None


def _hash_of(db: Database, seq: int) -> str:
    """Of a row as it is there now; it may be damaged."""
    found = db.execute("SELECT CAST(hash AS BLOB) FROM audit WHERE seq = ?", [seq]).fetchone()
    return "" if found is None else bytes(found[0]).decode("utf-8", "replace")


def _plain(name: str | None) -> str | None:
    """A login name from the environment, which anybody may have set."""
    return name if name and len(name) <= _MAX_SUDO_USER and name.isprintable() else None
