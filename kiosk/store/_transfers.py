"""People who are taken to another kiosk, and who come from one: a file of many at once."""

from __future__ import annotations

import contextlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlite_utils import Database

from kiosk import integrity
from kiosk.biometrics import ModelId, SubjectId, parse_subject_id
from kiosk.errors import InputError
from kiosk.store._chain import Action, Entry
from kiosk.store._connection import rows
from kiosk.store._event_names import settle_names
from kiosk.store._stale import delete_templates
from kiosk.store._subjects import Subject, Subjects, check_name, now_text
from kiosk.store._templates import NewTemplate

if TYPE_CHECKING:
    from kiosk.gallery_file import PortableConsent, PortablePerson
    from kiosk.gallery_import import Arrival, Erasure, Resident

_DIGITS_TOLD = 16
"""Of a file's SHA-256, in the row of each person in it; the row of the file has all of them."""


class Transfers(Subjects):
    """Whole galleries in and out."""

    def portable_people(self, model_id: ModelId) -> list[PortablePerson]:
        """Everybody, by id, with those of the templates of one model that can be read.

        Raises:
            KeyFileError: the key of the templates cannot be had.
        """
        from kiosk.gallery_file import PortablePerson

        stored, _ = self.stored_templates()
        templates = defaultdict(list)
        for template in stored:
            if template.model_id == model_id:
                templates[template.subject_id].append(template)
        return [
            PortablePerson(
                subject.id, subject.name, subject.created_at, _consent(subject), tuple(templates[subject.id])
            )
            for subject in self.subjects()
        ]

    def residents(self) -> dict[SubjectId, Resident]:
        """Everybody, as an import finds them.

        Raises:
            KeyFileError: the key of the templates cannot be had.
        """
        from kiosk.gallery_import import Resident

        stored, _ = self.stored_templates()
        readable, ids = defaultdict(list), defaultdict(list)
        for template in stored:
            readable[template.subject_id].append(template)
        for row in self._rows("SELECT id, subject_id FROM templates ORDER BY id"):
            ids[row["subject_id"]].append(row["id"])
        return {
            subject.id: Resident(
                subject.name,
                subject.consent_reference,
                subject.consent_until,
                tuple(ids[subject.id]),
                tuple(readable[subject.id]),
            )
            for subject in self.subjects()
        }

    def erasures(self) -> dict[SubjectId, Erasure]:
        """Who was erased here, and when last, as far as receipts and the audit log still tell."""
        from kiosk.gallery_import import Erasure

        certain = {
            row.detail().get("receipt_id")
            for row in self.audit_rows()
            if row.action == Action.REMOVE and row.clock_synchronized
        }
        found: dict[SubjectId, Erasure] = {}
        for receipt in self.receipts():
            before = found.get(receipt.subject_id)
            sure = receipt.receipt_id in certain
            found[receipt.subject_id] = (
                Erasure(receipt.erased_at, sure)
                if before is None
                else Erasure(max(before.at, receipt.erased_at), before.certain and sure)
            )
        return found

    @contextlib.contextmanager
    def log_export(self, subject_ids: Sequence[SubjectId], details: Mapping[str, Any]) -> Iterator[None]:
        """Log that these people leave in a file; the block puts it into its place, in a moment.

        If the block fails nothing is logged. Where logging fails after it the error comes out of the block's end, and
        the caller takes the file away. ``details``: with the file's ``sha256``.

        Raises:
            InputError: somebody was erased since the file was made.
        """
        with self._writing() as db:
            sql = "SELECT id FROM subjects WHERE id IN (SELECT value FROM json_each(?))"
            gone = set(subject_ids) - {row[0] for row in db.execute(sql, [json.dumps(subject_ids)])}
            if gone:
                raise InputError(f"{', '.join(sorted(gone))} was erased meanwhile; nothing was exported: export again")
            told = {"file": details["sha256"][:_DIGITS_TOLD]}
            people = [Entry(Action.EXPORT, told, subject_id) for subject_id in subject_ids]
            self._log_all(db, [Entry(Action.EXPORT, details), *people])
            yield

    def import_people(
        self, arrivals: Sequence[Arrival], details: Mapping[str, Any], erasures: Mapping[SubjectId, Erasure]
    ) -> None:
        """Take in everybody or nobody. ``erasures``: as they were when the import was planned. Events that hold a name
        which the import replaces hold the new one from now on.

        What templates were replaced are gone from the write-ahead log and the backups, too, once :meth:`purge` has
        returned True.

        Raises:
            InputError: an id or name is not acceptable, or somebody was changed or erased since.
            KeyFileError: the key of the templates cannot be had.
        """
        for arrival in arrivals:
            parse_subject_id(arrival.id)
            check_name(arrival.name)
        now = now_text()
        with self._writing() as db:
            _check_unchanged(db, arrivals)
            if self.erasures() != dict(erasures):
                raise InputError("somebody was erased meanwhile; nothing was imported: try again")
            renamed = _renamed(db, arrivals)
            _write_people(db, arrivals)
            for subject_id in sorted(renamed):
                settle_names(db, subject_id)
            replaced = json.dumps([arrival.id for arrival in arrivals if arrival.replace])
            delete_templates(db, "subject_id IN (SELECT value FROM json_each(?))", [replaced])
            templates = [
                (arrival.id, NewTemplate(row.model_id, row.embedding, row.quality, row.source_sha256, row.created_at))
                for arrival in arrivals
                for row in arrival.templates
            ]
            self._insert_all(db, templates, now)
            told = {"file": details["sha256"][:_DIGITS_TOLD]}
            people = [
                Entry(Action.ENROLL, told | _described(arrival, renamed=arrival.id in renamed), arrival.id)
                for arrival in arrivals
            ]
            self._log_all(db, [Entry(Action.IMPORT, details), *people])


def _consent(subject: Subject) -> PortableConsent | None:
    if subject.consent_reference is None:
        return None
    from kiosk.gallery_file import PortableConsent

    return PortableConsent.model_construct(
        reference=subject.consent_reference,
        given_at=subject.consent_at or "",
        text_version=subject.consent_version,
        until=subject.consent_until,
    )


def _check_unchanged(db: Database, arrivals: Sequence[Arrival]) -> None:
    now: dict[str, list[int]] = {row["id"]: [] for row in rows(db, "SELECT id FROM subjects")}
    for row in rows(db, "SELECT id, subject_id FROM templates ORDER BY id"):
        now.setdefault(row["subject_id"], []).append(row["id"])
    for arrival in arrivals:
        found = None if arrival.id not in now else tuple(now[arrival.id])
        if found != arrival.resident_ids:
            raise InputError(f"{arrival.id} was changed meanwhile; nothing was imported: try again")


def _renamed(db: Database, arrivals: Sequence[Arrival]) -> set[SubjectId]:
    """Who is here and gets another name."""
    names = {row["id"]: row["name"] for row in rows(db, "SELECT id, name FROM subjects")}
    return {one.id for one in arrivals if one.name is not None and one.id in names and names[one.id] != one.name}


def _write_people(db: Database, arrivals: Sequence[Arrival]) -> None:
    db.conn.executemany(
        "INSERT INTO subjects (id, created_at) VALUES (?, ?)",
        [(one.id, one.created_at) for one in arrivals if one.resident_ids is None],
    )
    db.conn.executemany(
        "UPDATE subjects SET name = ? WHERE id = ?", [(one.name, one.id) for one in arrivals if one.name is not None]
    )
    db.conn.executemany(
        "UPDATE subjects SET consent_reference = ?, consent_at = ?, consent_version = ?, consent_until = ?"
        " WHERE id = ?",
        [
            (one.consent.reference, one.consent.given_at, one.consent.text_version, one.consent.until, one.id)
            for one in arrivals
            if one.consent is not None
        ],
    )
    integrity.seal(db, "subjects", "id IN (SELECT value FROM json_each(?))", [json.dumps([one.id for one in arrivals])])


def _described(arrival: Arrival, *, renamed: bool) -> dict[str, Any]:
    return {
        "new": arrival.resident_ids is None,
        "renamed": renamed,
        "templates": dict(Counter(template.model_id for template in arrival.templates)),
        "consent": arrival.consent is not None,
        "replaced": len(arrival.resident_ids or ()) if arrival.replace else 0,
    }
