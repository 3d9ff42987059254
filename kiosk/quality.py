"""Is this face good enough to compare? Measures first, then the limits, in the order a person can mend them.

All measures but the geometric ones are taken on one upright picture of eyes, nose and mouth, scaled so that the eyes
are 24 pixels apart: the same blur or light gives the same figure near and far, and the background has no say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from kiosk.align import align_face
from kiosk.biometrics import Face, Image, Landmarks, Quality, Reason
from kiosk.opencv import cv2

_CHIP_PX = 64
# The part of the chip from the brows to the mouth and from temple to temple.
_ROWS = slice(round(0.18 * _CHIP_PX), round(0.86 * _CHIP_PX))
_COLUMNS = slice(round(0.16 * _CHIP_PX), round(0.84 * _CHIP_PX))
# Length of the second blur (Crété-Roffet et al. 2007), and what is smoothed away before it as noise, in chip pixels.
_REBLUR_PX = 9
_DENOISE_SIGMA_PX = 1.0
# Grey levels from which the camera has nothing more to tell.
_WHITE = 250
# Below this mean grey level a lack of contrast is a lack of light.
_DIM = 80
# Eye distance in sides of a Haar box, for faces without landmarks: the median over LFW photos (5th to 95th percentile
# 0.34 to 0.43).
_EYES_IN_BOX = 0.38


@dataclass(frozen=True, slots=True)
class QualityGate:
    """The limits a face must keep; a minimum of 0 is none. Units as in ``Quality``.

    The defaults are for probes. Measured by ``benchmarks/quality.py`` on LFW View 1 (350 people, their photos as they
    are and spoiled in steps), with FaceNet and, in brackets, dlib's network at their scores for FMR 1e-3. The rule:
    reject what is useless, that is where more than 40 % of the probes miss their own template by FaceNet (for the size:
    by either). The limits are where that is so with one inference a face, as a camera frame has it; the figures below
    are with a photo's two, which miss a tenth to a quarter less. Strangers pass little more easily with a poor probe:
    FMR stays below 1.6e-3 in every step (3.5e-3, where blur or haze is beyond the limits).

    - eye distance: 7-9 px misses 27 % (42 %), 9-11 px 14 % (23 %), 11-13 px 7 % (12 %)
    - contrast: 4-5 misses 57 % (28 %), 5-6 34 % (18 %); mean brightness adds nothing, and depends on the skin
    - clipped: 0.6-0.7 misses 38 % (44 %), 0.5-0.6 22 % (41 %)
    - sharpness: 34-36 misses 40 % (50 %), 36-38 31 % (38 %), 40-44 14 % (19 %)
    - yaw, pitch: FaceNet misses no more at 0.6-0.8 and 0.6-0.7, where LFW ends; beyond nothing was measured
    - detector score, of what keeps the other limits: 0.65-0.7 misses 46 % (63 %), 0.7-0.73 42 % (48 %); tilted heads,
      which cost nothing, score down to 0.7, too
    """

    min_eye_distance_px: float = 10.0
    min_size_px: float = 0.0
    min_contrast: float = 5.0
    max_clipped: float = 0.6
    min_sharpness: float = 36.0
    max_yaw: float = 0.8
    max_pitch: float = 0.7
    min_detector_score: float = 0.7

    def assess(self, image: Image, face: Face) -> Quality:
        """Measure a face of a BGR image and name the first limit it breaks."""
        quality = measure(image, face)
        return replace(quality, failure=self.failure(quality))

    def failure(self, quality: Quality) -> Reason | None:
        """The first limit that these measures break; what was not measured breaks none."""
        small = quality.size_px < self.min_size_px or _below(quality.eye_distance_px, self.min_eye_distance_px)
        turned = _above(quality.yaw, self.max_yaw) or _above(quality.pitch, self.max_pitch)
        pale = Reason.TOO_DARK if quality.brightness < _DIM else Reason.LOW_CONTRAST
        checks = (
            # First, because the eyes of a turned head look closer together than they are.
            (turned, Reason.TURNED),
            (small, Reason.TOO_SMALL),
            (_below(quality.contrast, self.min_contrast), pale),
            (_above(quality.clipped, self.max_clipped), Reason.TOO_BRIGHT),
            (quality.sharpness < self.min_sharpness, Reason.BLURRED),
            (_below(quality.detector_score, self.min_detector_score), Reason.UNCLEAR),
        )
        return next((reason for broken, reason in checks if broken), None)


PROBE_GATE = QualityGate()

ENROLLMENT_GATE = QualityGate(
    min_eye_distance_px=18.0,
    min_contrast=10.0,
    max_clipped=0.2,
    min_sharpness=40.0,
    max_yaw=0.5,
    min_detector_score=0.8,
)
"""For photos that become templates: made once, compared for a year. The rule: reject where FNMR is more than twice
what it is in the best bins, or where photos that are poor alike match each other more than twice as often. That is
what poor templates do: dark, blurred or covered faces of strangers resemble each other (contrast 3-4: 42 % match).
Set on figures of one inference a photo; with two, as below, they lie a little on the safe side.

- eye distance: 15-18 px misses 4.2 % (5.3 %), twice what 36 px and more does
- contrast: 8-10 misses 10 % (12 %), 10-12 6 % (9 %), above 15 3 % (5 %)
- clipped: 0.2-0.3 misses 6 % (7 %), 0.15-0.2 3 % (2 %)
- sharpness: FMR among such photos is 1.5 times the usual at 38-40, twice at 36-38 (7 and 12 times). FNMR alone would
  say 44 (40-44 misses 14 %), but of photos that nobody spoiled those at 40-44 miss 4 %, others 2 %, and they are one
  in seven
- yaw: FaceNet hardly minds: 5 % above 0.5, 2 % below (dlib's network: 8 % above 0.6, 4 % below)
- pitch: as for probes; 0.5-0.55 misses 3 % (6 %) of 69 pairs, 0.55-0.6 13 % (none) of 23
- detector score: unspoiled photos below 0.8 miss 11 % (19 %), others 2 % (4 %). It is all there is against covered
  faces: this gate refuses 78 % of those with a mask, 75 % of those half covered, 42 % with dark glasses, 18 % with the
  mouth covered, 7 % with a cap. The price: it refuses half of the heads tilted by 45 degrees, which would do.
  Differences between a face's halves and the places of the ears were tried against covers, and tell less.

Of LFW's photos 95 % pass; pairs of two that pass miss 1.7 % (3.0 %), the others 6.5 % (11.2 %).
"""


def measure(image: Image, face: Face) -> Quality:
    """The measures of a face of a BGR image, judged by no gate."""
    grey = cv2.cvtColor(align_face(image, face, "dlib-chip-v1", _CHIP_PX), cv2.COLOR_BGR2GRAY)
    middle = grey[_ROWS, _COLUMNS]
    yaw, pitch = _pose(face.landmarks)
    return Quality(
        size_px=min(face.box.w, face.box.h),
        sharpness=_sharpness(grey),
        brightness=float(middle.mean()),
        yaw=yaw,
        eye_distance_px=_eye_distance(face),
        contrast=float(middle.std()),
        clipped=float((middle >= _WHITE).mean()),
        pitch=pitch,
        detector_score=face.score if _has_six(face.landmarks) else None,
    )


def _sharpness(grey: cv2.typing.MatLike) -> float:
    """How much of the pixel-to-pixel variation another blur takes away, %; the lesser of the two directions.

    What is blurred already loses little (F. Crété-Roffet, T. Dolmiere, P. Ladret, M. Nicolas: The blur effect, 2007).
    Being a share it does not depend on contrast; taken after a slight smoothing it hardly depends on noise, which
    makes the variance of the Laplacian of a blurred, noisy face that of a sharp one.
    """
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), _DENOISE_SIGMA_PX)
    return 100 * min(
        _lost_variation(smooth, cv2.blur(smooth, (_REBLUR_PX, 1)), axis=1),
        _lost_variation(smooth, cv2.blur(smooth, (1, _REBLUR_PX)), axis=0),
    )


def _lost_variation(picture: cv2.typing.MatLike, blurred: cv2.typing.MatLike, *, axis: int) -> float:
    before = np.abs(np.diff(picture[_ROWS, _COLUMNS], axis=axis))
    after = np.abs(np.diff(blurred[_ROWS, _COLUMNS], axis=axis))
    total = float(before.sum())
    return float(np.maximum(before - after, 0).sum()) / total if total else 0.0


def _eye_distance(face: Face) -> float:
    if face.landmarks is None:
        return _EYES_IN_BOX * min(face.box.w, face.box.h)
    return float(np.linalg.norm(face.landmarks[1] - face.landmarks[0]))


def _pose(landmarks: Landmarks | None) -> tuple[float | None, float | None]:
    """Yaw and pitch in eye distances, measured along and across the line of the eyes."""
    if landmarks is None or len(landmarks) < 3:
        return None, None
    left, right, nose = landmarks[:3].astype(np.float64)
    eyes = right - left
    square = float(eyes @ eyes)
    if square == 0:
        return None, None
    middle = (left + right) / 2
    yaw = float((nose - middle) @ eyes) / square
    if not _has_six(landmarks):
        return yaw, None
    across = np.array([-eyes[1], eyes[0]])
    return yaw, float((landmarks[4:].mean(axis=0) - middle) @ across) / square


def _has_six(landmarks: Landmarks | None) -> bool:
    """BlazeFace's six points, and so its score: others' are not on the same scale."""
    return landmarks is not None and len(landmarks) == 6


def _below(value: float | None, limit: float) -> bool:
    return value is not None and value < limit


def _above(value: float | None, limit: float) -> bool:
    return value is not None and abs(value) > limit
