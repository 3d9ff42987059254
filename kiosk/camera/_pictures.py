"""Whether a live picture shows what is there now: frozen, black and white ones do not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kiosk.biometrics import Image

# Points looked at along the shorter side of a picture: a face fit to be recognized covers dozens of them.
_POINTS = 48
# Mean and standard deviation of grey levels 0-255. A covered lens and a blinding light leave next to no structure;
# a dark room, a night picture and a white wall have more.
_BLACK_MEAN = 8.0
_WHITE_MEAN = 247.0
_PLAIN_DEVIATION = 3.0
_OBSCURED_AFTER_S = 3.0

BLACK = "the picture is black; uncover the lens, or give light"
WHITE = "the picture is all white; shade the lens, or mend the exposure"
FROZEN = "the picture is frozen; restart the camera if it stays so (camera.frozen_after_s sets how long is too long)"


class PictureWatch:
    """Follows a stream of raw pictures, before anything is drawn on or turned.

    ``frozen_after_s``: pictures that stay the same for longer are frozen; 0 never. What is compared is a grid of
    points, a strided view of some thousand bytes: a sensor's noise changes some of them in every picture.

    Network cameras are the hard case: of a still scene a thrifty H.264 encoder sends nothing but "as before", and the
    decoded pictures are equal to the last bit until its next key frame. (x264, 720p, key frames every 4 s, a scene with
    sensor noise of 0 to 2 grey levels: unchanged for 0 to 3.3 s.) No pixel tells that from a frozen camera, and none
    need: pictures without any change show nobody who moves, so holding them back costs nothing, and the first that
    differs is recognized as soon as it comes. All a false alarm does is to be told. The default is longer than usual
    intervals of key frames; where an encoder makes longer ones, a longer ``frozen_after_s`` or 0 stops the alarms.
    """

    def __init__(self, frozen_after_s: float) -> None:
        self._frozen_after_s = frozen_after_s
        self._points: NDArray[np.uint8] | None = None
        self._same_since_s = 0.0
        self._plain: str | None = None
        self._plain_since_s = 0.0

    def judge(self, image: Image, now_s: float) -> str | None:
        """What is wrong with the next picture; None when it can be used."""
        points = _sample(image)
        if self._points is None or not np.array_equal(points, self._points):
            # The view's base is the whole picture: keep a copy of the points alone.
            self._points = points.copy()
            self._same_since_s = now_s
        plain = _plain(points)
        if plain != self._plain:
            self._plain, self._plain_since_s = plain, now_s
        # A black picture has no noise that could change: black, not frozen.
        if plain is not None:
            return plain if now_s - self._plain_since_s >= _OBSCURED_AFTER_S else None
        frozen = 0 < self._frozen_after_s < now_s - self._same_since_s
        return FROZEN if frozen else None


def _sample(image: Image) -> NDArray[np.uint8]:
    step = max(min(image.shape[:2]) // _POINTS, 1)
    return image[step // 2 :: step, step // 2 :: step]


def _plain(points: NDArray[np.uint8]) -> str | None:
    mean = float(points.mean())
    if _BLACK_MEAN <= mean <= _WHITE_MEAN or float(points.std()) >= _PLAIN_DEVIATION:
        return None
    return BLACK if mean < _BLACK_MEAN else WHITE
