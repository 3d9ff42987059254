"""Cameras and streams: a grabber keeps only the newest frame and reopens what failed; one that hangs is replaced."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Literal, Self

from kiosk.attention import Attention
from kiosk.biometrics import Frame, Image
from kiosk.camera._grabber import GRACE_S, Grabber, no_picture
from kiosk.camera._pictures import FROZEN, PictureWatch
from kiosk.camera._rotation import Rotation, turn
from kiosk.camera._sources import LiveSource
from kiosk.clock import SystemClock
from kiosk.errors import CameraError
from kiosk.ports import CameraCondition

log = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S = 1.5
_LOOK_AFTER_S = 0.25
"""How often a waiting reader sees to a grabber that hangs."""
_MAX_HANGING = 2
"""Grabbers left behind in calls that do not return: each keeps a thread and what it had open."""
_REOPEN_FROZEN_S = 30.0
"""Rarely: should the scene only be very still, opening again would blind the kiosk for a second each time."""

_HANGS = "hangs: a call to it does not return; trying again beside it"
_HANGS_FOR_GOOD = (
    "hangs: calls to it do not return; only a restart of the kiosk can help (systemd's watchdog does that)"
)


class LiveCamera:
    """Implements :class:`kiosk.ports.Camera` for a source that never ends.

    The grabber decodes each frame as it comes: a reader slower than the camera finds the newest one ready instead of
    waiting for the next. Frames that ``attention`` does not want are passed over. Reading is also what notices
    a grabber that hangs and puts another in its place.
    """

    def __init__(
        self,
        source: LiveSource,
        *,
        rotate: Rotation,
        open_timeout_s: float,
        read_timeout_s: float,
        frozen_after_s: float,
        attention: Attention | None = None,
    ) -> None:
        self._source = source
        self._attention = attention
        self._rotate = rotate
        self._open_timeout_s = open_timeout_s
        self._read_timeout_s = read_timeout_s
        self._closed = threading.Event()
        # Guards everything below, and tells of a frame, the first opening or a failure.
        self._changed = threading.Condition()
        self._watch = PictureWatch(frozen_after_s)
        self._frame: Frame | None = None
        self._problem: str | None = None
        self._size: tuple[int, ...] | None = None
        self._last_sign_s = 0.0
        self._last_frame_s: float | None = None
        self._unfrozen_s = 0.0
        self._openings = 0
        self._stalls = 0
        self._frames = 0
        self._attempts = 0
        self._hanging: list[Grabber] = []
        self._grabber = self._new_grabber()

    def start(self) -> None:
        """Open the source and start grabbing.

        Raises:
            CameraError: it cannot be opened.
        """
        self._grabber.start()
        with self._changed:
            self._changed.wait_for(
                lambda: self._openings > 0 or self._problem is not None, self._open_timeout_s + GRACE_S
            )
            opened, problem = self._openings > 0, self._problem
        if not opened:
            self.close()
            raise CameraError(f"{self._source.name}: {problem or 'does not answer; check camera.source'}")

    @property
    def name(self) -> str:
        """The source, for messages."""
        return self._source.name

    @property
    def fault(self) -> str | None:
        """Why no frames come; the same text as long as the reason is the same."""
        with self._changed:
            return self._fault()

    @property
    def condition(self) -> CameraCondition:
        """How the camera has done since it was opened."""
        with self._changed:
            return CameraCondition(
                fault=self._fault(),
                reconnects=max(self._openings - 1, 0),
                stalls=self._stalls,
                frames=self._frames,
                last_frame_age_s=None if self._last_frame_s is None else time.monotonic() - self._last_frame_s,
                attempts=self._attempts,
            )

    def read(self, timeout_s: float) -> Frame | None:
        """The newest frame not read yet."""
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while self._frame is None and not self._closed.is_set():
                self._replace_hanging()
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(min(left_s, _LOOK_AFTER_S))
            frame, self._frame = self._frame, None
            # A frame left over from before a stall shows nobody who is there now.
            return None if self._is_silent() else frame

    def close(self) -> None:
        """Stop grabbing; a read that does not return is left to itself."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        self._grabber.join(_CLOSE_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self.close()
        return False

    # What grabbers tell: see kiosk.camera._grabber.Owner.

    def opened(self, grabber: Grabber) -> bool:
        with self._changed:
            self._note_attempt()
            if not self._is_wanted(grabber):
                return False
            self._openings += 1
            self._last_sign_s = time.monotonic()
            if self._attention is not None:
                # Whatever it shows is news.
                self._attention.rouse(SystemClock().boottime_s())
            self._changed.notify_all()
            return True

    def took(self, grabber: Grabber, image: Image, captured_s: float) -> bool:
        turned = turn(image, self._rotate)
        with self._changed:
            if not self._is_wanted(grabber):
                return False
            now_s = self._note_picture()
            self._note_size(turned)
            self._problem = self._watch.judge(image, now_s)
            if self._problem is not None:
                self._frame = None
                return self._may_go_on(now_s)
            self._unfrozen_s = now_s
            self._last_frame_s = now_s
            self._frame = Frame(turned, captured_s, self._frames - 1)
            self._changed.notify_all()
            return True

    def passed_over(self, grabber: Grabber) -> bool:
        with self._changed:
            wanted = self._is_wanted(grabber)
            if wanted:
                self._note_picture()
            return wanted

    def failed(self, grabber: Grabber, problem: str, *, stalled: bool = False) -> None:
        with self._changed:
            self._note_attempt()
            if self._is_wanted(grabber):
                self._fail(problem, stalled=stalled)

    def wants(self, grabber: Grabber) -> bool:
        with self._changed:
            return self._is_wanted(grabber)

    def wait(self, seconds: float) -> None:
        self._closed.wait(seconds)

    # All below is called with the lock held.

    def _is_wanted(self, grabber: Grabber) -> bool:
        return grabber is self._grabber and not self._closed.is_set()

    def _is_silent(self) -> bool:
        return time.monotonic() - self._last_sign_s > self._read_timeout_s

    def _fault(self) -> str | None:
        problem = self._problem or (no_picture(self._read_timeout_s) if self._is_silent() else None)
        return None if problem is None else f"{self._source.name}: {problem}"

    def _fail(self, problem: str, *, stalled: bool) -> None:
        self._problem = problem
        self._stalls += stalled
        self._frame = None
        self._changed.notify_all()

    def _note_attempt(self) -> None:
        """An attempt has come to its end: no proof while one that hangs may keep the device from the others."""
        if not self._living():
            self._attempts += 1

    def _note_picture(self) -> float:
        """Now."""
        self._attempts += 1
        self._frames += 1
        self._last_sign_s = time.monotonic()
        return self._last_sign_s

    def _note_size(self, image: Image) -> None:
        size = image.shape[1::-1]
        if self._size is not None and size != self._size:
            log.info(
                "%s: the picture's size has changed from %s × %s to %s × %s", self._source.name, *self._size, *size
            )
        self._size = size

    def _may_go_on(self, now_s: float) -> bool:
        """False now and then while frozen: a new connection may bring the picture back to life."""
        if self._problem != FROZEN:
            self._unfrozen_s = now_s
        reopen = now_s - self._unfrozen_s >= _REOPEN_FROZEN_S
        if reopen:
            self._unfrozen_s = now_s
        return not reopen

    def _living(self) -> list[Grabber]:
        self._hanging = [grabber for grabber in self._hanging if grabber.alive]
        return self._hanging

    def _replace_hanging(self) -> None:
        if self._grabber.overdue_s() <= 0:
            return
        if len(self._living()) >= _MAX_HANGING:
            self._problem = _HANGS_FOR_GOOD
            return
        self._hanging.append(self._grabber)
        self._fail(_HANGS, stalled=True)
        self._grabber = self._new_grabber()
        self._grabber.start()

    def _new_grabber(self) -> Grabber:
        return Grabber(
            self._source,
            self,
            open_timeout_s=self._open_timeout_s,
            read_timeout_s=self._read_timeout_s,
            attention=self._attention,
        )
