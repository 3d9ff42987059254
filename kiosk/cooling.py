"""Less work while the board is too hot, in steps, and how that is told."""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

_STEPS = ("at full pace", "at half the pace", "at a third of the pace")
# A step's effect on the temperature shows within some ten seconds; going back too early would only swing.
_ANOTHER_STEP_S = 15.0
_BACK_A_STEP_S = 60.0
# A face that was not seen for a second is a new visit, and its evidence is lost; the picture after the pause may come a
# quarter of a second later, from a camera in the dark.
_LONGEST_PAUSE_S = 0.75
# Where recognizing takes less, pictures are what it waits for.
_LEAST_TOOK_S = 1 / 15


class BackOff:
    """Follows whether the board is too hot; each step makes recognition slower, never blind.

    ``too_hot``: why the board is too hot or throttles, None while it does not; asked with every :meth:`follow`.
    """

    def __init__(self, too_hot: Callable[[], str | None]) -> None:
        self._too_hot = too_hot
        self._step = 0
        self._reason = ""
        self._changed_s = float("-inf")
        self._hot_s = float("-inf")

    @property
    def problem(self) -> str | None:
        """What is wrong and what is done about it; None at full pace."""
        if self._step == 0:
            return None
        return f"{self._reason}: give it air or a cooler; faces are recognized {_STEPS[self._step]} until that is over"

    def follow(self, now_s: float) -> None:
        """Look at the board, every second or so."""
        reason = self._too_hot()
        if reason is not None:
            self._reason, self._hot_s = reason, now_s
            if self._step + 1 < len(_STEPS) and now_s - self._changed_s >= _ANOTHER_STEP_S:
                self._take(self._step + 1, now_s)
        elif self._step > 0 and now_s - max(self._hot_s, self._changed_s) >= _BACK_A_STEP_S:
            self._take(self._step - 1, now_s)

    def pause_s(self, took_s: float) -> float:
        """From the beginning of one picture's recognition, which takes about ``took_s``, to the next; 0: no pause."""
        if self._step == 0:
            return 0.0
        return min((self._step + 1) * max(took_s, _LEAST_TOOK_S), _LONGEST_PAUSE_S)

    def _take(self, step: int, now_s: float) -> None:
        hotter, self._step, self._changed_s = step > self._step, step, now_s
        if step == 0:
            log.info("board: cool again; faces are recognized %s", _STEPS[0])
        elif not hotter:
            log.info("board: cooler; faces are recognized %s", _STEPS[step])
        else:
            log.warning("board: %s", self.problem)
