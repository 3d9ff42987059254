"""Who is due to be erased: a consent that has ended, or nobody has seen the person for long.

Days without a person are counted only where the attendance log shows that the kiosk saw somebody else: while it stood
idle, was switched off, or before the first event that is still kept, no day counts. What is not known counts as seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from itertools import pairwise

from sqlite_utils import Database

from kiosk import integrity
from kiosk.biometrics import SubjectId
from kiosk.store._audit import AuditRow
from kiosk.store._chain import Action
from kiosk.store._connection import rows, scalar

IDLE_DAYS = 7
"""From one day with an event to the next so many days count; a longer pause does not: the kiosk may have been off."""


class DueReason(StrEnum):
    """Why a subject is due, as the audit log tells it, too."""

    CONSENT_ENDED = "consent_ended"
    UNSEEN = "unseen"


@dataclass(frozen=True, slots=True)
class Due:
    """A subject due to be erased. ``unseen_days``: counted as :class:`History` does; ``state``: what that rests on."""

    subject_id: SubjectId
    name: str | None
    reason: DueReason
    templates: int
    consent_until: str | None
    unseen_days: int
    state: tuple[object, ...]


class History:
    """What the attendance log and the audit log can show of when people were here last."""

    def __init__(self, db: Database, audit: Iterable[AuditRow], today: date) -> None:
        self._contacts, self._log_begins, self._restored = _contacts(audit)
        self._days = [(row["day"], row["last"]) for row in rows(db, _DAYS, {"today": today.isoformat()})]
        self._last_seqs: dict[str, int] = {row["subject_id"]: row["last"] for row in rows(db, _LAST_SEQS)}
        self._created: dict[str, str] = {row["id"]: row["created_at"] for row in rows(db, _CREATED)}

    def unseen_days(self, subject_id: SubjectId, *, after_seq: int | None = None) -> int:
        """For how many days, at least, the kiosk saw others and not this subject.

        ``after_seq``: the event of this number is taken for the subject's last; None: its last one of any kind.
        """
        since = self._since(subject_id)
        if since is None:
            return 0
        seen_at_seq = self._last_seqs.get(subject_id, 0) if after_seq is None else after_seq
        return _counted(day for day, last in self._days if last > seen_at_seq and day >= since[:10])

    def watched_days(self) -> int:
        """For how many days the log tells that the kiosk was in use; nobody can be found unseen for longer."""
        return _counted(day for day, _ in self._days)

    def _since(self, subject_id: SubjectId) -> str | None:
        """The latest enrollment, consent or restore (UTC); None: nothing tells when that was."""
        contact = self._contacts.get(subject_id, self._log_begins)
        if contact is None or self._restored is None:
            return None
        return max(contact, self._restored, self._created.get(subject_id, ""))


def find_due(
    db: Database, history: History | None, *, today: date, unseen_days: int | None, subjects: Mapping[SubjectId, int]
) -> list[Due]:
    """By id; a subject whose row is damaged is due for nothing. ``subjects``: how many templates each has."""
    due = []
    for subject_id, templates in subjects.items():
        row = rows(db, f"SELECT name, consent_until FROM subjects WHERE id = ? AND {_SOUND}", [subject_id])  # noqa: S608
        if not row:
            continue
        until, days = row[0]["consent_until"], 0
        if history is not None and unseen_days is not None:
            days = history.unseen_days(subject_id)
        if until is not None and until < today.isoformat():
            reason = DueReason.CONSENT_ENDED
        elif unseen_days is not None and days >= unseen_days:
            reason = DueReason.UNSEEN
        else:
            continue
        due.append(Due(subject_id, row[0]["name"], reason, templates, until, days, due_state(db, subject_id)))
    return due


def due_state(db: Database, subject_id: SubjectId) -> tuple[object, ...]:
    """What changes when the subject comes by, is enrolled again, or gives consent."""
    return (
        scalar(db, f"SELECT digest FROM subjects WHERE id = ? AND {_SOUND}", [subject_id]),  # noqa: S608
        scalar(db, "SELECT MAX(seq) FROM attendance WHERE subject_id = ?", [subject_id]),
        scalar(db, "SELECT MAX(id) FROM templates WHERE subject_id = ?", [subject_id]),
        scalar(db, "SELECT MAX(seq) FROM audit WHERE CAST(subject_id AS BLOB) = CAST(? AS BLOB)", [subject_id]),
    )


def _counted(days: Iterable[str]) -> int:
    """From the first of these days to the last, without the pauses that were too long."""
    steps = ((after - before).days for before, after in pairwise(map(date.fromisoformat, days)))
    return sum(step for step in steps if step <= IDLE_DAYS)


def _contacts(audit: Iterable[AuditRow]) -> tuple[dict[str, str | None], str | None, str | None]:
    """When each subject was enrolled or gave consent last, when the log begins, and when the store was last restored
    (empty: never). None: not known, for the clock was not set then, and nothing later tells.
    """
    later: str | None = None
    contacts: dict[str, str | None] = {}
    restored: str | None = ""
    for row in sorted(audit, key=lambda row: row.seq, reverse=True):
        # What was done under a clock that nobody had set was done before the next row that tells its time.
        later = row.occurred_at if row.clock_synchronized else later
        if row.action == Action.RESTORE and restored == "":
            restored = later
        elif row.subject_id is not None and row.action in {Action.ENROLL, Action.CONSENT}:
            contacts.setdefault(row.subject_id, later)
    return contacts, later, restored


_SOUND = integrity.sound("subjects")
# Only behind the last gap in the numbers: what is missing there, deleted by retention or lost, may have been a visit of
# anybody. The newest event of a day tells whether that day is later than a subject's last one, whatever its clock said.
# What was entered by hand shows no day on which the kiosk worked, but counts as having been seen.
_DAYS = """
    SELECT substr(COALESCE(corrected_at, occurred_at), 1, 10) AS day, MAX(seq) AS last
    FROM attendance
    WHERE corrects IS NULL AND voids IS NULL AND added_at IS NULL AND (clock_synchronized OR corrected_at IS NOT NULL)
      AND seq >= (SELECT COALESCE(MAX(seq), 0)
                  FROM (SELECT seq, LAG(seq) OVER (ORDER BY seq) AS before FROM attendance)
                  WHERE seq > before + 1)
    GROUP BY day HAVING day <= :today ORDER BY day
"""
_LAST_SEQS = """
    SELECT subject_id, MAX(seq) AS last FROM attendance WHERE corrects IS NULL AND voids IS NULL GROUP BY subject_id
"""
_CREATED = """
    SELECT s.id, MAX(s.created_at, COALESCE(MAX(t.created_at), '')) AS created_at
    FROM subjects AS s LEFT JOIN templates AS t ON t.subject_id = s.id GROUP BY s.id
"""
