"""Cameras and streams: one thread grabs, keeps only the newest frame, and reopens what failed."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Literal, Self

from kiosk.biometrics import Frame, Image
from kiosk.camera._rotation import Rotation, turn
from kiosk.camera._sources import LiveSource
from kiosk.clock import SystemClock
from kiosk.errors import CameraError
from kiosk.opencv import cv2

log = logging.getLogger(__name__)

_FIRST_BACK_OFF_S = 0.2
_MAX_BACK_OFF_S = 5.0
_CLOSE_TIMEOUT_S = 1.5
# What FFmpeg needs beyond its own time-out to come back, and a look at why.
_OPEN_GRACE_S = 2.0
# Cheap USB cameras send a broken JPEG now and then; a run of them is a failure.
_MAX_DAMAGED = 10


class LiveCamera:
    """Implements :class:`kiosk.ports.Camera` for a source that never ends.

    The grabber decodes each frame as it comes: a reader slower than the camera finds the newest one ready instead of
    waiting for the next.
    """

    def __init__(self, source: LiveSource, *, rotate: Rotation, open_timeout_s: float, read_timeout_s: float) -> None:
        self._source = source
        self._rotate = rotate
        self._open_timeout_s = open_timeout_s
        self._read_timeout_s = read_timeout_s
        self._closed = threading.Event()
        # Guards everything below, and tells of a frame, the first opening or a failure.
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._problem: str | None = None
        self._opened = False
        self._last_sign_s = 0.0
        self._grabbed = 0
        # A read that never returns must not keep the process from ending.
        self._grabber = threading.Thread(target=self._run, name="camera", daemon=True)

    def start(self) -> None:
        """Open the source and start grabbing.

        Raises:
            CameraError: it cannot be opened.
        """
        self._grabber.start()
        with self._changed:
            self._changed.wait_for(
                lambda: self._opened or self._problem is not None, self._open_timeout_s + _OPEN_GRACE_S
            )
            opened, problem = self._opened, self._problem
        if not opened:
            self.close()
            raise CameraError(f"{self._source.name}: {problem or 'does not answer; check camera.source'}")

    @property
    def fault(self) -> str | None:
        """Why no frames come; the same text as long as the reason is the same."""
        with self._changed:
            if self._problem is not None:
                return f"{self._source.name}: {self._problem}"
            if time.monotonic() - self._last_sign_s > self._read_timeout_s:
                return f"{self._source.name}: no picture for more than {self._read_timeout_s:g} s"
        return None

    def read(self, timeout_s: float) -> Frame | None:
        """The newest frame not read yet."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._closed.is_set(), timeout_s)
            frame, self._frame = self._frame, None
            # A frame left over from before a stall shows nobody who is there now.
            if time.monotonic() - self._last_sign_s > self._read_timeout_s:
                return None
            return frame

    def close(self) -> None:
        """Stop grabbing; a read that does not return is left to itself."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        if self._grabber.is_alive():
            self._grabber.join(_CLOSE_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self.close()
        return False

    def _run(self) -> None:
        try:
            back_off_s = _FIRST_BACK_OFF_S
            while not self._closed.is_set():
                delivered = self._open_and_grab()
                back_off_s = _FIRST_BACK_OFF_S if delivered else min(back_off_s * 2, _MAX_BACK_OFF_S)
                self._closed.wait(back_off_s)
        except Exception:
            log.exception("%s: the grabber has ended", self._source.name)
            self._fail("internal error, see the log; restart the kiosk")

    def _open_and_grab(self) -> bool:
        """One life of the source. Whether any frame came."""
        capture = self._source.open()
        if capture is None:
            self._fail(self._source.explain())
            return False
        try:
            with self._changed:
                self._opened = True
                self._last_sign_s = time.monotonic()
                self._changed.notify_all()
            return self._grab_until_failure(capture)
        finally:
            capture.release()

    def _grab_until_failure(self, capture: cv2.VideoCapture) -> bool:
        before = self._grabbed
        damaged = 0
        while not self._closed.is_set() and damaged < _MAX_DAMAGED and capture.grab():
            captured_s = SystemClock().boottime_s()
            decoded, image = capture.retrieve()
            if decoded:
                self._publish(turn(image, self._rotate), captured_s)  # type: ignore[arg-type]
            damaged = 0 if decoded else damaged + 1
        if not self._closed.is_set():
            self._fail("has stopped delivering; trying to open it again")
        return self._grabbed > before

    def _publish(self, image: Image, captured_s: float) -> None:
        with self._changed:
            self._frame = Frame(image, captured_s, self._grabbed)
            self._grabbed += 1
            self._problem = None
            self._last_sign_s = time.monotonic()
            self._changed.notify_all()

    def _fail(self, problem: str) -> None:
        with self._changed:
            self._problem = problem
            self._frame = None
            self._changed.notify_all()
