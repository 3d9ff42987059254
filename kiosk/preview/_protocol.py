"""The messages on the preview's socket, and where that is. What they mean: :mod:`kiosk.preview`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kiosk.biometrics import FaceReport, Quality, Reason, Verdict

VERSION = 1
MAX_REQUEST_BYTES = 4096


class _Question(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class WantedPicture(_Question):
    """How a picture is to be sent."""

    format: Literal["jpeg", "raw"] = "jpeg"
    longest_px: int | None = Field(default=None, ge=16, le=16384)
    quality: int = Field(default=80, ge=1, le=100)


class Request(_Question):
    """What a client asks for."""

    version: Literal[1] = 1
    after: int | None = None
    timeout_s: float = Field(default=1.0, ge=0, le=10)
    picture: WantedPicture | None = None
    health: bool = False


class _Answer(BaseModel):
    # A newer kiosk may tell more.
    model_config = ConfigDict(extra="ignore", frozen=True)


class FrameTime(_Answer):
    """How long frames took, as one health document told it."""

    at: str
    per_s: float | None
    p50_ms: float | None
    p95_ms: float | None


class HealthReport(_Answer):
    """How the kiosk is now (the document of its MQTT topic), and how fast it was in the last hour, oldest first."""

    now: dict[str, Any]
    history: list[FrameTime]
    broker: Literal["connected", "not connected", "off"]


class Pad(_Answer):
    """What presentation attack detection says of a face."""

    score: float
    threshold: float
    passed: bool


class SeenFace(_Answer):
    """One face of a frame, and the decision its track has reached so far. Pixels are those of the camera's frame."""

    box: tuple[float, float, float, float]
    """x, y, width, height."""
    landmarks: list[tuple[float, float]] | None
    detector_score: float
    track: int | None
    final: bool
    verdict: Verdict
    reason: Reason
    subject_id: str | None
    score: float | None
    margin: float | None
    threshold: float
    frames: int
    quality: Quality | None
    pad: Pad | None

    @classmethod
    def of(cls, report: FaceReport) -> SeenFace:
        face, decision, pad = report.face, report.decision, report.decision.pad
        return cls(
            box=(face.box.x, face.box.y, face.box.w, face.box.h),
            landmarks=None if face.landmarks is None else [(float(x), float(y)) for x, y in face.landmarks],
            detector_score=face.score,
            track=report.track_id,
            final=report.final,
            verdict=decision.verdict,
            reason=decision.reason,
            subject_id=decision.subject_id,
            score=decision.score,
            margin=decision.margin,
            threshold=decision.threshold,
            frames=decision.frames,
            quality=decision.quality,
            pad=None if pad is None else Pad(score=pad.score, threshold=pad.threshold, passed=pad.passed),
        )


class Outcome(_Answer):
    """A check-in that was committed, or a face or code that led to none."""

    event_type: str
    event_id: str
    occurred_at: str
    seq: int | None = None
    subject_id: str | None = None
    reason: Reason | None = None


class SentPicture(_Answer):
    """The picture behind a header."""

    format: Literal["jpeg", "raw"]
    width: int
    height: int
    bytes: int


class Header(_Answer):
    """The answer to a request, before the picture."""

    version: int = VERSION
    error: str | None = None
    fault: str | None = None
    index: int | None = None
    captured_s: float | None = None
    width: int | None = None
    height: int | None = None
    faces: list[SeenFace] = []
    outcomes: list[Outcome] = []
    picture: SentPicture | None = None
    health: HealthReport | None = None


def socket_path(store_path: Path) -> Path:
    """Where the daemon on this store listens."""
    return store_path.with_suffix(".sock")


@contextlib.contextmanager
def address(path: Path) -> Iterator[str]:
    """A name of the socket that is short however long its path is: the kernel takes 107 bytes."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
