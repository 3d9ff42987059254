"""Whom stored decisions compared a face with, and names in events: an erased subject is not named there either."""

from __future__ import annotations

import json
from typing import Any

from sqlite_utils import Database

from kiosk import integrity
from kiosk.biometrics import SubjectId
from kiosk.errors import StoreError
from kiosk.events import encode
from kiosk.evidence import erase_mentions, mentioned_subjects
from kiosk.packing import pack, unpack, unpack_text
from kiosk.store._event_names import settle_names

_MENTIONING = (
    ("rejections", "SELECT number FROM rejections WHERE mentions(evidence, :mention)", "number"),
    # The subject's own rows keep the bare id, as does everything in them.
    ("attendance", "SELECT seq FROM attendance WHERE subject_id <> :id AND mentions(evidence, :mention)", "seq"),
)


def install(db: Database) -> None:
    """Give a connection the SQL function that :func:`forget_subject` searches with."""
    db.conn.create_function("mentions", 2, _mentions, deterministic=True)


def without_erased(db: Database, evidence: dict[str, Any]) -> dict[str, Any]:
    """A document about to be stored, without subjects erased since their templates were read; changes it in place."""
    mentioned = mentioned_subjects(evidence)
    sql = "SELECT id FROM subjects WHERE id IN (SELECT value FROM json_each(?))"
    enrolled = {row[0] for row in db.execute(sql, [json.dumps(sorted(mentioned))])}
    erase_mentions(evidence, mentioned - enrolled)
    return evidence


def forget_subject(db: Database, subject_id: SubjectId) -> None:
    """Take a subject that is enrolled no more out of decisions about others, the name out of events, and what somebody
    gave as the reason of a correction. The caller holds the transaction.
    """
    settle_names(db, subject_id)
    _erase_reasons(db, subject_id)
    mention = encode({"subject_id": subject_id}).decode().strip("{}")
    for table, select, key in _MENTIONING:
        numbers = [row[0] for row in db.execute(select, {"id": subject_id, "mention": mention})]
        for number in numbers:
            (packed,) = db.execute(f"SELECT evidence FROM {table} WHERE {key} = ?", [number]).fetchone()  # noqa: S608 - names from above
            evidence = unpack(packed)
            erase_mentions(evidence, {subject_id})
            db.execute(f"UPDATE {table} SET evidence = ? WHERE {key} = ?", [pack(evidence), number])  # noqa: S608
            integrity.seal(db, table, f"{key} = ?", [number])


def _erase_reasons(db: Database, subject_id: SubjectId) -> None:
    """Whoever corrects an event by hand says why, in words of their own. Of a row that is damaged nothing is left."""
    sound = integrity.sound("attendance")
    for seq, packed, good in db.execute(
        f"SELECT seq, evidence, {sound} FROM attendance"  # noqa: S608 - our own words
        " WHERE subject_id = ? AND (added_at IS NOT NULL OR voids IS NOT NULL)",
        [subject_id],
    ).fetchall():
        evidence = {**unpack(packed), "reason": None} if good else {}
        db.execute("UPDATE attendance SET evidence = ? WHERE seq = ?", [pack(evidence), seq])
        if good:
            integrity.seal(db, "attendance", "seq = ?", [seq])


def _mentions(packed: bytes, mention: str) -> bool:
    try:
        return mention in unpack_text(packed)
    except StoreError:
        # Nobody can read it any more, and an erasure must not fail for it.
        return False
