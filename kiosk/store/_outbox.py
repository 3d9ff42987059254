"""Events committed and not yet acknowledged by the broker, and those somebody asked for again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlite_utils import Database

from kiosk import integrity
from kiosk.events import utc_text
from kiosk.ports import OutboxRow, ReplayBatch
from kiosk.store._connection import Connection, rows, scalar
from kiosk.store._replay_limits import ReplayLimits

MAX_WAITING_REPLAYS = 100
"""Whoever asks more often than a kiosk can answer is not heard."""
MAX_REMEMBERED_REPLAYS = 1000
"""Commands answered last whose ids are known; an older one is obeyed again."""


@dataclass(frozen=True, slots=True)
class OutboxCounts:
    """How the outbox stands. ``last_error``: of the oldest unsent event; ``kept_from_seq``: what a replay can reach."""

    pending: int
    sent: int
    parked: int
    oldest_pending_at: str | None
    last_error: str | None
    kept_from_seq: int | None = None
    last_seq: int | None = None


@dataclass(frozen=True, slots=True)
class Unsent:
    """What has not arrived, in numbers. ``last_error``: of the oldest event."""

    pending: int = 0
    parked: int = 0
    oldest_at: str | None = None
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class UnsentEvent:
    """One event that has not arrived. ``state``: pending or parked; ``attempts`` that failed, the last by ``error``."""

    seq: int
    event_id: str
    event_type: str
    subject_id: str
    created_at: str
    state: str
    attempts: int
    error: str | None


class OutboxTable(Connection):
    """The tables ``outbox`` and ``replays``; implements :class:`kiosk.ports.Outbox`."""

    _inherited_seq = 0
    """Highest ``seq`` that was there when this process opened the store."""
    _lent_seq = 0
    """Highest ``seq`` handed out for sending since."""

    @cached_property
    def replay_limits(self) -> ReplayLimits:
        """What this process has granted."""
        return ReplayLimits()

    def next_pending(self) -> OutboxRow | None:
        found = self._rows(_PENDING, [1])
        return self._row(found[0]) if found else None

    def lend_pending(self, limit: int) -> list[OutboxRow]:
        with self._reading() as db:
            found = rows(db, _PENDING, [limit])
            if found:
                self._lent_seq = max(self._lent_seq, found[-1]["seq"])
        return [self._row(row) for row in found]

    def next_parked(self) -> OutboxRow | None:
        found = self._rows(
            f"{_SELECT} WHERE o.state <> 'sent' AND o.state = 'parked' ORDER BY o.attempts, o.seq LIMIT 1"
        )
        return self._row(found[0]) if found else None

    def mark_sent(self, seqs: Sequence[int]) -> None:
        now = utc_text(time.time_ns() // 1_000_000)
        with self._writing() as db:
            for seq in seqs:
                db.execute(
                    "UPDATE outbox SET state = 'sent', sent_at = ?, attempts = attempts + 1, last_error = NULL"
                    " WHERE seq = ?",
                    [now, seq],
                )

    def mark_failed(self, seq: int, error: str, *, park: bool = False) -> None:
        with self._writing() as db:
            db.execute(
                "UPDATE outbox SET attempts = attempts + 1, last_error = ?,"
                " state = CASE WHEN ? THEN 'parked' ELSE state END WHERE seq = ?",
                [error, park, seq],
            )

    def request_replay(self, command_id: str, from_seq: int, to_seq: int) -> str | None:
        # Only looked at first: whoever is refused costs no commit.
        with self._reading() as db:
            known = scalar(db, "SELECT 1 FROM replays WHERE command_id = ?", [command_id])
            waiting = scalar(db, "SELECT COUNT(*) FROM replays WHERE next_seq <= to_seq")
            events, kept = _reach(db, from_seq, to_seq)
        if known:
            return "obeyed before"
        if not events:
            return "none of these events is kept"
        if waiting >= MAX_WAITING_REPLAYS:
            return f"{MAX_WAITING_REPLAYS} others wait"
        refusal = self.replay_limits.refusal(events, kept, time.monotonic())
        if refusal is not None:
            return refusal
        if self._space_problem() is not None:
            return "too little is free on the store's disk"
        with self._writing() as db:
            db.execute(
                "INSERT INTO replays (command_id, received_at, next_seq, to_seq) VALUES (?, ?, ?, ?)",
                [command_id, utc_text(time.time_ns() // 1_000_000), from_seq, to_seq],
            )
            integrity.seal(db, "replays", "command_id = ?", [command_id])
            db.execute(_FORGET_ANSWERED, [MAX_REMEMBERED_REPLAYS])
        self.replay_limits.grant(events, time.monotonic())
        return None

    def next_replay(self, limit: int) -> ReplayBatch | None:
        with self._reading() as db:
            command = rows(db, "SELECT * FROM replays WHERE next_seq <= to_seq ORDER BY received_at, rowid LIMIT 1")
            if not command:
                return None
            found = rows(
                db,
                f"{_SELECT} WHERE o.state = 'sent' AND o.seq BETWEEN ? AND ? ORDER BY o.seq LIMIT ?",
                [command[0]["next_seq"], command[0]["to_seq"], limit],
            )
        return ReplayBatch(command[0]["command_id"], tuple(self._row(row) for row in found), command[0]["to_seq"])

    def advance_replay(self, command_id: str, next_seq: int | None) -> None:
        with self._writing() as db:
            db.execute(
                "UPDATE replays SET next_seq = COALESCE(?, to_seq + 1) WHERE command_id = ?", [next_seq, command_id]
            )

    def unsent_events(self) -> list[UnsentEvent]:
        """What has not arrived, oldest first."""
        found = self._rows(
            "SELECT o.seq, o.event_id, a.event_type, a.subject_id, o.created_at, o.state, o.attempts,"
            " o.last_error AS error FROM outbox AS o JOIN attendance AS a USING (seq)"
            " WHERE o.state <> 'sent' AND o.state IN ('pending', 'parked') ORDER BY o.seq"
        )
        return [UnsentEvent(**row) for row in found]

    def retry_parked(self, seqs: Sequence[int] | None = None) -> list[int]:
        """Put parked events (all, or these) back into the queue; returns which."""
        with self._writing() as db:
            parked = [
                row["seq"] for row in rows(db, "SELECT seq FROM outbox WHERE state <> 'sent' AND state = 'parked'")
            ]
            wanted = parked if seqs is None else [seq for seq in parked if seq in set(seqs)]
            for seq in wanted:
                db.execute("UPDATE outbox SET state = 'pending' WHERE seq = ?", [seq])
        return wanted

    def event_payloads(self) -> Iterator[dict[str, Any]]:
        """Every event that is kept, sent or not, as it is sent first; in pieces, for there may be many."""
        seq = 0
        while found := self._rows(f"{_SELECT} WHERE o.seq > ? ORDER BY o.seq LIMIT {_PIECE}", [seq]):
            yield from (self._row(row).payload for row in found)
            seq = found[-1]["seq"]

    def unsent(self) -> Unsent:
        """How much waits; cheap, however much was sent before."""
        with self._reading() as db:
            counted = rows(db, _UNSENT)
            first = min((row["first"] for row in counted), default=0)
            oldest = rows(db, "SELECT created_at, last_error FROM outbox WHERE seq = ?", [first])
        counts = {row["state"]: row["n"] for row in counted}
        return Unsent(
            pending=counts.get("pending", 0),
            parked=counts.get("parked", 0),
            oldest_at=oldest[0]["created_at"] if oldest else None,
            last_error=oldest[0]["last_error"] if oldest else None,
        )

    def outbox_counts(self) -> OutboxCounts:
        """Everything about the outbox; the number of sent events takes a look at each."""
        unsent = self.unsent()
        (total,) = self._rows("SELECT COUNT(*) AS n FROM outbox")
        return OutboxCounts(
            pending=unsent.pending,
            sent=total["n"] - unsent.pending - unsent.parked,
            parked=unsent.parked,
            oldest_pending_at=unsent.oldest_at,
            last_error=unsent.last_error,
            kept_from_seq=self.kept_from_seq(),
            last_seq=self.last_seq(),
        )

    def kept_from_seq(self) -> int | None:
        """The lowest number a replay can reach, None while there is nothing."""
        (row,) = self._rows("SELECT MIN(seq) AS first FROM outbox")
        first: int | None = row["first"]
        return first

    def last_seq(self) -> int | None:
        """The highest number given out so far, whether its row is still there or not; None before the first."""
        found = self._rows("SELECT seq FROM sqlite_sequence WHERE name = 'attendance'")
        return found[0]["seq"] if found else None

    def inherit_outbox(self) -> None:
        """What is there now was committed by others: it may have been sent, and opens no door any more."""
        (row,) = self._rows("SELECT COALESCE(MAX(seq), 0) AS seq FROM outbox")
        self._inherited_seq = row["seq"]

    def _may_have_left(self, seq: int) -> bool:
        """Whether a broker may know this event already."""
        return seq <= max(self._inherited_seq, self._lent_seq)

    def _row(self, row: dict[str, Any]) -> OutboxRow:
        if not row["sound"]:
            raise self.note_damage(f"event {row['seq']} differs from what was written")
        return OutboxRow(
            seq=row["seq"],
            event_id=row["event_id"],
            topic=row["topic"],
            payload=json.loads(row["payload"]),
            attempts=row["attempts"],
            fresh=row["seq"] > self._inherited_seq and row["attempts"] == 0,
            committed_boottime_s=row["boottime_ms"] / 1000,
        )


def _reach(db: Database, from_seq: int, to_seq: int) -> tuple[int, int]:
    """How many events a range covers at most, 0 where none of it is kept; and how many are kept at most."""
    (kept,) = rows(db, "SELECT (SELECT MIN(seq) FROM outbox) AS first, (SELECT MAX(seq) FROM outbox) AS last")
    if scalar(db, "SELECT 1 FROM outbox WHERE seq BETWEEN ? AND ? LIMIT 1", [from_seq, to_seq]) is None:
        return 0, 0
    events = min(to_seq, kept["last"]) - max(from_seq, kept["first"]) + 1
    return events, kept["last"] - kept["first"] + 1


_PIECE = 500
# Rows get ever higher numbers here, whatever the clock says.
_FORGET_ANSWERED = """
    DELETE FROM replays
    WHERE rowid IN (SELECT rowid FROM replays WHERE next_seq > to_seq ORDER BY rowid DESC LIMIT -1 OFFSET ?)
"""
_SELECT = (
    "SELECT o.seq, o.event_id, o.topic, o.payload, o.attempts, a.boottime_ms,"  # noqa: S608 - names from the code
    f" {integrity.sound('outbox', 'o')} AS sound"
    " FROM outbox AS o JOIN attendance AS a USING (seq)"
)
_UNSENT = "SELECT state, COUNT(*) AS n, MIN(seq) AS first FROM outbox WHERE state <> 'sent' GROUP BY state"
# "<> 'sent'" lets SQLite use the index of what is unsent.
_PENDING = f"{_SELECT} WHERE o.state <> 'sent' AND o.state = 'pending' ORDER BY o.seq LIMIT ?"
