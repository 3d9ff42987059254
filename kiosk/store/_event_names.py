"""Names in events: there only while they may leave the device, and no other than the subject has now.

The name is covered by no signature and no hash (:func:`kiosk.signatures.canonical`), so it can be changed and erased.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from sqlite_utils import Database

from kiosk import integrity
from kiosk.biometrics import SubjectId
from kiosk.events import encode, nameless

_PIECE = 500
_HOLDS_NAME = """instr(o.payload, '"name":')"""
"""No other member of an event is called so, and quotes within a value are escaped."""
_SOUND = integrity.sound("outbox", "o")
_WANTED = "CASE WHEN :allowed THEN s.name END"
_DIFFERS = f"""
    ({_HOLDS_NAME} AND CASE WHEN json_valid(o.payload)
                            THEN json_extract(o.payload, '$.subject.name') IS NOT {_WANTED} ELSE TRUE END)
"""
_SELECT = f"""
    SELECT o.seq, CASE WHEN {_SOUND} THEN o.payload END, {_WANTED}
    FROM outbox AS o JOIN attendance AS a USING (seq) LEFT JOIN subjects AS s ON s.id = a.subject_id
"""  # noqa: S608 - our own words
_OF_ALL = f"{_SELECT} WHERE o.seq > :after AND {_DIFFERS} ORDER BY o.seq LIMIT {_PIECE}"
# What is left of a name in a damaged row may lie anywhere in it.
_OF_ONE = f"{_SELECT} WHERE a.subject_id = :subject AND ({_DIFFERS} OR o.payload <> '{{}}' AND NOT {_SOUND})"


def count_names(db: Database) -> int:
    """How many events hold a name."""
    sql = f"SELECT COUNT(*) FROM outbox AS o WHERE {_HOLDS_NAME}"  # noqa: S608 - our own words
    return int(db.execute(sql).fetchone()[0])


def settle_names(db: Database, subject_id: SubjectId) -> None:
    """Have the events of a subject that hold a name hold the present one; none where there is no such subject (any
    more) or it has no name. The caller holds the transaction.

    Of a row that is damaged nothing is left, and it stays damaged: a restore makes it anew from the attendance log.
    """
    _rewrite(db, db.execute(_OF_ONE, {"subject": subject_id, "allowed": True}).fetchall())


def settle_some(db: Database, *, after: int, allowed: bool) -> list[int]:
    """The same for the next few events behind a number, whosever; ``allowed``: whether any may hold a name. Returns
    the numbers of those that were changed; none: there are no more. The caller holds the transaction.
    """
    found = db.execute(_OF_ALL, {"after": after, "allowed": allowed}).fetchall()
    _rewrite(db, found)
    return [seq for seq, *_ in found]


def _rewrite(db: Database, found: Iterable[tuple[int, str | None, str | None]]) -> None:
    for seq, payload, name in found:
        if payload is None:
            db.execute("UPDATE outbox SET payload = '{}' WHERE seq = ?", [seq])
            continue
        event = nameless(json.loads(payload))
        if name:
            event["subject"]["name"] = name
        db.execute("UPDATE outbox SET payload = ? WHERE seq = ?", [encode(event).decode(), seq])
        integrity.seal(db, "outbox", "seq = ?", [seq])
