"""Corrections by hand: an event that the kiosk did not record is added, one that is wrong is voided.

Nothing is edited: a correction is an event of its own, with its own number, in log, outbox and audit log at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlite_utils import Database

from kiosk.biometrics import SubjectId
from kiosk.errors import ConfigError, InputError
from kiosk.events import (
    MANUAL_ENTRY,
    VOID,
    AddedEvent,
    ClockReading,
    EventType,
    ManualEntry,
    Moment,
    Origin,
    Void,
    VoidedEvent,
    subject_ref,
    utc_text,
    uuid7,
)
from kiosk.evidence import ManualEvidence
from kiosk.store._attendance import Attendance, events_are_signed, insert_entry, name_of, queue_event
from kiosk.store._audit import AuditLog
from kiosk.store._chain import Action
from kiosk.store._connection import rows, scalar

_MAX_REASON = 200
_DAY_MS = 86_400_000


class ManualEntries(Attendance, AuditLog):
    """Rows of the attendance log that people make."""

    def add_event(
        self,
        subject_id: SubjectId,
        event_type: EventType,
        at_ms: int,
        *,
        reason: str,
        moment: Moment,
        origin: Origin,
        retention_days: int,
        include_name: bool = False,
        outbox: bool = True,
    ) -> ManualEntry:
        """Add what the kiosk did not record. ``at_ms``: when it happened, UTC; ``moment``: now.

        Raises:
            InputError: nobody of this id is enrolled; the time has not come yet, is longer ago than events are kept, or
                has such an event already; or the reason is not acceptable.
            ConfigError: events are signed, and there is no key to sign this one with.
            StoreError: it could not be committed, or the disk or the outbox is full.
        """
        reason = check_reason(reason)
        _check_time(at_ms, moment, origin, retention_days)
        added = AddedEvent(event_type=event_type, occurred_at=utc_text(at_ms))
        with self._writing() as db:
            self._prepare(db, outbox=outbox)
            name = _enrolled(db, subject_id)
            twin = scalar(db, _TWIN, [subject_id, event_type.value, added.occurred_at])
            if twin is not None:
                raise InputError(f"{subject_id} has a {event_type} at that time already: event {twin}")
            event_id = uuid7(moment.utc_ms)
            seq = insert_entry(
                db,
                event_id=event_id,
                event_type=MANUAL_ENTRY,
                subject_id=subject_id,
                moment=moment,
                origin=origin,
                evidence=ManualEvidence(reason).document(),
                added=added,
            )
            subject = subject_ref(subject_id, name if include_name else None)
            entry = ManualEntry(event_id=event_id, seq=seq, subject=subject, adds=added, **_common(moment, origin))
            if outbox:
                queue_event(db, entry, self.signer)
            details = {"seq": seq, "event_id": event_id, "type": event_type.value, "at": added.occurred_at}
            self._log(db, Action.ADD_EVENT, details, subject_id=subject_id)
        return entry

    def void_event(
        self,
        seq: int,
        *,
        reason: str,
        moment: Moment,
        origin: Origin,
        subject_id: SubjectId | None = None,
        outbox: bool = True,
    ) -> Void:
        """Have an event, recorded or added, count no more. ``subject_id``: refuse if it is another one's.

        Raises:
            InputError: there is no such event, it is void already, corrects another one, is another subject's or of
                somebody who is not enrolled any more; or the reason is not acceptable.
            ConfigError, StoreError: as :meth:`add_event`.
        """
        reason = check_reason(reason)
        with self._writing() as db:
            self._prepare(db, outbox=outbox)
            row = self._voidable(db, seq)
            owner = SubjectId(row["subject_id"])
            if subject_id not in {None, owner}:
                raise InputError(f"event {seq} is {owner}'s, not {subject_id}'s: nothing was voided")
            _enrolled(db, owner)
            voided = VoidedEvent(event_id=row["event_id"], seq=seq)
            event_id = uuid7(moment.utc_ms)
            own_seq = insert_entry(
                db,
                event_id=event_id,
                event_type=VOID,
                subject_id=owner,
                moment=moment,
                origin=origin,
                evidence=ManualEvidence(reason, voided).document(),
                voids=seq,
            )
            void = Void(event_id=event_id, seq=own_seq, voids=voided, **_common(moment, origin))
            if outbox:
                queue_event(db, void, self.signer)
            details = {"seq": own_seq, "event_id": event_id, "voids": seq, "voids_id": voided.event_id}
            self._log(db, Action.VOID_EVENT, details, subject_id=owner)
        return void

    def _prepare(self, db: Database, *, outbox: bool) -> None:
        self._admit(db)
        if outbox and self.signer is None and events_are_signed(db):
            raise ConfigError(
                "the events of this kiosk are signed, and there is no key here to sign this one with: set "
                "mqtt.sign_key_file to a key this user may read, or run this with the service's credentials "
                "(systemd/README.md); where signing was turned off, wait for the next event"
            )

    def _voidable(self, db: Database, seq: int) -> dict[str, Any]:
        found = rows(db, "SELECT event_id, subject_id, corrects, voids FROM attendance WHERE seq = ?", [seq])
        if not found:
            raise InputError(f"no event {seq} in {self.path}; `kiosk events` lists them")
        row = found[0]
        if row["corrects"] is not None:
            raise InputError(f"event {seq} only corrects the time of event {row['corrects']}: void that one")
        if row["voids"] is not None:
            raise InputError(
                f"event {seq} is what voids event {row['voids']}; to have that count again, add it anew "
                "(`kiosk events add`)"
            )
        by = scalar(db, "SELECT MIN(seq) FROM attendance WHERE voids = ?", [seq])
        if by is not None:
            raise InputError(f"event {seq} is void already, by event {by}")
        return row


_TWIN = """
    SELECT MIN(seq) FROM attendance AS a
    WHERE subject_id = ? AND COALESCE(added_type, event_type) = ?
      AND COALESCE(added_at, corrected_at, occurred_at) = ? AND corrects IS NULL
      AND NOT EXISTS (SELECT 1 FROM attendance AS v WHERE v.voids = a.seq)
"""


def check_reason(text: str) -> str:
    """The reason without blanks around it.

    Raises:
        InputError: it is empty, too long, or has control characters.
    """
    reason = text.strip()
    if not reason or len(reason) > _MAX_REASON or not reason.isprintable():
        raise InputError(f"the reason must be 1 to {_MAX_REASON} characters in one line: say why, for others")
    return reason


def _check_time(at_ms: int, moment: Moment, origin: Origin, retention_days: int) -> None:
    if at_ms > moment.utc_ms:
        doubt = "" if moment.synchronized else ", which is not known to be right: see `timedatectl`"
        raise InputError(
            f"{_local(at_ms, origin)} has not come yet: the kiosk's clock says {_local(moment.utc_ms, origin)}{doubt}"
        )
    if at_ms < moment.utc_ms - retention_days * _DAY_MS:
        raise InputError(f"that is longer ago than events are kept (store.retention_days: {retention_days})")


def _local(since_1970_ms: int, origin: Origin) -> str:
    local = datetime.fromtimestamp(since_1970_ms / 1000, ZoneInfo(origin.timezone))
    return f"{local:%Y-%m-%d %H:%M:%S}"


def _enrolled(db: Database, subject_id: SubjectId) -> str:
    """The name, empty without one.

    Raises:
        InputError: who is not enrolled (any more) gets no entries: nobody could erase their reasons.
    """
    name = name_of(db, subject_id)
    if name is None:
        raise InputError(f"{subject_id} is not enrolled (any more); `kiosk subjects list` shows who is")
    return name


def _common(moment: Moment, origin: Origin) -> Mapping[str, Any]:
    return {
        "occurred_at": utc_text(moment.utc_ms),
        "tz": origin.timezone,
        "clock_synchronized": moment.synchronized,
        "site": origin.site,
        "device": origin.device,
        "clock": ClockReading(boot_id=moment.boot_id, boottime_ms=moment.boottime_ms),
    }
