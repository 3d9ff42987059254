"""Video files and folders as a camera: at the pace they were recorded, or as fast as they are read."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Literal, Self

from kiosk.biometrics import Frame, Image
from kiosk.camera._media import Media
from kiosk.camera._rotation import Rotation, turn
from kiosk.clock import SystemClock
from kiosk.errors import CameraError
from kiosk.ports import CameraCondition, EndOfStream


class ReplayCamera:
    """Implements :class:`kiosk.ports.Camera` for a finite source.

    ``pace`` ``realtime``: a frame is due at its media time, late ones are skipped; ``fast``: every frame in order.
    Both stamp frames with the first read's boot time plus the media time.
    """

    def __init__(self, media: Media, *, rotate: Rotation, loop: bool, pace: Literal["realtime", "fast"]) -> None:
        self._media = media
        self._rotate = rotate
        self._loop = loop
        self._realtime = pace == "realtime"
        self._clock = SystemClock()
        self._closed = threading.Event()
        # Closing must not pull the file away from under a read.
        self._reading = threading.Lock()
        self._start_s: float | None = None
        self._offset_s = 0.0
        self._grabbed = 0
        self._media_s = 0.0
        self._pending = False
        self._damaged: str | None = None
        self._last_frame_s: float | None = None

    def start(self) -> None:
        """Open the media and find its first picture.

        Raises:
            CameraError: there is none.
        """
        self._media.open()
        if not self._grab():
            self._media.close()
            raise CameraError(f"{self._media.name}: holds no pictures; set camera.source to another file")

    @property
    def fault(self) -> str | None:
        """Set while the picture last read is damaged."""
        return self._damaged

    @property
    def condition(self) -> CameraCondition:
        """A file is opened once and never silent."""
        last_s = self._last_frame_s
        return CameraCondition(
            fault=self._damaged,
            reconnects=0,
            stalls=0,
            frames=self._grabbed,
            last_frame_age_s=None if last_s is None else time.monotonic() - last_s,
            attempts=self._grabbed,
        )

    def read(self, timeout_s: float) -> Frame | None:
        """The picture that is due, or None when none is due within ``timeout_s`` or it is damaged.

        Raises:
            EndOfStream: after the last one.
            CameraError: with ``loop``, when the file cannot be opened again.
        """
        with self._reading:
            if self._closed.is_set():
                return None
            if self._start_s is None:
                self._start_s = self._clock.boottime_s()
            self._advance()
            if self._realtime and not self._wait_until_due(timeout_s):
                return None
            return self._decode()

    def close(self) -> None:
        self._closed.set()
        with self._reading:
            self._media.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self.close()
        return False

    @property
    def _captured_s(self) -> float:
        return (self._start_s or 0.0) + self._media_s

    def _wait_until_due(self, timeout_s: float) -> bool:
        """False when it is not due in time, or the camera is closed meanwhile."""
        wait_s = self._captured_s - self._clock.boottime_s()
        if wait_s > 0 and (self._closed.wait(min(wait_s, timeout_s)) or wait_s > timeout_s):
            return False
        # The newest frame wins: what should have been shown a frame ago is not decoded any more.
        while self._clock.boottime_s() - self._captured_s > self._media.interval_s:
            self._pending = False
            self._advance()
        return True

    def _advance(self) -> None:
        """Have a picture pending."""
        if self._pending or self._grab():
            return
        if not self._loop:
            raise EndOfStream(self._media.name)
        self._offset_s = self._media_s + self._media.interval_s
        self._media.open()
        if not self._grab():
            raise CameraError(f"{self._media.name}: holds no pictures any more")

    def _grab(self) -> bool:
        media_s = self._media.grab()
        if media_s is None:
            return False
        self._media_s = self._offset_s + media_s
        self._pending = True
        self._grabbed += 1
        return True

    def _decode(self) -> Frame | None:
        self._pending = False
        image: Image | None = self._media.retrieve()
        if image is None:
            self._damaged = f"{self._media.name}: picture {self._grabbed} is damaged"
            return None
        self._damaged = None
        self._last_frame_s = time.monotonic()
        return Frame(turn(image, self._rotate), self._captured_s, self._grabbed - 1)
