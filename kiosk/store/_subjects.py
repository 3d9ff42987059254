"""Who is enrolled: subjects, their templates, and the receipts of erasure."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from sqlite_utils import Database

from kiosk import integrity
from kiosk.biometrics import ModelId, SubjectId, parse_subject_id
from kiosk.errors import InputError, KeyFileError, KioskError, StoreError
from kiosk.events import utc_text
from kiosk.store._chain import Action
from kiosk.store._connection import rows, scalar
from kiosk.store._due import Due, History, due_state, find_due
from kiosk.store._erasures import erase_subject
from kiosk.store._event_names import count_names, settle_names, settle_some
from kiosk.store._stale import delete_templates
from kiosk.store._templates import NewTemplate, Templates

log = logging.getLogger(__name__)

_MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class Consent:
    """The agreement enrollment rests on.

    ``given_at``: date or time as the operator states it, ISO 8601. ``text_version``: of the text that was agreed to.
    ``until``: the last day it holds, ISO 8601; None: it does not end by itself.
    """

    reference: str
    given_at: str
    text_version: str | None = None
    until: str | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    id: SubjectId
    name: str | None
    created_at: str
    consent_reference: str | None
    consent_at: str | None
    consent_version: str | None
    consent_until: str | None
    templates: int
    """How many, over all models."""


@dataclass(frozen=True, slots=True)
class TemplateInfo:
    """A template without its embedding."""

    id: int
    model_id: ModelId
    created_at: str
    quality: dict[str, object] | None
    source_sha256: str | None


@dataclass(frozen=True, slots=True)
class Presence:
    """How many events a subject has in the log, and when the last that counts was (UTC; None: none does)."""

    events: int
    last_at: str | None


@dataclass(frozen=True, slots=True)
class ErasureReceipt:
    """Proof of an erasure.

    ``complete``: the bytes are gone from the write-ahead log and from the backups, too. Where a reader or a full disk
    was in the way, they are after :meth:`Subjects.finish_erasures`.
    """

    receipt_id: str
    subject_id: SubjectId
    erased_at: str
    templates_erased: int
    attendance_kept: int
    complete: bool


class Subjects(Templates):
    """The tables ``subjects``, ``templates`` and ``erasures``."""

    def enroll(
        self,
        subject_id: SubjectId,
        templates: Sequence[NewTemplate],
        *,
        name: str | None = None,
        consent: Consent | None = None,
        known_only: bool = False,
        consent_needed_on: date | None = None,
        verify: Callable[[], None] | None = None,
    ) -> bool:
        """Add templates and, where needed, the subject, all or nothing. A name or consent given replaces the old.

        ``consent_needed_on``: refuse whose consent, given now or before, does not hold on that day. ``verify`` is
        called when nobody else can write any more: what it finds in the store holds until the commit, and what it
        raises undoes all.

        Returns:
            Whether the subject is new.

        Raises:
            InputError: the id or name is not acceptable; with ``known_only``, nobody is enrolled under the id; or there
                is no consent where it is needed.
        """
        parse_subject_id(subject_id)
        check_name(name)
        now = now_text()
        with self._writing() as db:
            if verify is not None:
                verify()
            known = rows(db, "SELECT name FROM subjects WHERE id = ?", [subject_id])
            new = not known
            if new and known_only:
                raise _unknown(subject_id)
            if consent_needed_on is not None:
                _check_consent(db, subject_id, consent, consent_needed_on)
            renamed = bool(known) and name is not None and name != known[0]["name"]
            if new:
                db.execute("INSERT INTO subjects (id, created_at) VALUES (?, ?)", [subject_id, now])
            if name is not None:
                db.execute("UPDATE subjects SET name = ? WHERE id = ?", [name, subject_id])
            if renamed:
                settle_names(db, subject_id)
            if consent is not None:
                _write_consent(db, subject_id, consent)
            integrity.seal(db, "subjects", "id = ?", [subject_id])
            self._insert_templates(db, subject_id, templates, now)
            if new or renamed or consent is not None or templates:
                details = {
                    "new": new,
                    "renamed": renamed,
                    "templates": dict(Counter(template.model_id for template in templates)),
                    "consent": consent is not None,
                }
                self._log(db, Action.ENROLL, details, subject_id=subject_id)
        return new

    def check_consent(self, subject_id: SubjectId, consent: Consent | None, today: date) -> None:
        """Whether enrollment may begin where it needs consent: before anybody looks at a face.

        Raises:
            InputError: neither the consent given now nor the one on record holds.
        """
        with self._reading() as db:
            _check_consent(db, subject_id, consent, today)

    def set_consent(self, subject_id: str, consent: Consent) -> None:
        """Replace the consent on record.

        Raises:
            InputError: no such subject.
        """
        with self._writing() as db:
            if scalar(db, "SELECT 1 FROM subjects WHERE id = ?", [subject_id]) is None:
                raise _unknown(subject_id)
            _write_consent(db, subject_id, consent)
            integrity.seal(db, "subjects", "id = ?", [subject_id])
            self._log(db, Action.CONSENT, {"until": consent.until}, subject_id=subject_id)

    def lapsed(self, today: date) -> frozenset[SubjectId]:
        """Whose consent has ended before that day. Ask only while the clock can be trusted."""
        found = self._rows(
            f"SELECT id FROM subjects WHERE consent_until < ? AND {integrity.sound('subjects')}",  # noqa: S608
            [today.isoformat()],
        )
        return frozenset(SubjectId(row["id"]) for row in found)

    def due(self, today: date, unseen_days: int | None = None) -> list[Due]:
        """Who is to be erased: whose consent ended before ``today``, or who was not seen for so many days; by id.

        Ask only while the clock can be trusted. :class:`kiosk.store._due.History` says which days count.
        """
        subjects = {subject.id: subject.templates for subject in self.subjects()}
        history = None if unseen_days is None else self.history(today)
        with self._reading() as db:
            return find_due(db, history, today=today, unseen_days=unseen_days, subjects=subjects)

    def history(self, today: date) -> History:
        """What is known of when people were here last."""
        audit = self.audit_rows()
        with self._reading() as db:
            return History(db, audit, today)

    def remove_due(self, due: Due) -> ErasureReceipt | None:
        """Erase somebody found by :meth:`due`; None, and nothing is done, where the reason no longer holds.

        The receipt is open until :meth:`finish_erasures`, for once after all of them.
        """
        with self._writing() as db:
            if due_state(db, due.subject_id) != due.state:
                return None
            return ErasureReceipt(**self._erase(db, due.subject_id, reason=due.reason))

    def presences(self) -> dict[SubjectId, Presence]:
        """The events of each subject, also of those who are erased; nothing of who has none."""
        found = self._rows(
            "SELECT subject_id, COUNT(*) AS events, MAX(CASE WHEN NOT EXISTS"
            " (SELECT 1 FROM attendance AS v WHERE v.voids = a.seq)"
            " THEN COALESCE(added_at, corrected_at, occurred_at) END) AS last_at"
            " FROM attendance AS a WHERE corrects IS NULL AND voids IS NULL GROUP BY subject_id"
        )
        return {SubjectId(row.pop("subject_id")): Presence(**row) for row in found}

    def subjects(self) -> list[Subject]:
        """All subjects, by id."""
        return [Subject(**row) for row in self._rows(f"{_SELECT_SUBJECT} GROUP BY s.id ORDER BY s.id")]

    def subject(self, subject_id: str) -> Subject | None:
        found = self._rows(f"{_SELECT_SUBJECT} WHERE s.id = ? GROUP BY s.id", [subject_id])
        return Subject(**found[0]) if found else None

    def rename_subject(self, subject_id: str, name: str | None) -> None:
        """Give a subject another name, or none. Events that hold the old one hold the new one from now on.

        Raises:
            InputError: no such subject, or the name is not acceptable.
        """
        check_name(name)
        with self._writing() as db:
            if not db.execute("UPDATE subjects SET name = ? WHERE id = ?", [name, subject_id]).rowcount:
                raise _unknown(subject_id)
            integrity.seal(db, "subjects", "id = ?", [subject_id])
            settle_names(db, SubjectId(subject_id))
            # Neither the old name nor the new one.
            self._log(db, Action.RENAME, {}, subject_id=subject_id)

    def named_events(self) -> int:
        """How many of the events that are kept hold a name."""
        with self._reading() as db:
            return count_names(db)

    def settle_event_names(self, *, allowed: bool) -> int:
        """Erase all names from events, where they may not leave the device (any more); where they may, have old ones
        that a restore has brought back be the present ones.

        Returns:
            How many events were changed. Nothing to change costs a look at all of them.
        """
        after = changed = 0
        while True:
            with self._writing() as db:
                seqs = settle_some(db, after=after, allowed=allowed)
            if not seqs:
                break
            after, changed = seqs[-1], changed + len(seqs)
        if changed:
            self.checkpoint()
        return changed

    def remove_subject(self, subject_id: str) -> ErasureReceipt:
        """Erase a subject: name, consent and templates, from the bytes of the files.

        Attendance stays under the id; what is stored about others no longer says how alike they were to it.

        Raises:
            InputError: no such subject.
        """
        with self._writing() as db:
            if scalar(db, "SELECT 1 FROM subjects WHERE id = ?", [subject_id]) is None:
                raise _unknown(subject_id)
            receipt = self._erase(db, SubjectId(subject_id), reason="asked")
        return ErasureReceipt(**{**receipt, "complete": self.finish_erasures()})

    def _erase(self, db: Database, subject_id: SubjectId, *, reason: str) -> dict[str, Any]:
        receipt = erase_subject(db, subject_id)
        details = {"receipt_id": receipt["receipt_id"], "templates": receipt["templates_erased"], "reason": reason}
        self._log(db, Action.REMOVE, details, subject_id=subject_id)
        return receipt

    def finish_erasures(self) -> bool:
        """Clear write-ahead log, backups and key file of what was erased; False while that is impossible.

        Cheap when done.
        """
        self._forget_dropped_keys()
        # Only these: another process may erase somebody after the checkpoint below.
        open_receipts = self._rows("SELECT receipt_id FROM erasures WHERE NOT complete")
        if not open_receipts and not self._keys_to_drop():
            self.purge_fault = None
            return True
        if not self.purge():
            return False
        with self._writing() as db:
            for row in open_receipts:
                db.execute("UPDATE erasures SET complete = 1 WHERE receipt_id = ?", [row["receipt_id"]])
        return True

    def purge(self) -> bool:
        """Have nothing beside the database that was deleted from it: no old pages in the write-ahead log, no backups
        but a fresh one, no damaged files put aside, no key of erased templates. False where a reader, a full disk or a
        key that cannot be had is in the way: :attr:`purge_fault` says so.
        """
        self.purge_fault = None
        if not self.backups.possible():
            return self._purge_files(backups=False)
        try:
            # One in the making is waited for.
            with self.backups.alone():
                return self._purge_files(backups=True)
        except (KioskError, OSError, sqlite3.Error) as error:
            return self._note_remains(f"older backups still hold what was erased: {error}")

    def _purge_files(self, *, backups: bool) -> bool:
        """The caller lets nobody take or delete backups meanwhile, where there are any."""
        key, problem = None, None
        try:
            key = self._change_key()
        except (KeyFileError, StoreError) as error:
            # The rest is done all the same.
            problem = error
        if not self.checkpoint():
            return self._note_remains("somebody still reads the store, and the write-ahead log holds what was erased")
        if backups:
            self.backups.sweep()
            if self.backups.all():
                self.backups.take()
                self.backups.keep_newest(1)
            self.backups.delete_damaged()
        if problem is not None:
            return self._note_remains(f"the key of what was erased is still there: {problem}")
        if not self._drop_old_keys(key, without_backups=not backups):
            return self._note_remains("the key of what was erased is still there: a backup has just begun to need it")
        return True

    def _note_remains(self, fault: str) -> Literal[False]:
        self.purge_fault = fault
        # A command tells its user itself.
        log.log(logging.WARNING if self.process == "daemon" else logging.INFO, "%s", fault)
        return False

    def receipts(self) -> list[ErasureReceipt]:
        """All erasures, oldest first."""
        found = self._rows(
            "SELECT receipt_id, subject_id, erased_at, templates_erased, attendance_kept, complete"
            " FROM erasures ORDER BY erased_at, rowid"
        )
        return [ErasureReceipt(**{**row, "complete": bool(row["complete"])}) for row in found]

    def template_models(self) -> dict[ModelId, int]:
        """How many templates each model made."""
        found = self._rows("SELECT model_id, COUNT(*) AS n FROM templates GROUP BY model_id ORDER BY model_id")
        return {ModelId(row["model_id"]): row["n"] for row in found}

    def subject_models(self) -> dict[SubjectId, dict[ModelId, int]]:
        """How many templates of each model each subject has; a subject without any has an empty entry."""
        found = self._rows(
            "SELECT s.id AS subject_id, t.model_id, COUNT(t.id) AS n"
            " FROM subjects AS s LEFT JOIN templates AS t ON t.subject_id = s.id"
            " GROUP BY s.id, t.model_id ORDER BY s.id, t.model_id"
        )
        models: dict[SubjectId, dict[ModelId, int]] = {}
        for row in found:
            counts = models.setdefault(SubjectId(row["subject_id"]), {})
            if row["n"]:
                counts[ModelId(row["model_id"])] = row["n"]
        return models

    def photo_owners(self) -> dict[str, set[SubjectId]]:
        """Whose templates were made from which photo: subjects by the SHA-256 of the file, over all models."""
        owners: dict[str, set[SubjectId]] = {}
        for row in self._rows(
            "SELECT DISTINCT source_sha256, subject_id FROM templates WHERE source_sha256 IS NOT NULL"
        ):
            owners.setdefault(row["source_sha256"], set()).add(SubjectId(row["subject_id"]))
        return owners

    def drop_templates_except(self, model_id: ModelId) -> dict[ModelId, int]:
        """Erase the templates of all other models from the bytes of the database, all or none.

        Returns:
            How many were erased, by model. They are gone from the write-ahead log and the backups, too, once
            :meth:`purge` has returned True.

        Raises:
            InputError: somebody has templates of other models only, and would never be recognized again.
        """
        with self._writing() as db:
            stranded = scalar(
                db,
                "SELECT COUNT(DISTINCT subject_id) FROM templates"
                " WHERE subject_id NOT IN (SELECT subject_id FROM templates WHERE model_id = ?)",
                [model_id],
            )
            if stranded:
                raise InputError(
                    f"nothing was erased: {stranded} subjects have no templates of {model_id} yet; enroll or remove "
                    "them first (`kiosk subjects list` marks them)"
                )
            counts = rows(
                db, "SELECT model_id, COUNT(*) AS n FROM templates WHERE model_id <> ? GROUP BY model_id", [model_id]
            )
            delete_templates(db, "model_id <> ?", [model_id])
            dropped = {ModelId(row["model_id"]): row["n"] for row in counts}
            if dropped:
                self._log(db, Action.DROP_TEMPLATES, {"kept": model_id, "dropped": dropped})
        return dropped

    def drop_template(self, subject_id: str, template_id: int) -> int:
        """Erase one template from the bytes of the database; how many the subject has left, over all models.

        It is gone from the write-ahead log and the backups, too, once :meth:`purge` has returned True.

        Raises:
            InputError: the subject has no template of that number.
        """
        with self._writing() as db:
            where, params = "id = ? AND subject_id = ?", [template_id, subject_id]
            model_id = scalar(db, f"SELECT model_id FROM templates WHERE {where}", params)  # noqa: S608
            if model_id is None:
                raise InputError(
                    f"{subject_id} has no template {template_id}; `kiosk subjects show {subject_id}` numbers them"
                )
            delete_templates(db, where, params)
            self._log(db, Action.DROP_TEMPLATES, {"dropped": {model_id: 1}}, subject_id=subject_id)
            return int(scalar(db, "SELECT COUNT(*) FROM templates WHERE subject_id = ?", [subject_id]))

    def template_infos(self, subject_id: str) -> list[TemplateInfo]:
        found = self._rows(
            "SELECT id, model_id, created_at, quality, source_sha256 FROM templates WHERE subject_id = ? ORDER BY id",
            [subject_id],
        )
        return [TemplateInfo(**{**row, "quality": json.loads(row["quality"] or "null")}) for row in found]


_SELECT_SUBJECT = """
    SELECT s.id, s.name, s.created_at, s.consent_reference, s.consent_at, s.consent_version, s.consent_until,
           COUNT(t.id) AS templates
    FROM subjects AS s LEFT JOIN templates AS t ON t.subject_id = s.id
"""


def check_name(name: str | None) -> None:
    """Raises InputError for an empty or overlong name or one with control characters."""
    if name is None:
        return
    if not name.strip() or len(name) > _MAX_NAME:
        raise InputError(f"{_shown(name)} is not a name: use 1 to {_MAX_NAME} characters")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        raise InputError(f"{_shown(name)} is not a name: it contains control characters")


def _check_consent(db: Database, subject_id: SubjectId, given: Consent | None, today: date) -> None:
    if given is None:
        found = rows(db, "SELECT consent_reference, consent_until FROM subjects WHERE id = ?", [subject_id])
        reference, until = found[0].values() if found else (None, None)
    else:
        reference, until = given.reference, given.until
    if reference is None:
        raise InputError(
            f"{subject_id}: not enrolled, for there is no consent (privacy.require_consent); say with --consent "
            "REFERENCE where it is filed"
        )
    if until is not None and until < today.isoformat():
        raise InputError(
            f"{subject_id}: not enrolled, for the consent ended on {until} (privacy.require_consent); a new one is "
            "needed: --consent REFERENCE"
        )


def _write_consent(db: Database, subject_id: str, consent: Consent) -> None:
    db.execute(
        "UPDATE subjects SET consent_reference = ?, consent_at = ?, consent_version = ?, consent_until = ?"
        " WHERE id = ?",
        [consent.reference, consent.given_at, consent.text_version, consent.until, subject_id],
    )


def _unknown(subject_id: str) -> InputError:
    return InputError(f"no subject {_shown(subject_id)} is enrolled; `kiosk subjects list` shows all")


def _shown(text: str) -> str:
    """For an error line: quoted, escaped, not endless."""
    return ascii(text if len(text) <= 70 else text[:67] + "...")


def now_text() -> str:
    return utc_text(time.time_ns() // 1_000_000)
