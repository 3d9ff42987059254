"""How much of a live camera is looked at: every picture while somebody is about, a few while nobody is.

While idle only glances are taken, a few a second: small grey pictures, cheap to have. One that shows motion wakes, and
so does a face, for which a whole picture is looked at about once a second in any case.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]
"""Luminance, shape (height, width), 0-255: some thousand pixels are plenty."""
Cells = NDArray[np.float32]
"""Mean luminance of the picture's parts, shape (rows, columns)."""

# Five a second of a camera of 10, 15, 25 or 30 pictures, one of which may come a little early.
_GLANCE_S = 0.19
# Where a glance is dear (a slow board that must decode all of a picture for it) there are fewer, but two a second.
_GLANCES_SHARE = 0.03
_RAREST_GLANCE_S = 0.48
# At the fourth or fifth glance, and less than the second after which a face that was not seen is a new visit.
_LOOK_S = 0.75
# Whoever has been there for so long has been recognized, or is a picture on the wall: motion alone wakes for them.
_FAMILIAR_S = 30.0


class Attention:
    """Which of a camera's pictures are worth being decoded and recognized.

    The thread that takes the pictures asks :meth:`glance_due` and :meth:`wants` for each of them and brings the
    glances; whoever recognizes says what was found. Each value has one writer or may be written by either: no lock.
    All times are seconds on the clock of the frames.

    ``after_s``: how long nobody was seen and nothing moved before it goes idle; None: never.
    """

    def __init__(self, *, after_s: float | None) -> None:
        self._after_s = after_s
        self._gate = MotionGate()
        self._glance_due_s = -math.inf
        self._looked_s = -math.inf
        self._awake_until_s = -math.inf
        self._rest_until_s = -math.inf
        self._first_seen_s: dict[int | None, float] = {}
        self.idle = False
        """Nobody is there and nothing moves."""

    def glance_due(self, now_s: float) -> bool:
        """Whether a glance is to be taken of the picture that has come."""
        return self._after_s is not None and now_s >= self._glance_due_s

    def glance(self, grey: Grey, now_s: float, *, took_s: float = 0.0) -> None:
        """Judge a glance, which took ``took_s`` of a processor's time."""
        self._glance_due_s = now_s + min(max(_GLANCE_S, took_s / _GLANCES_SHARE), _RAREST_GLANCE_S)
        if self._gate.moved(grey, now_s):
            self.rouse(now_s)
        else:
            self.idle = now_s >= self._awake_until_s

    def saw(self, tracks: Iterable[int | None], now_s: float) -> None:
        """Whose faces were found in a picture."""
        self._first_seen_s = {track: self._first_seen_s.get(track, now_s) for track in tracks}
        if any(now_s - first_s < _FAMILIAR_S for first_s in self._first_seen_s.values()):
            self.rouse(now_s)

    def rouse(self, now_s: float) -> None:
        """Something is going on: be awake from now on."""
        self._awake_until_s = now_s + (self._after_s or 0.0)
        self.idle = False

    def rest(self, until_s: float) -> None:
        """Want no picture before then."""
        self._rest_until_s = until_s

    def wants(self, now_s: float) -> bool:
        """Whether the picture that has come is to be recognized."""
        if now_s < self._rest_until_s or (self.idle and now_s - self._looked_s < _LOOK_S):
            return False
        self._looked_s = now_s
        return True


# Cells along the longer side. A face that can be recognized is two of them wide or more, its shoulders five.
_CELLS = 32
# A cell's mean over a thousand pixels hardly knows noise: it moves by less than a grey level.
_LEAST_CHANGE = 2.0
# Small pictures in little light do know it: a quarter of the cells change by less than a third of its deviation, hardly
# any by fifteen times that. More than six levels would be no noise, but somebody close by who is in most of the cells.
_QUIETEST, _OVER_QUIETEST, _MOST_NOISE = 0.25, 15.0, 6.0
# Beyond it nothing is taken for flicker, however long it goes on.
_MOST_CHANGE = 40.0
_DEVIATIONS = 5.0
_LEAST_CELLS = 3
# The background follows in about a second: whoever moves at all changes faster, the sun does not.
_BACKGROUND_S = 1.0
# A flickering lamp is known after some ten seconds; whoever passes in five is not learned.
_DEVIATION_S = 10.0


class MotionGate:
    """Whether something moves, from small grey pictures that follow each other.

    The picture is cut into cells, which are compared with what they showed lately. What changes all of them alike, as
    exposure, clouds and the room's lamp do, is fitted (gain and offset) and taken out. What is left must exceed what
    each cell has been doing by itself, as under a flickering lamp or a swaying plant.
    """

    def __init__(self) -> None:
        self._background: Cells | None = None
        self._deviation: Cells = np.zeros((0, 0), np.float32)
        self._at_s = 0.0

    def moved(self, grey: Grey, now_s: float) -> bool:
        """Whether this picture shows motion; true for the first one, and for the first of another size."""
        cells = _cells(grey)
        if self._background is None or cells.shape != self._background.shape:
            self._background, self._at_s = cells, now_s
            self._deviation = np.zeros_like(cells)
            return True
        passed_s, self._at_s = max(now_s - self._at_s, 0.0), now_s
        expected = _relit(self._background, cells)
        change = np.abs(cells - expected)
        noise = min(_OVER_QUIETEST * float(np.quantile(change, _QUIETEST)), _MOST_NOISE)
        limit = np.clip(_DEVIATIONS * self._deviation, max(_LEAST_CHANGE, noise), _MOST_CHANGE)
        self._background = expected + (cells - expected) * _share(passed_s, _BACKGROUND_S)
        # No more than the limit: somebody who passes must not raise it much for whoever comes next.
        self._deviation += (np.minimum(change, limit) - self._deviation) * _share(passed_s, _DEVIATION_S)
        return int(np.count_nonzero(change > limit)) >= _LEAST_CELLS


def _cells(grey: Grey) -> Cells:
    side = max(min(max(grey.shape) // _CELLS, *grey.shape), 1)
    rows, columns = grey.shape[0] // side, grey.shape[1] // side
    parts = grey[: rows * side, : columns * side].reshape(rows, side, columns, side)
    means: Cells = parts.mean(axis=(1, 3), dtype=np.float32)
    return means


def _relit(background: Cells, cells: Cells) -> Cells:
    """The background in the light of these cells."""
    gain, offset = _fit(background, cells)
    change = np.abs(cells - (gain * background + offset))
    # Once more without what has changed by itself: it must not pass for light.
    same = change <= max(2.5 * float(np.median(change)), 1.0)
    gain, offset = _fit(background[same], cells[same])
    relit: Cells = np.clip(gain * background + offset, 0, 255)
    return relit


def _fit(x: Cells, y: Cells) -> tuple[float, float]:
    """Gain and offset that make the best ``y`` of ``x``, by least squares."""
    x_mean, y_mean = float(x.mean()), float(y.mean())
    spread = float(((x - x_mean) ** 2).mean())
    # Of a plain wall no gain can be told.
    gain = 1.0 if spread < 1 else float(((x - x_mean) * (y - y_mean)).mean()) / spread
    gain = min(max(gain, 0.25), 4.0)
    return gain, y_mean - gain * x_mean


def _share(passed_s: float, within_s: float) -> float:
    """How much of the way is gone in ``passed_s``."""
    return 1 - math.exp(-passed_s / within_s)
