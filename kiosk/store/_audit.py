"""What was done to the kiosk, by whom: a log whose rows are chained by their hashes.

Each row's hash covers its own values and the hash of the row before it, and the last one's number and hash are kept
apart from the table: a row that was changed, taken out or cut off shows. Who may write the file may also write a whole
new chain; whoever notes the head that `kiosk audit verify` prints somewhere else sees that, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlite_utils import Database

from kiosk import integrity
from kiosk.biometrics import ModelId
from kiosk.store._chain import COLUMNS, Action, Actor, Entry, append, append_all, chain_hash, recorded_head
from kiosk.store._connection import Connection, rows, time_text


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One line of the log. ``details``: JSON text, as it is hashed."""

    seq: int
    occurred_at: str
    clock_synchronized: bool
    uid: int
    login: str | None
    sudo_user: str | None
    process: str
    action: str
    subject_id: str | None
    details: str
    hash: str

    @property
    def who(self) -> str:
        """``kiosk (sudo: ada)``, ``uid 1003``; behind ``sudo`` stands what the environment said."""
        login = self.login or f"uid {self.uid}"
        return login if self.sudo_user is None else f"{login} (sudo: {self.sudo_user})"

    def detail(self) -> dict[str, Any]:
        """The details; empty where they are no longer readable."""
        try:
            found = json.loads(self.details)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class AuditProblem:
    """Where the log is not whole: rows ``first`` to ``last``."""

    first: int
    last: int
    what: str


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """What a look at the whole log found. ``head``: number and hash of the last row, (0, "") without any; where
    rows are cut off at the end, the number of the last of them.

    ``state``: a digest of all rows as they are, what is not whole about them included. ``known``: problems that were
    there when a state was noted.
    """

    rows: int
    head: tuple[int, str]
    problems: tuple[AuditProblem, ...]
    state: str = ""
    known: tuple[AuditProblem, ...] = ()


class AuditLog(Connection):
    """The table ``audit``."""

    def audit_rows(
        self, *, since: datetime | None = None, until: datetime | None = None, subject: str | None = None
    ) -> list[AuditRow]:
        """In the order they were written. ``since`` is included, ``until`` is not; both carry a zone."""
        with self._reading() as db, _any_text(db):
            found = rows(
                db,
                f"SELECT {COLUMNS} FROM audit"  # noqa: S608 - names from the code
                " WHERE (:since IS NULL OR occurred_at >= :since) AND (:until IS NULL OR occurred_at < :until)"
                " AND (:subject IS NULL OR subject_id = :subject) ORDER BY seq",
                {"since": time_text(since), "until": time_text(until), "subject": subject},
            )
        return [_row(row) for row in found]

    def verify_audit(self, *, noted: tuple[int, str] | None = None, state: str = "") -> AuditVerdict:
        """Follow the chain from its first row to the head.

        ``noted``: number and hash of a row that somebody has kept elsewhere and that must be the same still.
        ``state``: the digest that was noted with it. If all rows up to that one are as they were then, so is what is
        not whole about them: it is known.
        """
        with self._reading() as db:
            # One state of both, whoever writes meanwhile.
            db.execute("BEGIN")
            try:
                found, head = self.audit_rows(), recorded_head(db)
            finally:
                db.execute("COMMIT")
        last = _end(found, head)
        problems = [*_follow(found, head)]
        # The first state has no row.
        known: list[AuditProblem] = []
        if noted is not None and state:
            before = [row for row in found if row.seq <= noted[0]]
            if (_end(before, noted), _state(before)) == (noted, state):
                known = [problem for problem in problems if problem.last <= noted[0]]
                problems = [problem for problem in problems if problem.last > noted[0]]
            else:
                problems.append(AuditProblem(1, noted[0], "are not as they were when this head was noted"))
        elif noted is not None and noted not in {(0, ""), *((row.seq, row.hash) for row in found)}:
            problems.append(AuditProblem(noted[0], noted[0], "is not the one whose hash was kept"))
        return AuditVerdict(len(found), last, tuple(problems), _state(found), tuple(known))

    def note_settings(self, settings: Mapping[str, Any], model_id: ModelId) -> dict[str, Any]:
        """Log what is configured from now on, where it differs from what was noted last.

        ``settings``: by dotted name, no secret among them. Without effect while nothing has changed.

        Returns:
            What was noted last, empty at the first time.
        """
        with self._reading() as db:
            noted = integrity.mark(db, integrity.NOTED) or {}
        now = {"settings": dict(settings), "model": model_id}
        if noted == now:
            return dict(settings)
        with self._writing() as db:
            before = noted.get("settings")
            if before != now["settings"]:
                self._log_settings(db, before, settings)
            if noted.get("model") != model_id:
                self._log(db, Action.USE_MODEL, {"model": model_id, "before": noted.get("model")})
            integrity.set_mark(db, integrity.NOTED, now)
        return before or {}

    @contextlib.contextmanager
    def log_model(
        self,
        action: Literal[Action.INSTALL_MODEL, Action.REMOVE_MODEL, Action.ROLLBACK_MODEL],
        details: Mapping[str, Any],
    ) -> Iterator[None]:
        """Log a change of the bundles, which lie beside the store: the block makes it, in a moment.

        If the block fails nothing is logged; if logging fails before the block it does not run. Where it fails after it
        the error comes out of the block's end, and the caller takes the change back.
        """
        with self._writing() as db:
            self._log(db, action, details)
            yield

    def _log_settings(self, db: Database, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
        details: dict[str, Any] = {"digest": _settings_digest(now)}
        if before is None:
            details["settings"] = dict(now)
        else:
            names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
            details["changed"] = {name: [before.get(name), now.get(name)] for name in names}
        self._log(db, Action.SETTINGS, details)

    def _log(self, db: Database, action: Action, details: Mapping[str, Any], *, subject_id: str | None = None) -> None:
        """Add a row, in the transaction of the change it tells of."""
        append(db, Actor.present(self.process), action, details, subject_id=subject_id)

    def _log_all(self, db: Database, entries: Sequence[Entry]) -> None:
        """Add many of one moment."""
        append_all(db, Actor.present(self.process), entries)


@contextlib.contextmanager
def _any_text(db: Database) -> Iterator[None]:
    """Text that is no UTF-8 any more is read all the same (as lone surrogates), so that its row can be named."""
    usual = db.conn.text_factory
    db.conn.text_factory = lambda content: content.decode("utf-8", "surrogateescape")
    try:
        yield
    finally:
        db.conn.text_factory = usual


def _follow(found: Iterable[AuditRow], head: tuple[int, str] | None) -> Iterator[AuditProblem]:
    seq, previous = 0, ""
    for row in found:
        if row.seq != seq + 1:
            yield _missing(seq + 1, row.seq - 1, row)
        elif chain_hash(previous, _values(row)) != row.hash:
            yield AuditProblem(row.seq, row.seq, "is not as it was written")
        elif _lossy(row):
            yield AuditProblem(row.seq, row.seq, f"tells of a restore{_origin(row)}: rows before it may be lost")
        elif row.action == Action.END_LOST:
            yield AuditProblem(row.seq, row.seq, "follows where the record of the log's end was gone: rows may be lost")
        seq, previous = row.seq, row.hash
    if head is None:
        yield AuditProblem(seq + 1, seq + 1, "may be missing: the record of the log's end is gone or damaged")
    elif head[0] > seq:
        yield _missing(seq + 1, head[0], None)
    elif head != (seq, previous):
        yield AuditProblem(seq, seq, f"is not the end that was recorded (row {head[0]})")


def _end(found: Sequence[AuditRow], recorded: tuple[int, str] | None) -> tuple[int, str]:
    """The hash of the last row there is, and its number or the recorded one that is higher: that row was cut off."""
    seq, digest = (found[-1].seq, found[-1].hash) if found else (0, "")
    return max(seq, recorded[0] if recorded is not None else 0), digest


def _state(found: Iterable[AuditRow]) -> str:
    """A digest (32 hexadecimal digits) of rows as they are, chained rightly or not."""
    digest = hashlib.sha256()
    for row in found:
        digest.update(json.dumps([*_values(row), row.hash]).encode() + b"\n")
    return digest.hexdigest()[:32]


def _missing(first: int, last: int, after: AuditRow | None) -> AuditProblem:
    restored = after is not None and after.action == Action.RESTORE
    why = f"; row {after.seq} tells of a restore{_origin(after)}" if after is not None and restored else ""
    return AuditProblem(first, last, ("is missing" if first == last else "are missing") + why)


def _lossy(row: AuditRow) -> bool:
    return row.action == Action.RESTORE and row.detail().get("log_complete") is False


def _origin(row: AuditRow) -> str:
    return f" from the backup of {row.detail().get('backup_at')}"


def _values(row: AuditRow) -> list[object]:
    return [
        row.seq,
        row.occurred_at,
        int(row.clock_synchronized),
        row.uid,
        row.login,
        row.sudo_user,
        row.process,
        row.action,
        row.subject_id,
        row.details,
    ]


def _row(row: dict[str, Any]) -> AuditRow:
    # In a damaged row text can come as bytes.
    readable: dict[str, Any] = {
        name: value.decode(errors="replace") if isinstance(value, bytes) else value for name, value in row.items()
    }
    return AuditRow(**{**readable, "clock_synchronized": bool(row["clock_synchronized"])})


def _settings_digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
