"""Events taken before the kiosk knew the time get the right one once it does."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlite_utils import Database

from kiosk import integrity
from kiosk.biometrics import SubjectId
from kiosk.events import (
    TIME_CORRECTION,
    CorrectedTime,
    Moment,
    Origin,
    TimeCorrection,
    encode,
    utc_ms,
    utc_text,
    uuid7,
)
from kiosk.signatures import EventSigner
from kiosk.store._attendance import chain_again, insert_entry, queue_event
from kiosk.store._connection import rows
from kiosk.store._outbox import OutboxTable

_UNCORRECTED = """
    SELECT a.seq, a.event_id, a.subject_id, a.occurred_at, a.boottime_ms, o.state, o.attempts
    FROM attendance AS a LEFT JOIN outbox AS o USING (seq)
    WHERE a.boot_id = ? AND a.clock_synchronized = 0 AND a.corrected_at IS NULL AND a.corrects IS NULL
    ORDER BY a.seq
"""


@dataclass(frozen=True, slots=True)
class Corrections:
    """How many events got another time: in place, before they were sent, or by an event of their own."""

    unsent: int = 0
    sent: int = 0

    @property
    def total(self) -> int:
        return self.unsent + self.sent


class CorrectionsTable(OutboxTable):
    """Times are corrected where the log and the outbox meet."""

    def correct_times(self, moment: Moment, origin: Origin) -> Corrections:
        """Correct every event of this boot that was taken while the clock was not set.

        ``moment``: now, with a clock that is. What no broker can have seen yet is sent with the right time; everything
        else stays as it was said, and is followed by a :class:`kiosk.events.TimeCorrection` with a number of its own.
        Nothing happens where the system does not tell its boots apart.
        """
        if not moment.boot_id or not moment.synchronized:
            return Corrections()
        unsent = sent = 0
        first: int | None = None
        with self._reading() as db:
            if not rows(db, _UNCORRECTED + " LIMIT 1", [moment.boot_id]):
                return Corrections()
        with self._writing() as db:
            for row in rows(db, _UNCORRECTED, [moment.boot_id]):
                corrected_ms = moment.utc_ms - moment.boottime_ms + row["boottime_ms"]
                db.execute("UPDATE attendance SET corrected_at = ? WHERE seq = ?", [utc_text(corrected_ms), row["seq"]])
                if row["state"] is None:
                    continue
                if row["state"] == "pending" and not row["attempts"] and not self._may_have_left(row["seq"]):
                    if _restate(db, row["seq"], corrected_ms):
                        first = first or row["seq"]
                        unsent += 1
                else:
                    _announce(db, row, corrected_ms, moment, origin, signer=self.signer)
                    sent += 1
            if self.signer is not None and first is not None:
                chain_again(db, first, self.signer)
            rejected = rows(
                db,
                "SELECT number FROM rejections WHERE boot_id = ? AND clock_synchronized = 0",
                [moment.boot_id],
            )
            db.execute(
                "UPDATE rejections SET clock_synchronized = 1,"
                " occurred_at = strftime('%Y-%m-%dT%H:%M:%fZ', (? + boottime_ms) / 1000.0, 'unixepoch')"
                " WHERE boot_id = ? AND clock_synchronized = 0",
                [moment.utc_ms - moment.boottime_ms, moment.boot_id],
            )
            for row in rejected:
                integrity.seal(db, "rejections", "number = ?", [row["number"]])
        return Corrections(unsent, sent)


def _restate(db: Database, seq: int, corrected_ms: int) -> bool:
    """Have an event that nobody has seen yet tell the right time.

    One whose row is damaged stays damaged, for its digest to tell; the restore makes it anew with the right time.
    """
    sound = integrity.sound("outbox")
    found = db.execute(f"SELECT payload FROM outbox WHERE seq = ? AND {sound}", [seq]).fetchone()  # noqa: S608 - our own words
    if found is None:
        return False
    payload = json.loads(found[0])
    payload["clock"]["corrected_by_ms"] = corrected_ms - utc_ms(payload["occurred_at"])
    payload |= {"occurred_at": utc_text(corrected_ms), "clock_synchronized": True}
    db.execute(
        "UPDATE outbox SET payload = ?, created_at = ? WHERE seq = ?",
        [encode(payload).decode(), utc_text(corrected_ms), seq],
    )
    integrity.seal(db, "outbox", "seq = ?", [seq])
    return True


def _announce(
    db: Database,
    row: dict[str, object],
    corrected_ms: int,
    moment: Moment,
    origin: Origin,
    *,
    signer: EventSigner | None,
) -> None:
    corrects = CorrectedTime(
        event_id=str(row["event_id"]),
        seq=int(str(row["seq"])),
        occurred_at=utc_text(corrected_ms),
        was=str(row["occurred_at"]),
    )
    event_id = uuid7(moment.utc_ms)
    seq = insert_entry(
        db,
        event_id=event_id,
        event_type=TIME_CORRECTION,
        subject_id=SubjectId(str(row["subject_id"])),
        moment=moment,
        origin=origin,
        evidence={"corrects": corrects.payload()},
        corrects=corrects.seq,
    )
    queue_event(
        db,
        TimeCorrection(
            event_id=event_id,
            seq=seq,
            occurred_at=utc_text(moment.utc_ms),
            tz=origin.timezone,
            site=origin.site,
            device=origin.device,
            corrects=corrects,
        ),
        signer,
    )
