"""What `kiosk why` tells of events that were entered or voided by hand: by whom, when and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self
from zoneinfo import ZoneInfo

import click

from kiosk.commands.lookup import Row
from kiosk.commands.options import print_json
from kiosk.commands.times import local_time
from kiosk.evidence import MANUAL, ManualEvidence
from kiosk.store import Action, AttendanceRow, Store

_BY_HAND = frozenset({Action.ADD_EVENT, Action.VOID_EVENT})


@dataclass(frozen=True, slots=True)
class Correction:
    """``by``: the event that voids the one in question, None while that counts.

    ``entered_by``, ``voided_by``: who did it, as the audit log has it; None: it has no such row, or nobody did.
    """

    by: AttendanceRow | None = None
    entered_by: str | None = None
    voided_by: str | None = None

    @classmethod
    def find(cls, store: Store, row: Row) -> Self:
        """What was done by hand with an event or to it."""
        if not isinstance(row, AttendanceRow):
            return cls()
        logged = store.audit_rows(subject=row.subject_id) if row.subject_id else []
        who = {change.detail().get("event_id"): change.who for change in logged if change.action in _BY_HAND}
        if row.voided_by is None:
            return cls(entered_by=who.get(row.event_id))
        by = next(iter(store.attendance(after_seq=row.voided_by - 1, limit=1)), None)
        return cls(by, who.get(row.event_id), None if by is None else who.get(by.event_id))

    def document(self) -> dict[str, Any]:
        """``voided``: None while the event counts."""
        if self.by is None:
            return {"voided": None}
        return {
            "voided": {
                "seq": self.by.seq,
                "event_id": self.by.event_id,
                "occurred_at": self.by.occurred_at,
                "reason": self.by.evidence.get("reason"),
                "by": self.voided_by,
            }
        }

    def lines(self, zone: ZoneInfo) -> Iterator[str]:
        """Nothing while the event counts."""
        if self.by is not None:
            yield ""
            yield f"VOID: event {self.by.seq} says at {local_time(self.by.occurred_at, zone)} that this counts no more"
            yield from _why(self.by.evidence.get("reason"), self.voided_by)


def tell_manual(
    row: AttendanceRow, evidence: ManualEvidence, correction: Correction, zone: ZoneInfo, *, as_json: bool
) -> None:
    """Print what was added by hand, or what voids another event."""
    recorded_at = row.recorded_at or row.occurred_at
    if as_json:
        print_json(manual_document(row, evidence, correction))
        return
    click.echo(f"{row.event_type} of {row.subject_id} (seq {row.seq}), {row.site}/{row.device}")
    click.echo(f"event {row.event_id} at {local_time(row.occurred_at, zone)} {zone.key}")
    click.echo()
    if evidence.voids is None:
        click.echo(f"added by hand at {local_time(recorded_at, zone)}: the kiosk saw nobody")
    else:
        click.echo(f"entered by hand: event {evidence.voids.seq} ({evidence.voids.event_id}) counts no more")
    for line in [*_why(evidence.reason, correction.entered_by), *correction.lines(zone)]:
        click.echo(line)


def manual_document(row: AttendanceRow, evidence: ManualEvidence, correction: Correction) -> dict[str, Any]:
    """What was entered by hand, as JSON."""
    return {
        "event_id": row.event_id,
        "seq": row.seq,
        "event_type": row.event_type,
        "occurred_at": row.occurred_at,
        "tz": row.tz,
        "recorded_at": row.recorded_at or row.occurred_at,
        "site": row.site,
        "device": row.device,
        "method": MANUAL,
        "subject_id": row.subject_id,
        "reason": evidence.reason,
        "by": correction.entered_by,
        "voids": None if evidence.voids is None else evidence.voids.payload(),
        **correction.document(),
    }


def _why(reason: str | None, login: str | None) -> Iterator[str]:
    yield f"reason: {reason or 'not kept: erased with the person, or lost in a restore'}"
    yield f"entered by: {login or 'nobody the audit log knows of'}"
