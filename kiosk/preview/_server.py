"""The daemon's end of the preview. The loop hands over references; what costs is done in the clients' own threads."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import struct
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from kiosk.biometrics import FaceReport, Frame, Image
from kiosk.errors import UnavailableError
from kiosk.events import AttendanceEvent, FrameHealth, Health, RejectedEvent
from kiosk.opencv import cv2
from kiosk.preview._protocol import (
    MAX_REQUEST_BYTES,
    FrameTime,
    Header,
    HealthReport,
    Outcome,
    Request,
    SeenFace,
    SentPicture,
    WantedPicture,
    address,
)

log = logging.getLogger(__name__)

_MAX_CLIENTS = 4
_MAX_OUTCOMES = 16
_MIN_INTERVAL_S = 0.1
_IDLE_S = 30.0
_STOP_TIMEOUT_S = 1.5
_BROKER_WORDS: Mapping[bool | None, Literal["connected", "not connected", "off"]] = {
    True: "connected",
    False: "not connected",
    None: "off",
}
_CREDENTIALS = struct.Struct("3i")
"""``struct ucred``: process, user, group."""


@dataclass(frozen=True, slots=True)
class _Shown:
    frame: Frame
    reports: tuple[FaceReport, ...]


class Preview:
    """Listens at ``path``, which only the holder of the store's daemon lock may do.

    ``watched`` is all that the loop has to look at while nobody is connected. Frames are handed on as they are: nobody
    may write into one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._listener: threading.Thread | None = None
        # Guards everything below, and tells of a frame, a fault or the end.
        self._changed = threading.Condition()
        self._clients: set[socket.socket] = set()
        self._shown: _Shown | None = None
        self._fault: str | None = None
        self._outcomes: deque[Outcome] = deque(maxlen=_MAX_OUTCOMES)
        self._stopping = threading.Event()
        self._health: HealthReport | None = None
        self.watched = False
        """Whether anybody is connected."""
        self.looks = 0
        """How often anybody has asked for a frame, rather than for how the kiosk is."""
        self.health_wanted = False
        """Whether somebody waits for :meth:`tell_health`."""

    def start(self) -> None:
        """Listen.

        Raises:
            UnavailableError: the socket cannot be made.
        """
        try:
            self._socket = _listen_at(self._path)
        except OSError as error:
            raise UnavailableError(f"{self._path}: {(error.strerror or str(error)).lower()}") from error
        self._listener = threading.Thread(target=self._listen, args=(self._socket,), name="preview", daemon=True)
        self._listener.start()

    def stop(self) -> None:
        """Send everybody away and remove the socket."""
        if self._socket is None or self._listener is None:
            return
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
            for connection in (self._socket, *self._clients):
                # Wakes whoever waits in it; closing would not.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._listener.join(_STOP_TIMEOUT_S)
        self._socket.close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def show(self, frame: Frame, reports: Sequence[FaceReport]) -> None:
        """Hand over the newest frame and what was found in it."""
        with self._changed:
            if self._clients:
                self._shown = _Shown(frame, tuple(reports))
                self._changed.notify_all()

    def tell_fault(self, fault: str | None) -> None:
        """Why no frames come from now on; None: they do again."""
        with self._changed:
            self._fault = fault
            self._shown = None
            self._changed.notify_all()

    def tell_health(
        self, health: Health, history: Iterable[tuple[str, FrameHealth]], *, connected: bool | None
    ) -> None:
        """How the kiosk is, and how long frames took in the last hour, to all who wait for it.

        ``connected``: to the broker; None: there is none.
        """
        times = [FrameTime(at=at, per_s=one.per_s, p50_ms=one.p50_ms, p95_ms=one.p95_ms) for at, one in history]
        report = HealthReport(now=health.payload(), history=times, broker=_BROKER_WORDS[connected])
        with self._changed:
            self._health = report
            self.health_wanted = False
            self._changed.notify_all()

    def tell_outcome(self, event: AttendanceEvent | RejectedEvent) -> None:
        """Something was committed, or led to no check-in."""
        outcome = Outcome(event_type=event.event_type, event_id=event.event_id, occurred_at=event.occurred_at)
        if isinstance(event, RejectedEvent):
            outcome = outcome.model_copy(update={"reason": event.reason})
        else:
            outcome = outcome.model_copy(update={"seq": event.seq, "subject_id": event.subject.id})
        with self._changed:
            self._outcomes.append(outcome)

    def _listen(self, listening: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                # The end, or no file descriptor left: never in a tight loop.
                self._stopping.wait(_MIN_INTERVAL_S)
                continue
            threading.Thread(target=self._attend, args=(connection,), name="preview client", daemon=True).start()

    def _attend(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.settimeout(_IDLE_S)
                refusal = self._enter(connection)
                if refusal is None:
                    self._serve(connection)
                else:
                    _send(connection, Header(error=refusal))
            except OSError:
                log.debug("a client of the preview has gone")
            except Exception:
                log.exception("the preview has failed")
            finally:
                self._leave(connection)

    def _enter(self, connection: socket.socket) -> str | None:
        """Why somebody may not come in."""
        _, user, _ = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        if user not in {0, os.geteuid()}:
            return "only the kiosk's own user may look"
        with self._changed:
            if len(self._clients) >= _MAX_CLIENTS:
                return f"{_MAX_CLIENTS} others look already; try again later"
            self._clients.add(connection)
            self.watched = True
        return None

    def _leave(self, connection: socket.socket) -> None:
        with self._changed:
            self._clients.discard(connection)
            self.watched = bool(self._clients)
            if not self._clients:
                self._shown = None

    def _serve(self, connection: socket.socket) -> None:
        next_s = 0.0
        with connection.makefile("rb") as lines:
            while (line := lines.readline(MAX_REQUEST_BYTES + 1)) and not self._stopping.is_set():
                try:
                    request = _read_request(line)
                except ValueError as error:
                    _send(connection, Header(error=str(error)))
                    return
                if request.health:
                    _send(connection, Header(health=self._ask_health(request.timeout_s)))
                    continue
                self._answer(connection, request, next_s)
                # Ten a second on the average: the frames of a camera of 15 a second do not come when they are due.
                next_s = max(next_s + _MIN_INTERVAL_S, time.monotonic() + _MIN_INTERVAL_S / 2)

    def _answer(self, connection: socket.socket, request: Request, not_before_s: float) -> None:
        deadline_s = time.monotonic() + request.timeout_s
        self._stopping.wait(max(min(not_before_s, deadline_s) - time.monotonic(), 0))
        with self._changed:
            self.looks += 1
            fault = self._fault
            self._changed.wait_for(
                lambda: (
                    self._stopping.is_set()
                    or self._newer(request) is not None
                    or self._fault != fault
                    or (self._fault is not None and request.after is None)
                ),
                max(deadline_s - time.monotonic(), 0),
            )
            shown, fault, outcomes = self._newer(request), self._fault, list(self._outcomes)
        if shown is None:
            _send(connection, Header(fault=fault, outcomes=outcomes))
            return
        frame = shown.frame
        picture, data = None, memoryview(b"")
        if request.picture is not None:
            picture, data = _encode(frame.image, request.picture)
        header = Header(
            fault=fault,
            index=frame.index,
            captured_s=frame.captured_s,
            width=frame.image.shape[1],
            height=frame.image.shape[0],
            faces=[SeenFace.of(report) for report in shown.reports],
            outcomes=outcomes,
            picture=picture,
        )
        _send(connection, header)
        connection.sendall(data)

    def _ask_health(self, timeout_s: float) -> HealthReport | None:
        """None: the loop hangs, or the kiosk ends."""
        with self._changed:
            before = self._health
            self.health_wanted = True
            told = self._changed.wait_for(lambda: self._stopping.is_set() or self._health is not before, timeout_s)
            return self._health if told and self._health is not before else None

    def _newer(self, request: Request) -> _Shown | None:
        """The caller holds the lock."""
        shown = self._shown
        # Not "higher": whoever has a frame of another kiosk's run is shown this one's.
        return None if shown is None or shown.frame.index == request.after else shown


def _listen_at(path: Path) -> socket.socket:
    """The socket, in the place of one that a killed daemon has left."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if path.is_symlink() or (path.exists() and stat.S_ISSOCK(path.stat().st_mode)):
            path.unlink()
        # The file has this mode from its first moment; the umask of a process is not for one thread to change.
        os.fchmod(listening.fileno(), 0o600)
        with address(path) as name:
            listening.bind(name)
        listening.listen(_MAX_CLIENTS)
    except OSError:
        listening.close()
        raise
    return listening


def _read_request(line: bytes) -> Request:
    """Raises ValueError with what is wrong."""
    if not line.endswith(b"\n"):
        raise ValueError(f"a request is one line of JSON of at most {MAX_REQUEST_BYTES} bytes")
    try:
        return Request.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "request"
        raise ValueError(f"{where}: {first['msg']}") from None


def _send(connection: socket.socket, header: Header) -> None:
    connection.sendall(header.model_dump_json().encode() + b"\n")


def _encode(image: Image, wanted: WantedPicture) -> tuple[SentPicture, memoryview]:
    height, width = image.shape[:2]
    longest = max(height, width)
    if wanted.longest_px is not None and longest > wanted.longest_px:
        scale = wanted.longest_px / longest
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    if wanted.format == "raw":
        data = np.ascontiguousarray(image).data.cast("B")
    else:
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, wanted.quality])[1]
        data = encoded.data.cast("B")
    sent = SentPicture(format=wanted.format, width=image.shape[1], height=image.shape[0], bytes=len(data))
    return sent, data
