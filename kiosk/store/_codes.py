"""Codes: the second way in. Who has which, as hashes; and the last wrong ones, which outlive a restart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlite_utils import Database

from kiosk import integrity
from kiosk.biometrics import Reason, SubjectId
from kiosk.codes import FORGIVEN, MAX_FAILURES_KEPT, Failure, Kind, StoredCode, new_number, refusal, remembered
from kiosk.errors import InputError
from kiosk.events import utc_text
from kiosk.store._audit import AuditLog
from kiosk.store._chain import Action
from kiosk.store._connection import rows, scalar


class Codes(AuditLog):
    """The table ``codes``, and the mark that holds the failures."""

    def set_pin(self, subject_id: SubjectId, *, salt: bytes, digest: bytes, now_ms: int) -> int:
        """Give a subject a PIN in place of the one it has. Returns its number, which stays if there is one already.

        Raises:
            InputError: no such subject.
        """
        with self._writing() as db:
            _check_known(db, subject_id)
            taken = {row[0]: row[1] for row in db.execute("SELECT subject_id, number FROM codes WHERE kind = 'pin'")}
            number: int = taken.get(subject_id) or new_number(list(taken.values()))
            self._set(db, StoredCode(subject_id, Kind.PIN, number, salt, digest, 0, utc_text(now_ms)))
            _forgive(db, number)
        return number

    def set_badge(self, subject_id: SubjectId, *, salt: bytes, digest: bytes, now_ms: int) -> None:
        """Give a subject a badge in place of the one it has.

        Raises:
            InputError: no such subject, or the badge is another's.
        """
        with self._writing() as db:
            _check_known(db, subject_id)
            owner = scalar(db, "SELECT subject_id FROM codes WHERE kind = 'badge' AND hash = ?", [digest])
            if owner not in {None, subject_id}:
                raise InputError(f"this badge is {owner}'s; `kiosk subjects code {owner} --remove` takes it away")
            self._set(db, StoredCode(subject_id, Kind.BADGE, None, salt, digest, 0, utc_text(now_ms)))

    def remove_codes(self, subject_id: str) -> list[Kind]:
        """Take all codes of a subject away; returns which there were."""
        with self._writing() as db:
            found = db.execute("SELECT kind FROM codes WHERE subject_id = ? ORDER BY kind", [subject_id])
            removed = [Kind(kind) for (kind,) in found.fetchall()]
            db.execute("DELETE FROM codes WHERE subject_id = ?", [subject_id])
            # The number's failures stay: a lock that ended with the PIN would tell that there was one.
            for kind in removed:
                self._log(db, Action.REMOVE_CODE, {"kind": kind}, subject_id=subject_id)
        return removed

    def codes(self) -> list[StoredCode]:
        """All of them, by subject."""
        return self._select_codes("TRUE", [])

    def pin(self, number: int) -> StoredCode | None:
        """The PIN that goes with a number."""
        return self._newest_code("kind = 'pin' AND number = ?", [number])

    def badge(self, digest: bytes) -> StoredCode | None:
        """The badge whose hash this is."""
        return self._newest_code("kind = 'badge' AND hash = ?", [digest])

    def badge_salts(self) -> list[bytes]:
        """What badges are hashed with: one salt for all, so that a badge names its owner."""
        found = self._rows("SELECT DISTINCT salt FROM codes WHERE kind = 'badge' ORDER BY salt")
        return [bytes(row["salt"]) for row in found]

    def inherit_failures(self, *, boottime_ms: int, boot_id: str) -> None:
        """Let failures of before this boot count as if they had just happened: no clock tells how long ago they did.

        Without effect within the boot they are of.
        """
        with self._reading() as db:
            inherited = _is_foreign(db, boot_id)
        if inherited:
            with self._writing() as db:
                _keep(db, _failures(db, boottime_ms, boot_id), boot_id)

    def charge_code(self, number: int | None, *, boottime_ms: int, boot_id: str) -> Reason | None:
        """Count an entry as wrong until :meth:`discharge_code`; a reason where it must not even be looked at.

        Raises:
            StoreError: it could not be counted.
        """
        with self._writing() as db:
            failures = _failures(db, boottime_ms, boot_id)
            reason = refusal(failures, number, boottime_ms)
            if reason is Reason.CODE_PAUSED:
                return reason
            # What is typed at a locked number counts among all only.
            own = None if reason is Reason.CODE_LOCKED else number
            # Nobody's number is counted like anybody's: a lock must not tell which numbers there are.
            _keep(db, [*failures, Failure(own, boottime_ms)], boot_id)
            _count(db, own, 1)
        return reason

    def discharge_code(self, number: int | None, *, boottime_ms: int) -> None:
        """The entry charged at that time was right: it counts no more, nor do the last slips for this number."""
        with self._writing() as db:
            mark = integrity.mark(db, integrity.CODE_FAILURES) or {"failures": [], "boot_id": ""}
            failures = [Failure(*failure) for failure in mark["failures"]]
            if (charged := Failure(number, boottime_ms)) in failures:
                failures.remove(charged)
            _keep(db, failures, mark["boot_id"])
            _forgive(db, number)
            # The charge itself is one of them.
            _count(db, number, -1 - FORGIVEN)

    def _set(self, db: Database, code: StoredCode) -> None:
        db.execute(
            "INSERT OR REPLACE INTO codes (id, subject_id, kind, number, salt, hash, failures, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
            [_id(code), code.subject_id, code.kind.value, code.number, code.salt, code.hash, code.created_at],
        )
        integrity.seal(db, "codes", "id = ?", [_id(code)])
        self._log(db, Action.CODE, {"kind": code.kind.value}, subject_id=code.subject_id)

    def _newest_code(self, where: str, params: Sequence[object]) -> StoredCode | None:
        found = self._select_codes(where, params)
        return max(found, key=lambda code: code.created_at, default=None)

    def _select_codes(self, where: str, params: Sequence[object]) -> list[StoredCode]:
        found = self._rows(
            "SELECT subject_id, kind, number, salt, hash, failures, created_at FROM codes"  # noqa: S608 - our own words
            f" WHERE {where} AND {integrity.sound('codes')} ORDER BY id",
            params,
        )
        return [StoredCode(**{**row, "kind": Kind(row["kind"])}) for row in found]


def _id(code: StoredCode) -> str:
    return f"{code.subject_id}/{code.kind}"


def _check_known(db: Database, subject_id: str) -> None:
    if scalar(db, "SELECT 1 FROM subjects WHERE id = ?", [subject_id]) is None:
        raise InputError(f"{subject_id}: nobody has this id; `kiosk subjects add {subject_id}` adds without a face")


def _count(db: Database, number: int | None, change: int) -> None:
    """So many more failures of this PIN, if there is one."""
    # A row that is damaged is left as it is: sealed anew it would pass for sound.
    found = rows(db, f"SELECT id FROM codes WHERE kind = 'pin' AND number = ? AND {integrity.sound('codes')}", [number])  # noqa: S608 - names from the code
    for row in found:
        db.execute("UPDATE codes SET failures = MAX(0, failures + ?) WHERE id = ?", [change, row["id"]])
        integrity.seal(db, "codes", "id = ?", [row["id"]])


def _is_foreign(db: Database, boot_id: str) -> bool:
    mark: dict[str, Any] = integrity.mark(db, integrity.CODE_FAILURES) or {}
    return bool(mark.get("failures")) and not (boot_id and mark["boot_id"] == boot_id)


def _failures(db: Database, now_ms: int, boot_id: str) -> list[Failure]:
    mark = integrity.mark(db, integrity.CODE_FAILURES) or {"failures": [], "boot_id": ""}
    foreign = _is_foreign(db, boot_id)
    failures = [Failure(number, now_ms if foreign else at_ms) for number, at_ms in mark["failures"]]
    return remembered(failures, now_ms)


def _keep(db: Database, failures: Sequence[Failure], boot_id: str) -> None:
    kept = failures[-MAX_FAILURES_KEPT:]
    integrity.set_mark(db, integrity.CODE_FAILURES, {"boot_id": boot_id, "failures": kept})


def _forgive(db: Database, number: int | None) -> None:
    """The failures of a number count among all only."""
    mark = integrity.mark(db, integrity.CODE_FAILURES)
    if mark is not None and number is not None:
        failures = [Failure(None if whose == number else whose, at_ms) for whose, at_ms in mark["failures"]]
        _keep(db, failures, mark["boot_id"])
