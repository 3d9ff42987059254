"""Turning pictures by quarter turns."""

from __future__ import annotations

from typing import Literal

from kiosk.biometrics import Image
from kiosk.opencv import cv2

Rotation = Literal[0, 90, 180, 270]
"""Degrees clockwise."""

_CODES = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


def turn(image: Image, rotation: Rotation) -> Image:
    """The picture turned; without a turn the same array."""
    return image if rotation == 0 else cv2.rotate(image, _CODES[rotation])  # type: ignore[return-value]
