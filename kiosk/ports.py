"""What the core needs from the outside world. Adapters implement these; tests may, too."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from kiosk.biometrics import Embedding, Face, Frame, Image, ModelId


@dataclass(frozen=True, slots=True)
class CameraCondition:
    """How a camera is, and how it has done since it was opened."""

    fault: str | None
    """Why no frames come at the moment, None while all is well."""
    reconnects: int
    """Times it was opened again."""
    stalls: int
    """Times it fell silent or hung while it was open or opening."""
    frames: int
    """Pictures it has sent, among them those that were dropped, frozen or black."""
    last_frame_age_s: float | None
    """Since the last frame fit to be recognized, seconds; None before the first."""
    attempts: int
    """Pictures taken, and openings and failures that came to an end: it stands still only if the capture hangs."""


class Camera(Protocol):
    """Delivers the newest frame. A frame that is not asked for in time is dropped, never queued."""

    @property
    def fault(self) -> str | None:
        """Why no frames come at the moment, None while all is well."""

    @property
    def condition(self) -> CameraCondition:
        """The fault and the counters behind it; may be asked from any thread."""

    def read(self, timeout_s: float) -> Frame | None:
        """The next frame, or None when none came in ``timeout_s`` (the camera keeps trying to recover).

        Raises:
            EndOfStream: a file or folder is exhausted.
        """

    def close(self) -> None: ...


class EndOfStream(Exception):
    """A finite source has delivered its last frame."""


class Detector(Protocol):
    def detect(self, image: Image) -> list[Face]:
        """All faces of a BGR image, in image pixels, highest score first."""

    def refine(self, image: Image, face: Face) -> Face:
        """A detected face placed as exactly as can be, at the price of more time: for single photos."""


class Embedder(Protocol):
    @property
    def model_id(self) -> ModelId: ...

    def embed(self, image: Image, face: Face) -> Embedding:
        """Align the face of a photo and return its L2-normalised embedding, as good as can be had."""

    def embed_frame(self, image: Image, face: Face, *, mirrored: bool) -> Embedding:
        """Align the face of a camera frame and embed it, or its mirror image, in one inference."""


class Clock(Protocol):
    def boottime_s(self) -> float:
        """Seconds since boot, also counted while suspended; never steps."""

    def utc_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC, as good as the system clock is."""

    def synchronized(self) -> bool:
        """Whether the system clock is known to follow a time server."""


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A committed event that the broker has not acknowledged."""

    seq: int
    event_id: str
    topic: str
    """Topic below the device's own prefix, e.g. ``event/attendance``."""
    payload: dict[str, object]
    attempts: int
    fresh: bool
    """Committed by this process and never offered to the broker before."""
    committed_boottime_s: float = 0.0
    """``CLOCK_BOOTTIME`` at the commit; comparable with this boot's clock only while ``fresh``."""


class Outbox(Protocol):
    def next_pending(self) -> OutboxRow | None:
        """The unsent row with the lowest ``seq``."""

    def mark_sent(self, seq: int) -> None: ...

    def mark_failed(self, seq: int, error: str) -> None:
        """Count an attempt that did not end in reason code 0x00, with its reason in words."""


class Outcome(StrEnum):
    """How one publish ended."""

    SENT = "sent"
    """PUBACK with reason code 0x00."""
    NO_SUBSCRIBER = "no_subscriber"
    REFUSED = "refused"
    """PUBACK with a reason code of 0x80 or above (not authorized, quota, …)."""
    LOST = "lost"
    """Not connected, or no PUBACK in time."""


@dataclass(frozen=True, slots=True)
class Receipt:
    outcome: Outcome
    detail: str = ""


class Broker(Protocol):
    @property
    def connected(self) -> bool: ...

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, timeout_s: float = 10.0) -> Receipt:
        """Publish at QoS 1 below the device's prefix and wait for the PUBACK."""

    def wait_connected(self, timeout_s: float) -> bool: ...
