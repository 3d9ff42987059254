"""What happened: the attendance log. Its rows and their outbox rows are born in one transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlite_utils import Database

from kiosk import integrity
from kiosk.biometrics import Decision, ModelId, Reason, SubjectId
from kiosk.codes import Kind
from kiosk.errors import StoreError
from kiosk.events import (
    ATTENDANCE,
    MAX_SEQ,
    AddedEvent,
    AttendanceEvent,
    EventType,
    Match,
    Method,
    Moment,
    NumberedEvent,
    Origin,
    Pad,
    attendance_event,
    encode,
    match_of,
    subject_ref,
    utc_text,
    uuid7,
)
from kiosk.evidence import CodeEvidence, gather_evidence
from kiosk.packing import pack, unpack
from kiosk.signatures import EventSigner, digest
from kiosk.store._connection import Connection, prefix_range, scalar, time_text
from kiosk.store._mentions import without_erased

_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class AttendanceRow:
    """One line of the log.

    ``occurred_at`` is the best time known. ``stated_at``: what the event first said, where its time was corrected
    later. ``delivery``: pending, sent, parked, or None when it was never meant to be sent. ``recorded_at``: when it was
    entered, where it was added by hand. ``voided_by``: the event that says it counts no more; ``voids``: the event
    that this one says so of (its type is ``void``).
    """

    seq: int
    event_id: str
    event_type: str
    subject_id: SubjectId
    occurred_at: str
    tz: str
    clock_synchronized: bool
    boot_id: str
    boottime_ms: int
    site: str
    device: str
    evidence: dict[str, Any]
    delivery: str | None
    stated_at: str | None = None
    recorded_at: str | None = None
    voids: int | None = None
    voided_by: int | None = None


@dataclass(frozen=True, slots=True)
class Visit:
    """The outline of a row, without what it rests on."""

    seq: int
    event_type: EventType
    occurred_at: str
    boot_id: str
    boottime_ms: int


@dataclass(frozen=True, slots=True)
class Outline:
    """As much of an event as counting takes. ``added``: by hand; ``void``: it counts no more."""

    seq: int
    event_type: str
    subject_id: SubjectId
    occurred_at: str
    clock_synchronized: bool
    added: bool
    void: bool


class Attendance(Connection):
    """The table ``attendance``, and the birth of outbox rows."""

    def record_check_in(
        self,
        decision: Decision,
        *,
        event_type: EventType,
        moment: Moment,
        origin: Origin,
        model_id: ModelId,
        gallery_size: int,
        include_name: bool = False,
        outbox: bool = True,
        pad: Pad | None = None,
        threshold_source: str | None = None,
    ) -> AttendanceEvent | None:
        """Commit a check-in; tell the person only after this has returned an event.

        With ``outbox=False`` (MQTT switched off) the event is logged and never sent. None when there is nobody to
        record it for: the subject was erased in the meantime. ``threshold_source``: why the threshold is what it is,
        kept for `kiosk why`.

        Raises:
            StoreError: it could not be committed, or the disk or the outbox is so full that check-ins are refused.
        """
        if decision.subject_id is None:
            raise ValueError("only an identified decision makes a check-in")
        match = match_of(decision, gallery_size=gallery_size, model_id=model_id)
        evidence = gather_evidence(
            decision, gallery_size=gallery_size, model_id=model_id, threshold_source=threshold_source, pad=pad
        ).document()
        return self._record(
            decision.subject_id,
            evidence,
            method=Method.FACE,
            match=match,
            pad=pad,
            event_type=event_type,
            moment=moment,
            origin=origin,
            include_name=include_name,
            outbox=outbox,
        )

    def record_code_check_in(
        self,
        subject_id: SubjectId,
        kind: Kind,
        *,
        event_type: EventType,
        moment: Moment,
        origin: Origin,
        include_name: bool = False,
        outbox: bool = True,
    ) -> AttendanceEvent | None:
        """Commit a check-in by a code; otherwise as :meth:`record_check_in`."""
        return self._record(
            subject_id,
            CodeEvidence(kind, Reason.MATCH).document(),
            method=Method.CODE,
            match=None,
            pad=None,
            event_type=event_type,
            moment=moment,
            origin=origin,
            include_name=include_name,
            outbox=outbox,
        )

    def _record(
        self,
        subject_id: SubjectId,
        evidence: dict[str, Any],
        *,
        method: Method,
        match: Match | None,
        pad: Pad | None,
        event_type: EventType,
        moment: Moment,
        origin: Origin,
        include_name: bool,
        outbox: bool,
    ) -> AttendanceEvent | None:
        with self._writing() as db:
            self._admit(db)
            name = name_of(db, subject_id)
            if name is None:
                return None
            event_id = uuid7(moment.utc_ms)
            seq = insert_entry(
                db,
                event_id=event_id,
                event_type=event_type.value,
                subject_id=subject_id,
                moment=moment,
                origin=origin,
                evidence=without_erased(db, evidence),
            )
            event = attendance_event(
                event_type=event_type,
                event_id=event_id,
                seq=seq,
                moment=moment,
                origin=origin,
                subject=subject_ref(subject_id, name if include_name else None),
                match=match,
                pad=pad,
                method=method,
            )
            if outbox:
                queue_event(db, event, self.signer)
        return event

    def refusal(self) -> str | None:
        """Why check-ins are refused at the moment; None when they are not."""
        with self._reading() as db:
            return self._refusal(db)

    def _admit(self, db: Database) -> None:
        refusal = self._refusal(db)
        if refusal is not None:
            raise StoreError(refusal)

    def _refusal(self, db: Database) -> str | None:
        if _most_unsent(db) >= self.limits.max_unsent and _unsent(db) >= self.limits.max_unsent:
            return (
                f"{self.path}: {self.limits.max_unsent} events wait to be sent (store.max_unsent), and none is given "
                f"up for a new one; `kiosk check` says why they are not sent"
            )
        return self._space_problem()

    def attendance(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        subject: str | None = None,
        after_seq: int = 0,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> list[AttendanceRow]:
        """The log in the order of ``seq``, filtered. ``since`` is included, ``until`` is not; both carry a zone."""
        order = "DESC" if newest_first else "ASC"
        condition, params = _filter(since, until, subject)
        return self._select(
            f"AND a.seq > :after_seq {condition} ORDER BY a.seq {order} LIMIT :limit",
            {**params, "after_seq": after_seq, "limit": -1 if limit is None else limit},
        )

    def count_attendance(
        self, *, since: datetime | None = None, until: datetime | None = None, subject: str | None = None
    ) -> int:
        """How many events :meth:`attendance` finds."""
        condition, params = _filter(since, until, subject)
        found = self._rows(
            f"SELECT COUNT(*) AS found FROM attendance AS a WHERE a.corrects IS NULL {condition}",  # noqa: S608 - our own words
            params,
        )
        return int(found[0]["found"])

    def event(self, event_id: str) -> AttendanceRow | None:
        found = self._select("AND a.event_id = :event_id", {"event_id": event_id})
        return found[0] if found else None

    def find_events(self, id_prefix: str) -> list[AttendanceRow]:
        """Those whose event id begins so (lower case)."""
        return self._select("AND a.event_id >= :low AND a.event_id < :high", prefix_range(id_prefix))

    def outlines(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        subject: str | None = None,
        unsure_only: bool = False,
    ) -> list[Outline]:
        """Events by their time, without those that correct others. Bounds as in :meth:`attendance`, but what is before
        ``since`` comes along from the subject's last check-in or check-out on that counts, and all of it where there is
        none: only behind one of these nothing earlier has a say in what shift an event belongs to.

        ``unsure_only``: those whose clock was not set.
        """
        found = self._rows(
            f"SELECT a.seq, COALESCE(a.added_type, a.event_type) AS event_type, a.subject_id, {_WHEN} AS occurred_at,"  # noqa: S608 - our own words
            f" {_SURE} AS clock_synchronized, a.added_at IS NOT NULL AS added, NOT {_VALID} AS void"
            f" FROM attendance AS a LEFT JOIN ({_LAST_MOVEMENTS}) AS m USING (subject_id)"
            " WHERE a.corrects IS NULL AND a.voids IS NULL"
            f" AND {_WHEN} >= COALESCE(m.at, '') AND (:until IS NULL OR {_WHEN} < :until)"
            " AND (:subject IS NULL OR a.subject_id = :subject)"
            f"{f' AND NOT {_SURE}' if unsure_only else ''} ORDER BY occurred_at, a.seq",
            {"since": time_text(since), "until": time_text(until), "subject": subject},
        )
        flags = ("clock_synchronized", "added", "void")
        return [Outline(**row | {name: bool(row[name]) for name in flags}) for row in found]

    def first_kept(self) -> Visit | None:
        """The oldest event that is still there, by number."""
        return self._visit("ORDER BY a.seq LIMIT 1", {})

    def newest(self) -> Visit | None:
        """What the kiosk itself recorded last, whether that counts or not."""
        return self._visit("AND a.added_at IS NULL ORDER BY a.seq DESC LIMIT 1", {})

    def last_recorded(self, subject_id: str) -> Visit | None:
        """When the kiosk itself saw a subject last, whether that counts or not."""
        return self._visit(
            "AND a.subject_id = :subject AND a.added_at IS NULL ORDER BY a.seq DESC LIMIT 1", {"subject": subject_id}
        )

    def last_visit(self, subject_id: str, *, since: datetime | None = None) -> Visit | None:
        """What a subject did last, at or after ``since`` (a site's midnight) where that is given.

        What is void does not count; what was added by hand does, at the time it is about.
        """
        of_subject = f"AND a.subject_id = :subject AND {_VALID} AND (:since IS NULL OR {_WHEN} >= :since)"
        params = {"subject": subject_id, "since": time_text(since)}
        # The kiosk's own by number, for its clock may have been set back.
        own = self._visit(f"{of_subject} AND a.added_at IS NULL ORDER BY a.seq DESC LIMIT 1", params)
        added = self._visit(
            f"{of_subject} AND a.added_at IS NOT NULL ORDER BY a.added_at DESC, a.seq DESC LIMIT 1", params
        )
        if own is None or added is None:
            return own or added
        return added if added.occurred_at >= own.occurred_at else own

    def _visit(self, condition: str, params: Mapping[str, object]) -> Visit | None:
        found = self._rows(
            f"SELECT a.seq, COALESCE(a.added_type, a.event_type) AS event_type, {_WHEN} AS occurred_at, a.boot_id,"  # noqa: S608 - our own words
            f" a.boottime_ms FROM attendance AS a WHERE a.corrects IS NULL AND a.voids IS NULL {condition}",
            params,
        )
        return Visit(**{**found[0], "event_type": EventType(found[0]["event_type"])}) if found else None

    def last_event_type(self, subject_id: str, since: datetime) -> EventType | None:
        """What `alternate` mode turns around."""
        visit = self.last_visit(subject_id, since=since)
        return None if visit is None else visit.event_type

    def prune(self, retention_days: int, *, now_ms: int) -> int:
        """Delete what is older than the retention period and not waiting to be sent; returns how many events.

        Call it only while the clock can be trusted. A row written under a clock that nobody had set is old only if
        a later row with a trusted date is. Answered wishes for a replay go by the same measure.
        """
        cutoff = utc_text(now_ms - retention_days * _DAY_MS)
        old, deleted = self._rows(_OLDEST_TRUSTED, {"cutoff": cutoff})[0]["old"], 0
        # In pieces: deleting needs space in the write-ahead log, of which there may be little.
        while (piece := self._prune_some(cutoff, old or 0)) > 0:
            deleted += piece
        return deleted

    def _prune_some(self, cutoff: str, old: int) -> int:
        with self._writing() as db:
            db.execute(f"CREATE TEMP TABLE doomed AS {_PRUNABLE}", {"cutoff": cutoff, "old": old})
            _raise_floor(db, scalar(db, "SELECT MAX(seq) FROM doomed") or 0)
            _remember_digest(db)
            db.execute("DELETE FROM outbox WHERE seq IN (SELECT seq FROM doomed)")
            deleted: int = db.execute("DELETE FROM attendance WHERE seq IN (SELECT seq FROM doomed)").rowcount
            db.execute("DROP TABLE doomed")
            db.execute("DELETE FROM replays WHERE next_seq > to_seq AND received_at < ?", [cutoff])
        return deleted

    def _select(self, condition: str, params: dict[str, object]) -> list[AttendanceRow]:
        found = self._rows(_SELECT + condition, params)
        return [_row(row) for row in found]


def _filter(since: datetime | None, until: datetime | None, subject: str | None) -> tuple[str, dict[str, object]]:
    """SQL for the wanted part of the log, and its parameters."""
    parts, params = [], dict[str, object]()
    for name, value, condition in [
        ("since", time_text(since), f"AND {_WHEN} >= :since"),
        ("until", time_text(until), f"AND {_WHEN} < :until"),
        ("subject", subject, "AND a.subject_id = :subject"),
    ]:
        if value is not None:
            parts.append(condition)
            params[name] = value
    return " ".join(parts), params


_WHEN = "COALESCE(a.added_at, a.corrected_at, a.occurred_at)"
"""When it happened, as far as anybody knows."""
_SURE = "(a.clock_synchronized OR a.corrected_at IS NOT NULL OR a.added_at IS NOT NULL)"
_VALID = "NOT EXISTS (SELECT 1 FROM attendance AS v WHERE v.voids = a.seq)"
# Empty where ``since`` is NULL.
_LAST_MOVEMENTS = f"""
    SELECT a.subject_id, MAX({_WHEN}) AS at FROM attendance AS a
    WHERE COALESCE(a.added_type, a.event_type) IN ('{EventType.CHECK_IN}', '{EventType.CHECK_OUT}')
      AND a.corrects IS NULL AND a.voids IS NULL AND {_VALID} AND {_WHEN} < :since
    GROUP BY a.subject_id
"""  # noqa: S608 - our own words
# Rows that correct another one's time are no attendance.
_SELECT = f"""
    SELECT a.seq, a.event_id, COALESCE(a.added_type, a.event_type) AS event_type, a.subject_id, {_WHEN} AS occurred_at,
           a.tz, {_SURE} AS clock_synchronized, a.boot_id, a.boottime_ms,
           a.site, a.device, a.evidence, o.state AS delivery,
           CASE WHEN a.corrected_at IS NOT NULL AND a.added_at IS NULL THEN a.occurred_at END AS stated_at,
           CASE WHEN a.added_at IS NOT NULL THEN COALESCE(a.corrected_at, a.occurred_at) END AS recorded_at,
           a.voids, (SELECT MIN(v.seq) FROM attendance AS v WHERE v.voids = a.seq) AS voided_by
    FROM attendance AS a LEFT JOIN outbox AS o USING (seq)
    WHERE a.corrects IS NULL
"""  # noqa: S608 - our own words
# What was added by hand is as old as its entry, whatever time it is about.
_OLDEST_TRUSTED = """
    SELECT MAX(seq) AS old FROM attendance
    WHERE COALESCE(corrected_at, occurred_at) < :cutoff
      AND (clock_synchronized OR corrected_at IS NOT NULL)
"""
_PRUNABLE = """
    SELECT a.seq FROM attendance AS a LEFT JOIN outbox AS o USING (seq)
    WHERE a.seq <= :old AND COALESCE(a.corrected_at, a.occurred_at) < :cutoff
      AND (o.state IS NULL OR o.state = 'sent')
      -- Without it, what it voids would count again.
      AND NOT EXISTS (SELECT 1 FROM attendance AS v WHERE v.seq = a.voids)
    ORDER BY a.seq LIMIT 500
"""


def name_of(db: Database, subject_id: SubjectId) -> str | None:
    """The subject's name, empty when it has none, None when there is no such subject."""
    name: str | None = scalar(db, "SELECT COALESCE(name, '') FROM subjects WHERE id = ?", [subject_id])
    return name


def insert_entry(
    db: Database,
    *,
    event_id: str,
    event_type: str,
    subject_id: SubjectId,
    moment: Moment,
    origin: Origin,
    evidence: dict[str, object],
    corrects: int | None = None,
    voids: int | None = None,
    added: AddedEvent | None = None,
) -> int:
    """Add a row to the log and return its number."""
    cursor = db.execute(
        "INSERT INTO attendance (event_id, event_type, subject_id, occurred_at, tz, clock_synchronized, boot_id,"
        " boottime_ms, site, device, evidence, corrects, voids, added_type, added_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            event_id,
            event_type,
            subject_id,
            utc_text(moment.utc_ms),
            origin.timezone,
            int(moment.synchronized),
            moment.boot_id,
            moment.boottime_ms,
            origin.site,
            origin.device,
            pack(evidence),
            corrects,
            voids,
            None if added is None else added.event_type.value,
            None if added is None else added.occurred_at,
        ],
    )
    if cursor.lastrowid is None:
        raise RuntimeError("SQLite reports no row id for an insert")
    integrity.seal(db, "attendance", "seq = ?", [cursor.lastrowid])
    return cursor.lastrowid


def _raise_floor(db: Database, seq: int) -> None:
    """Remember a number whose row is about to be deleted, so that its successor can be told from a damaged counter."""
    known = integrity.mark(db, integrity.SEQ_FLOOR) or {"seq": 0}
    if seq > known["seq"]:
        integrity.set_mark(db, integrity.SEQ_FLOOR, {"seq": seq})


def _most_unsent(db: Database) -> int:
    """What :func:`_unsent` cannot exceed, for the price of three look-ups: a long outage must not slow the door."""
    first = "(SELECT MIN(seq) FROM outbox WHERE state <> 'sent' AND state = '{}')".format
    span = scalar(
        db,
        f"SELECT (SELECT MAX(seq) FROM outbox) + 1 - MIN(COALESCE({first('pending')}, {first('parked')}),"  # noqa: S608 - our own words
        f" COALESCE({first('parked')}, {first('pending')}))",
    )
    return int(span or 0)


def _unsent(db: Database) -> int:
    # Grouped, so that SQLite counts in the index of what is unsent, however much was sent.
    return sum(row[0] for row in db.execute("SELECT COUNT(*) FROM outbox WHERE state <> 'sent' GROUP BY state"))


def queue_event(db: Database, event: NumberedEvent, signer: EventSigner | None) -> None:
    """Put an event into the outbox, in the transaction that makes it."""
    payload = event.payload()
    if signer is not None:
        payload = signer.chain(payload, _last_digest(db, before=event.seq))
    db.execute(
        "INSERT INTO outbox (seq, event_id, topic, payload, created_at) VALUES (?, ?, ?, ?, ?)",
        [event.seq, event.event_id, ATTENDANCE, encode(payload).decode(), event.occurred_at],
    )
    integrity.seal(db, "outbox", "seq = ?", [event.seq])


def chain_again(db: Database, from_seq: int, signer: EventSigner) -> None:
    """Sign anew what nobody has seen yet, from an event on that was changed. A damaged row stays as it is."""
    previous = _last_digest(db, before=from_seq)
    for seq, text in db.execute(f"{_SOUND_EVENTS} AND seq >= ? ORDER BY seq", [from_seq]).fetchall():
        payload = signer.chain(json.loads(text), previous)
        db.execute("UPDATE outbox SET payload = ? WHERE seq = ?", [encode(payload).decode(), seq])
        integrity.seal(db, "outbox", "seq = ?", [seq])
        previous = digest(payload)


def _last_digest(db: Database, *, before: int) -> str | None:
    """Of the last event before a number; None where there has been none.

    One whose row is damaged is passed over: the verifier then finds a gap there, and the door stays open.
    """
    found = db.execute(f"{_SOUND_EVENTS} AND seq < ? ORDER BY seq DESC LIMIT 1", [before]).fetchone()
    if found is not None:
        return digest(json.loads(found[1]))
    pruned = integrity.mark(db, integrity.CHAIN_HEAD)
    return None if pruned is None else str(pruned["digest"])


def events_are_signed(db: Database) -> bool:
    """Whether the last event that is kept is signed."""
    found = db.execute(f"{_SOUND_EVENTS} ORDER BY seq DESC LIMIT 1").fetchone()
    return found is not None and "signature" in json.loads(found[1])


def _remember_digest(db: Database) -> None:
    """Of the last event, where it is about to be deleted: the next one follows from it."""
    if not scalar(db, "SELECT (SELECT MAX(seq) FROM outbox) IN (SELECT seq FROM doomed)"):
        return
    last = _last_digest(db, before=MAX_SEQ)
    if last is not None:
        integrity.set_mark(db, integrity.CHAIN_HEAD, {"digest": last})


_SOUND_EVENTS = f"SELECT seq, payload FROM outbox WHERE {integrity.sound('outbox')}"  # noqa: S608 - our own words


def _row(row: dict[str, Any]) -> AttendanceRow:
    return AttendanceRow(
        **{
            **row,
            "clock_synchronized": bool(row["clock_synchronized"]),
            "evidence": unpack(row["evidence"]),
        }
    )
