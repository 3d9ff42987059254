"""An MJPEG camera on the network: a real HTTP server on loopback that can fail in all the ways cameras do."""

from __future__ import annotations

import threading
from enum import StrEnum
from http.server import BaseHTTPRequestHandler
from socketserver import StreamRequestHandler, ThreadingTCPServer
from types import TracebackType
from typing import Self

import numpy as np

from kiosk.biometrics import Image
from kiosk.opencv import cv2

_STEP = 8
_STEPS = 32
_WAIT_S = 0.02


class Fault(StrEnum):
    """What a camera on the network can suffer from."""

    REFUSE = "refuses connections"
    SILENT = "accepts, says nothing"
    STALL = "stalls mid-picture"
    DROP = "drops every connection"
    FREEZE = "sends the same picture"
    BLACK = "sends a black picture"
    WHITE = "sends a white picture"
    SIZE = "changes the size"
    GARBAGE = "sends damaged JPEGs"


class MjpegServer:
    """Serves numbered pictures at ``fps`` to every client, on a free port that it keeps over ``stop`` and ``start``."""

    def __init__(self, *, fps: float = 25.0, size: tuple[int, int] = (64, 48)) -> None:
        self._interval_s = 1 / fps
        self._size = size
        self._stopped = threading.Event()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._count = threading.Lock()
        self._fault: Fault | None = None
        self.port = 0
        self.sent = 0
        self.connections = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/camera.mjpg"

    def address(self) -> str:
        """``url``, for those who reach only the methods of a server in another process."""
        return self.url

    def connection_count(self) -> int:
        return self.connections

    def start(self) -> None:
        self._stopped = threading.Event()
        self._server = _Server(("127.0.0.1", self.port), self._handler(self._stopped))
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_WAIT_S,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Hang up on everybody and listen no more."""
        self._stopped.set()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    def suffer(self, fault: Fault) -> None:
        """From now on; what closes connections closes those there are."""
        self._fault = fault
        if fault in {Fault.REFUSE, Fault.SILENT, Fault.DROP}:
            self.stop()
        if fault in {Fault.SILENT, Fault.DROP}:
            self.start()

    def mend(self) -> None:
        """As if the camera had been switched off and on where it had kept its connections silent or closed."""
        fault, self._fault = self._fault, None
        if fault is Fault.SILENT:
            self.stop()
        if self._server is None:
            self.start()

    def stall(self) -> None:
        """Keep the connections and say nothing."""
        self.suffer(Fault.STALL)

    def resume(self) -> None:
        self.mend()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _handler(self, stopped: threading.Event) -> type[StreamRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.connections += 1
                while server._fault is Fault.SILENT and not stopped.wait(_WAIT_S):
                    pass
                if server._fault is Fault.DROP or stopped.is_set():
                    return
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                last = b""
                while not stopped.wait(server._interval_s):
                    last = last if server._fault is Fault.FREEZE and last else server._part()
                    self._send(last)

            def _send(self, part: bytes) -> None:
                """Half of it, and the rest when it goes on."""
                half = len(part) // 2 if server._fault is Fault.STALL else len(part)
                self.wfile.write(part[:half])
                while server._fault is Fault.STALL and not stopped.wait(_WAIT_S):
                    pass
                self.wfile.write(part[half:])

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _part(self) -> bytes:
        return as_part(self._jpeg(self._next_number()))

    def _next_number(self) -> int:
        with self._count:
            number, self.sent = self.sent, self.sent + 1
        return number

    def _jpeg(self, number: int) -> bytes:
        width, height = self._size
        match self._fault:
            case Fault.GARBAGE:
                return np.random.default_rng(number).bytes(900)
            case Fault.BLACK | Fault.WHITE:
                image = np.full((height, width, 3), 255 if self._fault is Fault.WHITE else 0, np.uint8)
            case Fault.SIZE:
                image = numbered(number, height, width)
            case _:
                image = numbered(number, width, height)
        return cv2.imencode(".jpg", image)[1].tobytes()


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    # A client may keep its connection as long as it likes.
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients go away."""


def as_part(jpeg: bytes) -> bytes:
    """A picture as one part of the multipart stream."""
    header = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    return header.encode() + jpeg + b"\r\n"


def numbered(number: int, width: int = 64, height: int = 48) -> Image:
    """A picture that says its number (modulo 1024), whatever a codec does to it: two grey levels, left and right."""
    image = np.empty((height, width, 3), np.uint8)
    image[:, : width // 2] = number % _STEPS * _STEP
    image[:, width // 2 :] = number // _STEPS % _STEPS * _STEP
    return image


def number_of(image: Image) -> int:
    """The number of a ``numbered`` picture."""
    height, width = image.shape[:2]
    low, high = (round(float(image[height // 2, x, 1]) / _STEP) for x in (width // 4, 3 * width // 4))
    return low + high * _STEPS
