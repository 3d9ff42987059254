"""Whether the clock may be believed when it says that something is old enough to be deleted.

A clock that follows a time server may still be wrong by years: the server is, or somebody set it by hand. Then all that
was ever sent would look a year old. Such a jump is not to be told from a kiosk that was switched off over the holidays;
so a clock that is far ahead of when it was last believed is believed once it has gone on like that for a week, in which
somebody may notice. That week is counted by the very clock that is doubted: so a step from one question to the next
counts for no more than a day, and another leap begins the week anew.
"""

from __future__ import annotations

from datetime import timedelta

from sqlite_utils import Database

from kiosk import integrity
from kiosk.events import utc_ms
from kiosk.store._connection import Connection, scalar

_DAY_MS = 86_400_000
LEAP_MS = 30 * _DAY_MS
"""So far ahead of the last time it was believed, a clock is doubted."""
DOUBT_MS = 7 * _DAY_MS
"""So long it has to go on."""
_NEWEST_TRUSTED = """
    SELECT MAX(COALESCE(corrected_at, occurred_at)) FROM attendance
    WHERE clock_synchronized OR corrected_at IS NOT NULL
"""


class Age(Connection):
    """The mark of when the clock was believed last."""

    def doubt(self, now_ms: int) -> timedelta | None:
        """How far the clock has leapt, while it is too early to believe it; None: it is believed.

        Ask often, once in an hour say, and only while the clock follows a time server.
        """
        with self._writing() as db:
            known = integrity.mark(db, integrity.CLOCK_BELIEVED) or {"at_ms": _newest_event_ms(db)}
            believed_ms, seen_ms = known["at_ms"], known.get("seen_ms")
            leap_ms = 0 if believed_ms is None else now_ms - believed_ms
            lasted_ms = 0
            if seen_ms is not None and now_ms - seen_ms <= LEAP_MS:
                # A kiosk that is off at every weekend gets there, too; a step back takes away what it goes back by.
                lasted_ms = max(0, known["lasted_ms"] + min(now_ms - seen_ms, _DAY_MS))
            if leap_ms <= LEAP_MS or lasted_ms >= DOUBT_MS:
                integrity.set_mark(db, integrity.CLOCK_BELIEVED, {"at_ms": now_ms})
                return None
            doubt = {"at_ms": believed_ms, "seen_ms": now_ms, "lasted_ms": lasted_ms}
            integrity.set_mark(db, integrity.CLOCK_BELIEVED, doubt)
        return timedelta(milliseconds=leap_ms)


def _newest_event_ms(db: Database) -> int | None:
    newest: str | None = scalar(db, _NEWEST_TRUSTED)
    return None if newest is None else utc_ms(newest)
