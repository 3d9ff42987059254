"""Settings of earlier versions: under which name they go on.

An upgrade must not leave a kiosk down because a name has changed: what stands here is still taken, with one warning,
and `kiosk config migrate` rewrites the file. Names are public, so there is little reason to add to this table; whoever
renames, moves or gives up a setting adds its entry in the same change, and keeps it for good.
"""

from __future__ import annotations

from dataclasses import dataclass

from kiosk.config._fields import FieldPath


@dataclass(frozen=True, slots=True)
class Former:
    """What became of a setting. ``now``: its present name; None: it is without effect, and ``why``."""

    now: FieldPath | None
    why: str = ""


FORMER: dict[FieldPath, Former] = {}
"""By the former name. Fields only, outside of lists. None has changed so far."""
