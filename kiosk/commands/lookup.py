"""Finding the one event that somebody means."""

from __future__ import annotations

import re

from kiosk.errors import InputError
from kiosk.store import AttendanceRow, RejectionRow, Store

Row = AttendanceRow | RejectionRow

_SHORTEST_PREFIX = 8
_HOW_TO_LIST = "`kiosk events` lists check-ins, `kiosk events --rejected` the other decisions"


def find_decision(store: Store, text: str) -> Row:
    """The event that an id, the beginning of one or a seq stands for.

    Raises:
        InputError: none or several.
    """
    shown = ascii(text if len(text) <= 40 else text[:37] + "...")
    wanted = text.strip().lower()
    found: list[AttendanceRow | RejectionRow]
    # No id begins with 1 to 9 before the year 2527: its first digits are milliseconds since 1970.
    if re.fullmatch(r"[1-9]\d{0,17}", wanted):
        found = [row for row in store.attendance(after_seq=int(wanted) - 1, limit=1) if row.seq == int(wanted)]
    elif re.fullmatch(rf"[0-9a-f-]{{{_SHORTEST_PREFIX},36}}", wanted):
        found = [*store.find_events(wanted), *store.find_rejections(wanted)]
    else:
        raise InputError(
            f"{shown} is neither a seq nor an event id, nor {_SHORTEST_PREFIX} or more of its first characters; "
            f"{_HOW_TO_LIST}"
        )
    if not found:
        raise InputError(f"no event {shown} in {store.path}; {_HOW_TO_LIST}")
    if len(found) > 1:
        raise InputError(f"{shown} is the beginning of {len(found)} events' ids; give more of it: {_HOW_TO_LIST}")
    return found[0]
