"""The thread that opens a live source, grabs from it, and opens it again after a failure."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import Protocol

from kiosk.attention import Attention
from kiosk.biometrics import Image
from kiosk.camera._sources import Capture, LiveSource
from kiosk.clock import SystemClock

log = logging.getLogger(__name__)

_FIRST_BACK_OFF_S = 0.2
_MAX_BACK_OFF_S = 5.0
# What OpenCV needs beyond its own time-outs to come back.
GRACE_S = 2.0
# Cheap USB cameras send a broken JPEG now and then; a run of them is a failure.
_MAX_DAMAGED = 10
# A read that failed after this share of its time-out has waited for it.
_WAITED = 0.9

STOPPED = "has stopped delivering; trying to open it again"
DAMAGED = "sends damaged pictures; trying to open it again"


class Owner(Protocol):
    """Whom a grabber works for."""

    def opened(self, grabber: Grabber) -> bool:
        """The source is open. False: release it again."""

    def took(self, grabber: Grabber, image: Image, captured_s: float) -> bool:
        """A picture, taken at ``captured_s`` (seconds since boot). False: release the source."""

    def passed_over(self, grabber: Grabber) -> bool:
        """A picture that nobody wants decoded. False: release the source."""

    def failed(self, grabber: Grabber, problem: str, *, stalled: bool = False) -> None:
        """It could not be opened, or delivers no more. ``stalled``: it kept silent, rather than saying so."""

    def wants(self, grabber: Grabber) -> bool:
        """False: another has its place, or all is over."""

    def wait(self, seconds: float) -> None:
        """Sleep, but not beyond the owner's end."""


class Grabber:
    """One thread on one source.

    Every call into OpenCV can hang in a driver or a resolver where no time-out reaches it, and a thread cannot be
    killed: its owner looks at ``overdue_s`` and leaves it behind. Should it ever come back, it releases what it holds
    and ends. Leaving behind helps against a read that hangs, and against a driver. Where FFmpeg hangs in opening
    a stream OpenCV holds a lock without which no other is opened: then all who try hang, and the watchdog must help.
    """

    def __init__(
        self,
        source: LiveSource,
        owner: Owner,
        *,
        open_timeout_s: float,
        read_timeout_s: float,
        attention: Attention | None = None,
    ) -> None:
        self._source = source
        self._owner = owner
        self._attention = attention
        self._open_limit_s = open_timeout_s + GRACE_S
        self._read_timeout_s = read_timeout_s
        self._read_limit_s = read_timeout_s + GRACE_S
        self._due_s = math.inf
        # A call that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def overdue_s(self) -> float:
        """For how long the call in hand should have returned; negative while there is time."""
        return time.monotonic() - self._due_s

    def _run(self) -> None:
        try:
            back_off_s = _FIRST_BACK_OFF_S
            while self._owner.wants(self):
                started_s = time.monotonic()
                delivered = self._open_and_grab()
                back_off_s = _FIRST_BACK_OFF_S if delivered else min(back_off_s * 2, _MAX_BACK_OFF_S)
                # Counted from the attempt's start: one that waited for its whole time-out was pause enough.
                passed_s = time.monotonic() - started_s
                self._due_s = math.inf
                self._owner.wait(max(back_off_s - passed_s, _FIRST_BACK_OFF_S))
        except Exception:
            log.exception("%s: the grabber has ended", self._source.name)
            self._owner.failed(self, "internal error, see the log; restart the kiosk")

    def _open_and_grab(self) -> bool:
        """One life of the source. Whether any picture came."""
        started_s = self._must_return_in(self._open_limit_s)
        capture = self._source.open()
        if capture is None:
            waited_s = time.monotonic() - started_s
            self._must_return_in(self._open_limit_s)
            self._owner.failed(self, self._source.explain(waited_s))
            return False
        try:
            return self._owner.opened(self) and self._grab_until_failure(capture)
        finally:
            self._must_return_in(self._read_limit_s)
            capture.release()

    def _grab_until_failure(self, capture: Capture) -> bool:
        delivered = False
        damaged = 0
        while damaged < _MAX_DAMAGED:
            asked_s = self._must_return_in(self._read_limit_s)
            grabbed = capture.grab()
            waited_s = time.monotonic() - asked_s
            # At a time-out FFmpeg may hand over what it has: half a picture.
            if not grabbed or waited_s >= self._read_timeout_s:
                stalled = waited_s >= _WAITED * self._read_timeout_s
                self._owner.failed(self, no_picture(self._read_timeout_s) if stalled else STOPPED, stalled=stalled)
                return delivered
            captured_s = capture.captured_s or SystemClock().boottime_s()
            if not self._is_worth_it(capture, captured_s):
                if not self._owner.passed_over(self):
                    return delivered
                continue
            image = capture.retrieve()
            if image is None:
                damaged += 1
                continue
            damaged = 0
            delivered = True
            if not self._owner.took(self, image, captured_s):
                return delivered
        self._owner.failed(self, DAMAGED)
        return delivered

    def _is_worth_it(self, capture: Capture, now_s: float) -> bool:
        """Whether the picture grabbed is to be decoded; one that cannot be glanced at is, to say so."""
        attention = self._attention
        if attention is None:
            return True
        if attention.glance_due(now_s):
            began_s = time.thread_time()
            grey = capture.glance()
            if grey is None:
                return True
            attention.glance(grey, now_s, took_s=time.thread_time() - began_s)
        return attention.wants(now_s)

    def _must_return_in(self, limit_s: float) -> float:
        """Now."""
        now_s = time.monotonic()
        self._due_s = now_s + limit_s
        return now_s


def no_picture(timeout_s: float) -> str:
    """A stall in words."""
    return f"no picture for more than {timeout_s:g} s; trying to open it again"
