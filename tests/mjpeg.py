"""An MJPEG camera on the network: a real HTTP server on loopback that can stall, hang up and come back."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

import numpy as np

from kiosk.biometrics import Image
from kiosk.opencv import cv2

_STEP = 8
_STEPS = 32


class MjpegServer:
    """Serves numbered pictures at ``fps`` to every client, on a free port that it keeps over ``stop`` and ``start``."""

    def __init__(self, *, fps: float = 25.0, size: tuple[int, int] = (64, 48)) -> None:
        self._interval_s = 1 / fps
        self._size = size
        self._stalled = threading.Event()
        self._stopped = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self._count = threading.Lock()
        self.port = 0
        self.sent = 0
        self.connections = 0
        self.hang_up = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/camera.mjpg"

    def start(self) -> None:
        self._stopped.clear()
        self._server = _Server(("127.0.0.1", self.port), self._handler())
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Hang up on everybody and listen no more."""
        self._stopped.set()
        self._stalled.clear()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def stall(self) -> None:
        """Keep the connections and say nothing."""
        self._stalled.set()

    def resume(self) -> None:
        self._stalled.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.connections += 1
                if server.hang_up:
                    return
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                while not server._stopped.wait(server._interval_s):
                    if not server._stalled.is_set():
                        self.wfile.write(server._part())

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _part(self) -> bytes:
        with self._count:
            number, self.sent = self.sent, self.sent + 1
        width, height = self._size
        _, jpeg = cv2.imencode(".jpg", numbered(number, width, height))
        header = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        return header.encode() + jpeg.tobytes() + b"\r\n"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A client may keep its connection as long as it likes.
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients go away."""


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
