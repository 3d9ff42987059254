"""What the core needs from the outside world. Adapters implement these; tests may, too."""

from __future__ import annotations

import time
from collections.abc import Sequence
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


class Pad(Protocol):
    @property
    def model_id(self) -> str:
        """Of the bundle."""

    @property
    def threshold(self) -> float:
        """The score from which a face counts as live."""

    def score(self, image: Image, face: Face) -> float:
        """How live a face of a BGR image is, 0 (an attack) to 1."""


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


@dataclass(frozen=True, slots=True)
class ReplayBatch:
    """The next events of the oldest unanswered wish to have events again; no rows: it is answered.

    ``to_seq``: the last one that is wished for.
    """

    command_id: str
    rows: tuple[OutboxRow, ...]
    to_seq: int


class Outbox(Protocol):
    def next_pending(self) -> OutboxRow | None:
        """The unsent row with the lowest ``seq``, only to look at."""

    def lend_pending(self, limit: int) -> list[OutboxRow]:
        """The unsent rows with the lowest ``seq``, in order, to be sent now: a broker may know them from here on."""

    def next_parked(self) -> OutboxRow | None:
        """The oldest row set aside because it broke connections."""

    def mark_sent(self, seqs: Sequence[int]) -> None: ...

    def mark_failed(self, seq: int, error: str, *, park: bool = False) -> None:
        """Count an attempt that did not end in reason code 0x00, with its reason in words; ``park``: set it aside."""

    def request_replay(self, command_id: str, from_seq: int, to_seq: int) -> str | None:
        """Remember a wish. None when it will be answered, or else why it is ignored: one of a few texts."""

    def next_replay(self, limit: int) -> ReplayBatch | None:
        """What to send again next, None when nobody waits for anything."""

    def advance_replay(self, command_id: str, next_seq: int | None) -> None:
        """Go on from this number; None: nothing is left."""


class Outcome(StrEnum):
    """How one publish ended."""

    SENT = "sent"
    """PUBACK with reason code 0x00."""
    NO_SUBSCRIBER = "no_subscriber"
    REFUSED = "refused"
    """PUBACK with a reason code of 0x80 or above (not authorized, quota, …)."""
    TOO_LARGE = "too_large"
    """Larger than the broker said it takes; not tried."""
    LOST = "lost"
    """Not connected, or no PUBACK in time."""
    BROKE = "broke"
    """The broker had answered all else on this connection, and ended it with this message in hand."""


@dataclass(frozen=True, slots=True)
class Receipt:
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """``topic``: below the device's own prefix."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Command:
    """What somebody sent us. ``expires_at_s``: by the monotonic clock; None: it does not."""

    payload: bytes
    expires_at_s: float | None = None

    @property
    def expired(self) -> bool:
        return self.expires_at_s is not None and time.monotonic() >= self.expires_at_s


class Broker(Protocol):
    @property
    def connected(self) -> bool: ...

    def publish(self, messages: Sequence[Message], *, timeout_s: float = 10.0) -> list[Receipt]:
        """Publish at QoS 1 below the device's prefix, in order, and wait for the PUBACKs.

        Returns a receipt for each message that was tried: those behind one that cannot be sent are not.
        """

    def wait_connected(self, timeout_s: float) -> bool: ...
