"""Events committed and not yet acknowledged by the broker."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from kiosk.events import utc_text
from kiosk.ports import OutboxRow
from kiosk.store._connection import Connection


@dataclass(frozen=True, slots=True)
class OutboxCounts:
    """How the outbox stands. ``last_error``: of the oldest unsent event."""

    pending: int
    sent: int
    parked: int
    oldest_pending_at: str | None
    last_error: str | None


class OutboxTable(Connection):
    """The table ``outbox``; implements :class:`kiosk.ports.Outbox`."""

    _inherited_seq = 0
    """Highest ``seq`` that was there when this process opened the store."""

    def next_pending(self) -> OutboxRow | None:
        found = self._rows(
            "SELECT o.seq, o.event_id, o.topic, o.payload, o.attempts, a.boottime_ms"
            " FROM outbox AS o JOIN attendance AS a USING (seq) WHERE o.state = 'pending' ORDER BY o.seq LIMIT 1"
        )
        if not found:
            return None
        row = found[0]
        return OutboxRow(
            seq=row["seq"],
            event_id=row["event_id"],
            topic=row["topic"],
            payload=json.loads(row["payload"]),
            attempts=row["attempts"],
            fresh=row["seq"] > self._inherited_seq and row["attempts"] == 0,
            committed_boottime_s=row["boottime_ms"] / 1000,
        )

    def mark_sent(self, seq: int) -> None:
        with self._writing() as db:
            db.execute(
                "UPDATE outbox SET state = 'sent', sent_at = ?, attempts = attempts + 1, last_error = NULL"
                " WHERE seq = ?",
                [utc_text(time.time_ns() // 1_000_000), seq],
            )

    def mark_failed(self, seq: int, error: str) -> None:
        with self._writing() as db:
            db.execute("UPDATE outbox SET attempts = attempts + 1, last_error = ? WHERE seq = ?", [error, seq])

    def outbox_counts(self) -> OutboxCounts:
        counted = self._rows("SELECT state, COUNT(*) AS n FROM outbox GROUP BY state")
        counts = {row["state"]: row["n"] for row in counted}
        oldest = self._rows("SELECT created_at, last_error FROM outbox WHERE state <> 'sent' ORDER BY seq LIMIT 1")
        return OutboxCounts(
            pending=counts.get("pending", 0),
            sent=counts.get("sent", 0),
            parked=counts.get("parked", 0),
            oldest_pending_at=oldest[0]["created_at"] if oldest else None,
            last_error=oldest[0]["last_error"] if oldest else None,
        )
