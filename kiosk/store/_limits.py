"""When check-ins are refused: while it can still be told at the door, and before anything recorded is at risk."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """``min_free_mib``: space on the store's disk that is left for acknowledgements, erasures and housekeeping.

    ``max_unsent``: events that may wait to be sent; unsent ones are never dropped.
    """

    min_free_mib: int = 16
    max_unsent: int = 100_000


DEFAULT_LIMITS = Limits()

WARN_SHARE = 0.8
"""From this share of ``max_unsent`` on the kiosk warns."""


@dataclass(frozen=True, slots=True)
class StoreCondition:
    """How the store is at this moment, for whoever reports on the kiosk.

    ``fault``: why check-ins are or would be refused, or what else is wrong, in words; None while all is well.
    ``free_mib``: free on its disk, -1 where nobody can tell. ``last_backup_at``: UTC, None without a backup.
    ``restored``: what the last restore did, None when there was none.
    ``unsent_share``: events that wait to be sent, as a share of ``max_unsent``.
    """

    fault: str | None
    free_mib: int
    last_backup_at: str | None
    restored: str | None
    unsent_share: float
