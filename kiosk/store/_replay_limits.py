"""How much may be asked for again: enough for all gaps of all consumers, too little to keep broker and card busy."""

from __future__ import annotations

from collections import deque

DAY_S = 86_400.0
MOST_COMMANDS_A_DAY = 1000
MOST_LOGS_A_DAY = 3
"""As many times as all that is kept."""
FREE_EVENTS_A_DAY = 100_000
"""So many whatever is kept: of a short log somebody may want the same part again and again."""


class ReplayLimits:
    """What was granted within the last 24 hours, of this process; times by a clock that never steps."""

    def __init__(self) -> None:
        self._granted: deque[tuple[float, int]] = deque()

    def refusal(self, events: int, kept: int, now_s: float) -> str | None:
        """Why so many ``events`` of those ``kept`` are not sent again now; None when they may be."""
        while self._granted and now_s - self._granted[0][0] >= DAY_S:
            self._granted.popleft()
        if len(self._granted) >= MOST_COMMANDS_A_DAY:
            return f"{MOST_COMMANDS_A_DAY} were obeyed within 24 hours"
        if events + sum(before for _, before in self._granted) > max(FREE_EVENTS_A_DAY, MOST_LOGS_A_DAY * kept):
            return (
                f"more than {FREE_EVENTS_A_DAY} events, and more than {MOST_LOGS_A_DAY} times all that are kept, would "
                "be sent again within 24 hours"
            )
        return None

    def grant(self, events: int, now_s: float) -> None:
        """They will be sent again."""
        self._granted.append((now_s, events))
