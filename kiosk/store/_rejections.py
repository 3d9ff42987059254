"""Decisions that led to no check-in, kept some days for `kiosk why` to explain. No image, no embedding, no name."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kiosk import integrity
from kiosk.biometrics import Decision, ModelId
from kiosk.codes import Kind
from kiosk.errors import StoreError
from kiosk.events import Moment, Origin, RejectedEvent, utc_text
from kiosk.evidence import CodeEvidence, gather_evidence
from kiosk.packing import pack, unpack
from kiosk.store._connection import Connection, prefix_range, scalar, time_text
from kiosk.store._mentions import without_erased

MAX_REJECTIONS = 10_000
"""The oldest go first: a busy street, or somebody who dances before the camera, must not fill the disk."""

_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class RejectionRow:
    """One stored decision without a check-in; ``reason`` is one of :class:`kiosk.biometrics.Reason`."""

    event_id: str
    reason: str
    occurred_at: str
    tz: str
    clock_synchronized: bool
    boot_id: str
    boottime_ms: int
    site: str
    device: str
    evidence: dict[str, Any]


class Rejections(Connection):
    """The table ``rejections``."""

    def record_rejection(
        self,
        decision: Decision,
        event: RejectedEvent,
        *,
        moment: Moment,
        origin: Origin,
        model_id: ModelId,
        gallery_size: int,
        threshold_source: str | None = None,
    ) -> None:
        """Keep a decision under the id of the event that tells of it.

        Raises:
            StoreError: it could not be committed, or the disk is so full that nothing new is kept.
        """
        evidence = gather_evidence(
            decision, gallery_size=gallery_size, model_id=model_id, threshold_source=threshold_source
        ).document()
        self._insert_rejection(evidence, event, moment=moment, origin=origin)

    def record_code_rejection(self, kind: Kind, event: RejectedEvent, *, moment: Moment, origin: Origin) -> None:
        """Keep that a code was not accepted; otherwise as :meth:`record_rejection`."""
        self._insert_rejection(CodeEvidence(kind, event.reason).document(), event, moment=moment, origin=origin)

    def _insert_rejection(
        self, evidence: dict[str, Any], event: RejectedEvent, *, moment: Moment, origin: Origin
    ) -> None:
        problem = self._space_problem()
        if problem is not None:
            raise StoreError(problem)
        with self._writing() as db:
            cursor = db.execute(
                "INSERT INTO rejections (event_id, reason, occurred_at, tz, clock_synchronized, boot_id, boottime_ms,"
                " site, device, evidence) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    event.event_id,
                    event.reason.value,
                    event.occurred_at,
                    origin.timezone,
                    int(moment.synchronized),
                    moment.boot_id,
                    moment.boottime_ms,
                    origin.site,
                    origin.device,
                    pack(without_erased(db, evidence)),
                ],
            )
            integrity.seal(db, "rejections", "number = ?", [cursor.lastrowid])
            # Numbers only grow while there are rows: at most so many can be above this one.
            db.execute("DELETE FROM rejections WHERE number <= ?", [(cursor.lastrowid or 0) - MAX_REJECTIONS])

    def rejections(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> list[RejectionRow]:
        """In the order they happened. ``since`` is included, ``until`` is not; both carry a zone."""
        return self._select_rejections(
            _WITHIN, {"since": time_text(since), "until": time_text(until)}, limit=limit, newest_first=newest_first
        )

    def count_rejections(self, *, since: datetime | None = None, until: datetime | None = None) -> int:
        """How many :meth:`rejections` finds."""
        found = self._rows(
            f"SELECT COUNT(*) AS found FROM rejections {_WITHIN}",  # noqa: S608 - our own words
            {"since": time_text(since), "until": time_text(until)},
        )
        return int(found[0]["found"])

    def find_rejections(self, id_prefix: str) -> list[RejectionRow]:
        """Those whose event id begins so (lower case)."""
        return self._select_rejections("WHERE event_id >= :low AND event_id < :high", prefix_range(id_prefix))

    def prune_rejections(self, days: int, *, now_ms: int) -> int:
        """Delete what is older than ``days``, everything with 0; returns how many.

        Unless ``days`` is 0 call it only while the clock can be trusted; a row written under a clock that nobody had
        set is treated as :meth:`kiosk.store._attendance.Attendance.prune` does.
        """
        cutoff = utc_text(now_ms - days * _DAY_MS)
        with self._writing() as db:
            if days == 0:
                return db.execute("DELETE FROM rejections").rowcount
            old = scalar(db, _OLDEST_TRUSTED, {"cutoff": cutoff}) or 0
            return db.execute("DELETE FROM rejections WHERE number <= ? AND occurred_at < ?", [old, cutoff]).rowcount

    def _select_rejections(
        self, where: str, params: dict[str, object], *, limit: int | None = None, newest_first: bool = False
    ) -> list[RejectionRow]:
        found = self._rows(
            f"{_SELECT} {where} ORDER BY number {'DESC' if newest_first else 'ASC'} LIMIT :limit",
            {**params, "limit": -1 if limit is None else limit},
        )
        return [
            RejectionRow(
                **{
                    **row,
                    "clock_synchronized": bool(row["clock_synchronized"]),
                    "evidence": unpack(row["evidence"]),
                }
            )
            for row in found
        ]


_SELECT = """
    SELECT event_id, reason, occurred_at, tz, clock_synchronized, boot_id, boottime_ms, site, device, evidence
    FROM rejections
"""
_WITHIN = "WHERE (:since IS NULL OR occurred_at >= :since) AND (:until IS NULL OR occurred_at < :until)"
_OLDEST_TRUSTED = """
    SELECT MAX(number) FROM rejections
    WHERE occurred_at < :cutoff AND clock_synchronized
"""
