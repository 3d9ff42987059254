"""The records that travel from camera to event. Frozen, no behaviour beyond geometry.

Terms follow ISO/IEC 2382-37 and NIST's 1:N vocabulary; see docs/glossary.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

import numpy as np
from numpy.typing import NDArray

from kiosk.errors import InputError

SubjectId = NewType("SubjectId", str)
ModelId = NewType("ModelId", str)

_SUBJECT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

Image = NDArray[np.uint8]
"""Colour image, shape (height, width, 3), BGR, 0–255."""

Embedding = NDArray[np.float32]
"""L2-normalised vector, shape (embedding_dim,)."""

Landmarks = NDArray[np.float32]
"""Points in image pixels, shape (n, 2) of (x, y). Row 0 is the eye on the image's left, row 1 the eye on its
right; with four or more rows: then nose tip, mouth centre; with six: then ear on the left, ear on the right."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One camera image.

    ``captured_s`` is seconds on the source's own monotonic clock (``CLOCK_BOOTTIME`` for a camera, start of
    replay plus media time for a file); all windows and periods are measured on it.
    """

    image: Image
    captured_s: float
    index: int


@dataclass(frozen=True, slots=True)
class Box:
    """Axis-aligned rectangle in image pixels; (x, y) is the top left corner. It may reach outside the image."""

    x: float
    y: float
    w: float
    h: float

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.w / 2, self.y + self.h / 2

    @property
    def area(self) -> float:
        return self.w * self.h

    def iou(self, other: Box) -> float:
        """Intersection over union, 0–1."""
        width = min(self.x + self.w, other.x + other.w) - max(self.x, other.x)
        height = min(self.y + self.h, other.y + other.h) - max(self.y, other.y)
        if width <= 0 or height <= 0:
            return 0.0
        shared = width * height
        return shared / (self.area + other.area - shared)

    def rounded(self) -> tuple[int, int, int, int]:
        return round(self.x), round(self.y), round(self.w), round(self.h)


@dataclass(frozen=True, slots=True)
class Face:
    """A detection. ``score`` is the detector's own confidence, 0–1. ``landmarks`` is None where the detector
    found a face but no eyes (Haar).
    """

    box: Box
    score: float
    landmarks: Landmarks | None = None


class Reason(StrEnum):
    """Why a face or a code did not lead to an identified subject (or, ``MATCH``, that it did)."""

    MATCH = "match"
    NO_FACE = "no_face"
    TOO_SMALL = "too_small"
    BLURRED = "blurred"
    TOO_DARK = "too_dark"
    TOO_BRIGHT = "too_bright"
    LOW_CONTRAST = "low_contrast"
    TURNED = "turned"
    UNCLEAR = "unclear"
    UNKNOWN = "unknown"
    AMBIGUOUS = "ambiguous"
    EMPTY_GALLERY = "empty_gallery"
    SPOOF = "spoof"
    CODE_WRONG = "code_wrong"
    CODE_LOCKED = "code_locked"
    """Too many wrong PINs for one number."""
    CODE_PAUSED = "code_paused"
    """Too many wrong codes altogether."""


class Verdict(StrEnum):
    """What a decision says about a face."""

    IDENTIFIED = "identified"
    UNKNOWN = "unknown"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Quality:
    """Measures of one face, and the first limit of a gate it breaks (None: good enough, or not judged).

    ``size_px``: shorter side of the face box. ``eye_distance_px``: between the eyes, in the picture. ``sharpness``:
    0-100, higher is sharper, independent of size, contrast and (nearly) noise. Of the grey levels 0-255 between brows
    and mouth: ``brightness`` is the mean, ``contrast`` the standard deviation, ``clipped`` the share that is white
    (0-1). ``yaw``: nose off the eyes' midpoint, signed, positive to the image's right; ``pitch``: ears below the line
    of the eyes, positive with the chin up; both in eye distances. ``detector_score``: the detector's confidence, 0-1,
    which falls with whatever makes a face unlike a plain one. None: not measured.
    """

    size_px: float
    sharpness: float
    brightness: float
    yaw: float | None = None
    failure: Reason | None = None
    eye_distance_px: float | None = None
    contrast: float | None = None
    clipped: float | None = None
    pitch: float | None = None
    detector_score: float | None = None


@dataclass(frozen=True, slots=True)
class PadScore:
    """What presentation attack detection says of a face: ``score`` is how live it is, 0-1, one frame's or fused."""

    score: float
    threshold: float

    @property
    def passed(self) -> bool:
        return self.score >= self.threshold


@dataclass(frozen=True, slots=True)
class Template:
    """An embedding stored at enrollment, with the model that made it."""

    subject_id: SubjectId
    model_id: ModelId
    embedding: Embedding
    id: int | None = None


@dataclass(frozen=True, slots=True)
class StoredTemplate(Template):
    """A template with all that the store has of it.

    ``quality``: its photo's; None where nobody measured it. ``source_sha256``: of the photo's file. ``created_at``:
    when it was enrolled, here or where it was imported from.
    """

    quality: Quality | None = None
    source_sha256: str | None = None
    created_at: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A subject and its best score (cosine similarity, −1…1) against a probe."""

    subject_id: SubjectId
    score: float


@dataclass(frozen=True, slots=True)
class FrameEvidence:
    """One frame that was fused, and what it alone would have said.

    ``offset_s``: seconds since the track began. ``weight``: the frame's share in the fusion, 0–1.
    ``candidates``: the frame's own best two subjects and the fused search's best two, highest score first.
    ``pad``: the frame's own; None: not checked for presentation attacks.
    """

    offset_s: float
    quality: Quality
    weight: float
    candidates: tuple[Candidate, ...]
    pad: PadScore | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome for one face or one track of faces.

    ``margin`` is the lead of the first candidate over the next subject (None with fewer than two subjects);
    ``margin_needed`` is the lead the rule asks for.
    """

    verdict: Verdict
    reason: Reason
    threshold: float
    candidates: tuple[Candidate, ...] = ()
    frames: int = 1
    quality: Quality | None = None
    margin_needed: float | None = None
    frame_evidence: tuple[FrameEvidence, ...] = ()
    """The newest of the frames that were fused, oldest first. Only in final reports of a track."""
    pad: PadScore | None = None
    """None: not checked for presentation attacks."""

    @property
    def subject_id(self) -> SubjectId | None:
        return self.candidates[0].subject_id if self.verdict is Verdict.IDENTIFIED else None

    @property
    def score(self) -> float | None:
        return self.candidates[0].score if self.candidates else None

    @property
    def margin(self) -> float | None:
        if len(self.candidates) < 2:
            return None
        return self.candidates[0].score - self.candidates[1].score


@dataclass(frozen=True, slots=True)
class FaceReport:
    """One face of one frame, and the decision known for it so far."""

    face: Face
    decision: Decision
    track_id: int | None = None
    final: bool = field(default=False)
    """True once per track and outcome: the moment a consumer should act on."""


def parse_subject_id(text: str) -> SubjectId:
    """Check a subject id.

    Raises:
        InputError: not 1-64 of A-Z a-z 0-9 . _ -, or the name of a folder's self or parent.
    """
    if not _SUBJECT_ID.fullmatch(text) or text in {".", ".."}:
        shown = ascii(text if len(text) <= 40 else text[:40] + "…")
        raise InputError(
            f"{shown} is not a subject id: use 1 to 64 of the characters A-Z a-z 0-9 . _ - (a name may be any text)"
        )
    return SubjectId(text)
