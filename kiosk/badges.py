"""Badges held before the kiosk's own camera: QR codes in its pictures."""

from __future__ import annotations

import re
import time

from kiosk.biometrics import Image
from kiosk.opencv import cv2

# Looking costs a few milliseconds, with and without a badge (docs/second-way.md); a sheet full of patterns can make it
# hundreds, and is then looked at more seldom.
_LOOK_EVERY_S = 0.4
_MOST_SHARE = 0.1
"""Of the time that may go into looking."""
# A badge is as wide as a fifth of the picture when it is read, at this size of the picture's longer side.
_LOOK_PX = 640
# While it is held there, it is one presentation. Nor can a void one that hangs in the picture use up everybody's tries:
# flickering at this pace it stays below the 20 in 5 minutes that pause the desk.
_ANOTHER_TIME_S = 20.0
_REMEMBERED = 16
# What `kiosk subjects code --qr` writes: posters have other things to say.
_OURS = re.compile(r"[0-9a-f]{32}")


class BadgeFinder:
    """Looks at the newest picture now and then; it need not be called for all of them."""

    def __init__(self) -> None:
        self._detector = cv2.QRCodeDetector()
        self._next_s = float("-inf")
        self._seen_s: dict[str, float] = {}

    def find(self, image: Image, now_s: float) -> str | None:
        """The token of a badge that has just come into the picture; ``image``: (height, width, 3), BGR.

        ``now_s``: monotonic seconds, as the frames carry them.
        """
        if now_s < self._next_s:
            return None
        began_s = time.perf_counter()
        token = self._read(image)
        self._next_s = now_s + max(_LOOK_EVERY_S, (time.perf_counter() - began_s) / _MOST_SHARE)
        if _OURS.fullmatch(token) is None:
            return None
        last_s = self._seen_s.pop(token, None)
        self._seen_s[token] = now_s
        if len(self._seen_s) > _REMEMBERED:
            del self._seen_s[next(iter(self._seen_s))]
        return token if last_s is None or now_s - last_s >= _ANOTHER_TIME_S else None

    def _read(self, image: Image) -> str:
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        scale = min(1.0, _LOOK_PX / max(grey.shape))
        small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else grey
        try:
            return self._detector.detectAndDecode(small)[0]
        # Some patterns that are no codes are more than the decoder bears; and its text need not be UTF-8.
        except (cv2.error, UnicodeDecodeError):
            return ""
