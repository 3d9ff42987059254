"""Is this face good enough to compare? Measures first, then the gates, in the order a person can mend them."""

from __future__ import annotations

from dataclasses import dataclass

from kiosk.biometrics import Face, Image, Landmarks, Quality, Reason
from kiosk.opencv import cv2

# Sharpness is measured at one scale, so that the same blur gives the same figure near and far.
_SHARPNESS_SIDE_PX = 112


@dataclass(frozen=True, slots=True)
class QualityGate:
    """The limits a face must keep. ``min_sharpness`` in variance of the Laplacian, brightness in grey levels 0–255.

    ``max_yaw``: nose tip off the eyes' midpoint, in eye distances; 0.5 is the 99th percentile of LFW photos.
    ``min_sharpness`` 20 lies between LFW photos (1st percentile 29) and the same blurred by 3 px (95th 12.5).
    """

    min_size_px: float = 60.0
    min_sharpness: float = 20.0
    min_brightness: float = 30.0
    max_brightness: float = 235.0
    max_yaw: float = 0.5

    def assess(self, image: Image, face: Face) -> Quality:
        """Measure a face of a BGR image and name the first limit it breaks."""
        size_px = min(face.box.w, face.box.h)
        sharpness, brightness = _measure(image, face)
        yaw = _yaw(face.landmarks)
        return Quality(size_px, sharpness, brightness, yaw, self._failure(size_px, sharpness, brightness, yaw))

    def _failure(self, size_px: float, sharpness: float, brightness: float, yaw: float | None) -> Reason | None:
        if size_px < self.min_size_px:
            return Reason.TOO_SMALL
        if brightness < self.min_brightness:
            return Reason.TOO_DARK
        if brightness > self.max_brightness:
            return Reason.TOO_BRIGHT
        if sharpness < self.min_sharpness:
            return Reason.BLURRED
        if yaw is not None and abs(yaw) > self.max_yaw:
            return Reason.TURNED
        return None


def _measure(image: Image, face: Face) -> tuple[float, float]:
    """Variance of the Laplacian and mean grey level of the visible part of the box."""
    x, y, w, h = face.box.rounded()
    part = image[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)]
    if not part.size:
        return 0.0, 0.0
    grey = cv2.cvtColor(part, cv2.COLOR_BGR2GRAY)
    scale = _SHARPNESS_SIDE_PX / max(grey.shape)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=interpolation)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var()), float(grey.mean())


def _yaw(landmarks: Landmarks | None) -> float | None:
    if landmarks is None or len(landmarks) < 3:
        return None
    left, right, nose = landmarks[:3]
    eyes = right - left
    distance = float(eyes @ eyes)
    if distance == 0:
        return None
    return float((nose - (left + right) / 2) @ eyes) / distance
