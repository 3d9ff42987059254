"""What an erasure takes out of the tables, and its receipt; whom a restore from a backup has to erase once more."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from kiosk import integrity
from kiosk.biometrics import SubjectId
from kiosk.events import utc_text
from kiosk.store._chain import Action
from kiosk.store._mentions import forget_subject
from kiosk.store._stale import ANY_KEY, delete_templates, note_stale


@dataclass(frozen=True, slots=True)
class _Removal:
    """As the audit log tells it; ``seq`` 0: a receipt."""

    seq: int
    subject_id: str
    erased_at: str
    receipt_id: str
    templates: int

    def told(self) -> dict[str, Any]:
        """What the receipt said."""
        return {"receipt_id": self.receipt_id, "erased_at": self.erased_at, "templates_erased": self.templates}


def erase_subject(db: Database, subject_id: SubjectId) -> dict[str, Any]:
    """Erase somebody; the receipt, which is open. The caller holds the transaction."""
    receipt = _receipt(db, subject_id)
    _delete_subject(db, subject_id)
    _insert_receipt(db, receipt)
    return receipt


def erase_again(db: Database, receipts: Iterable[Mapping[str, Any]], *, backup_audit_seq: int) -> None:
    """What the backup still has and was erased since, people and templates of models given up: by receipts of the
    damaged file, and by the audit log.

    Before anything is taken from the damaged file, for somebody may have been enrolled again. The receipts are open,
    for the backup's files hold these people still. ``backup_audit_seq``: of the backup's last row in the audit log.
    """
    for row in receipts:
        if not _is_known(db, row["receipt_id"]):
            _delete_subject(db, SubjectId(row["subject_id"]))
            columns = (*integrity.COLUMNS["erasures"], "digest")
            db.table("erasures").insert({**{name: row[name] for name in columns}, "complete": 0})
            note_stale(db, [ANY_KEY])
    for removal in _removals(db):
        if removal.seq > backup_audit_seq:
            _delete_subject(db, SubjectId(removal.subject_id))
    given_up = db.execute(
        "SELECT details FROM audit WHERE action = ? AND seq > ? ORDER BY seq",
        [Action.DROP_TEMPLATES.value, backup_audit_seq],
    )
    for (details,) in given_up.fetchall():
        delete_templates(db, "model_id <> ?", [json.loads(details)["kept"]])


def erase_removed(db: Database, *, backup_subjects: Mapping[str, str], backup_audit_seq: int) -> None:
    """After all has been taken: receipts that are lost, and whom an old page of the damaged file has brought back.

    ``backup_subjects``: ``created_at`` of the people the backup had.
    """
    removals = _removals(db)
    for removal in removals:
        if not _is_known(db, removal.receipt_id):
            _insert_receipt(db, _receipt(db, removal.subject_id) | removal.told())
            note_stale(db, [ANY_KEY])
    created = dict(db.execute("SELECT id, created_at FROM subjects").fetchall())
    for removal in _last_removals(db, removals):
        at, since_backup = created.get(removal.subject_id), removal.seq > backup_audit_seq
        # Enrolled anew, of which the log's row is lost: the clock tells, but for a row that the backup knows.
        from_backup = since_backup and at == backup_subjects.get(removal.subject_id)
        if at is not None and (from_backup or at < removal.erased_at):
            _delete_subject(db, SubjectId(removal.subject_id))
            db.execute("UPDATE erasures SET complete = 0 WHERE receipt_id = ?", [removal.receipt_id])
            note_stale(db, [ANY_KEY])
        elif at is None and since_backup:
            # Events from an old page may have the name.
            forget_subject(db, SubjectId(removal.subject_id))


def erase_unseen(db: Database, subject_ids: Iterable[str]) -> list[dict[str, Any]]:
    """Erase those, whom nothing but the backup knows; the receipts."""
    receipts = [erase_subject(db, SubjectId(subject_id)) for subject_id in sorted(subject_ids)]
    if receipts:
        note_stale(db, [ANY_KEY])
    return receipts


def _removals(db: Database) -> list[_Removal]:
    """Of the audit log, oldest first."""
    found = db.execute(
        "SELECT seq, subject_id, occurred_at, details FROM audit WHERE action = ? ORDER BY seq", [Action.REMOVE.value]
    )
    details = ((seq, subject_id, erased_at, json.loads(text)) for seq, subject_id, erased_at, text in found)
    return [
        _Removal(seq, one, erased_at, told["receipt_id"], told["templates"]) for seq, one, erased_at, told in details
    ]


def _last_removals(db: Database, removals: Iterable[_Removal]) -> list[_Removal]:
    """Of those whose last row in the audit log is one; of those it has no row at all of, by their receipts."""
    last = dict(db.execute("SELECT subject_id, MAX(seq) FROM audit WHERE subject_id IS NOT NULL GROUP BY subject_id"))
    receipts = db.execute("SELECT subject_id, erased_at, receipt_id, templates_erased FROM erasures").fetchall()
    return [
        *(removal for removal in removals if last[removal.subject_id] == removal.seq),
        *(_Removal(0, *receipt) for receipt in receipts if receipt[0] not in last),
    ]


def _receipt(db: Database, subject_id: str) -> dict[str, Any]:
    return {
        "receipt_id": str(uuid.uuid4()),
        "subject_id": subject_id,
        "erased_at": utc_text(time.time_ns() // 1_000_000),
        "templates_erased": _count(db, "SELECT COUNT(*) FROM templates WHERE subject_id = ?", subject_id),
        "attendance_kept": _count(
            db,
            "SELECT COUNT(*) FROM attendance WHERE subject_id = ? AND corrects IS NULL AND voids IS NULL",
            subject_id,
        ),
        "complete": False,
    }


def _insert_receipt(db: Database, receipt: Mapping[str, Any]) -> None:
    db.table("erasures").insert(dict(receipt))
    integrity.seal(db, "erasures", "receipt_id = ?", [receipt["receipt_id"]])


def _delete_subject(db: Database, subject_id: SubjectId) -> None:
    delete_templates(db, "subject_id = ?", [subject_id])
    db.execute("DELETE FROM codes WHERE subject_id = ?", [subject_id])
    db.execute("DELETE FROM subjects WHERE id = ?", [subject_id])
    forget_subject(db, subject_id)


def _is_known(db: Database, receipt_id: str) -> bool:
    return bool(_count(db, "SELECT COUNT(*) FROM erasures WHERE receipt_id = ?", receipt_id))


def _count(db: Database, sql: str, *params: str) -> int:
    return int(db.execute(sql, params).fetchone()[0])
