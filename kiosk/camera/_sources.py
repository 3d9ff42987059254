"""What a live picture can come from: how it is opened, and why it could not be."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from kiosk.attention import Grey
from kiosk.biometrics import Image
from kiosk.encoded import decode_frame, decode_glance
from kiosk.opencv import cv2

STREAM_SCHEMES = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
"""Address schemes that are supported, with the port each means when none is given."""

_DEVICE_FILE = re.compile(r"/dev/video([0-9]{1,3})")
_ADDRESS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<login>[^/?#@]*@)?"
    r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?P<port>:[0-9]{1,5})?(?P<rest>[/?#][^@]*)?",
    re.DOTALL,
)
_PROBE_TIMEOUT_S = 1.0
_MJPEG_CODECS = frozenset({cv2.VideoWriter.fourcc(*"MJPG"), cv2.VideoWriter.fourcc(*"mjpg")})
# Beyond this, uncompressed pictures do not fit through USB 2 at a useful rate.
_MAX_RAW_PIXELS = 640 * 480


def shown_address(address: str) -> str:
    """``rtsp://user:password@10.0.0.7:554/live`` → ``rtsp://10.0.0.7:554/***``: for messages.

    Cameras take logins in path and query as well, so all but scheme, host and port is hidden; and those, too, where it
    is not certain which part they are.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        return f"{address.partition('://')[0]}://***"
    hidden = found["login"] or (found["rest"] or "/") != "/"
    return f"{found['scheme']}{found['host']}{found['port'] or ''}{'/***' if hidden else ''}"


def shrink(image: Image) -> Grey:
    """The luminance of a picture at an eighth of its size."""
    height, width = image.shape[:2]
    # Every fourth row is plenty for a mean.
    small = cv2.resize(image[::4], (max(width // 8, 1), max(height // 8, 1)), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)  # type: ignore[return-value]


class Capture(Protocol):
    """What is open."""

    def grab(self) -> bool:
        """Wait for the next picture. False: there is none, and none will come."""

    @property
    def captured_s(self) -> float | None:
        """When the picture grabbed was taken, seconds since boot; None: just now, as far as can be told."""

    def retrieve(self) -> Image | None:
        """The picture grabbed, decoded; None when it is damaged."""

    def glance(self) -> Grey | None:
        """Its luminance at about an eighth of its size, as cheaply as can be; None when it is damaged."""

    def release(self) -> None: ...


class LiveSource(Protocol):
    @property
    def name(self) -> str:
        """For messages; holds no password."""

    def open(self) -> Capture | None:
        """None when it cannot be opened."""

    def explain(self, waited_s: float) -> str:
        """Why ``open`` failed after so long, and what to do, as well as can be told."""


class DecodingCapture:
    """Pictures as OpenCV decodes them."""

    captured_s: float | None = None

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture
        self._image: Image | None = None

    def grab(self) -> bool:
        self._image = None
        return self._capture.grab()

    def retrieve(self) -> Image | None:
        # A picture that was glanced at need not be decoded once more.
        if self._image is None:
            decoded, image = self._capture.retrieve()
            self._image = image if decoded else None  # type: ignore[assignment]
        return self._image

    def glance(self) -> Grey | None:
        image = self.retrieve()
        return None if image is None else shrink(image)

    def release(self) -> None:
        self._capture.release()


class JpegCapture(DecodingCapture):
    """The JPEGs of an MJPEG stream as they were sent, decoded one by one.

    OpenCV's own way scales whatever comes to the size of the first picture: after a change of the camera's format every
    face would be squeezed. And a damaged JPEG would cost it a whole read time-out instead of being told.
    """

    def __init__(self, capture: cv2.VideoCapture) -> None:
        super().__init__(capture)
        capture.set(cv2.CAP_PROP_FORMAT, -1)

    def retrieve(self) -> Image | None:
        jpeg = self._jpeg()
        return None if jpeg is None else decode_frame(jpeg)

    def glance(self) -> Grey | None:
        jpeg = self._jpeg()
        return None if jpeg is None else decode_glance(jpeg)

    def _jpeg(self) -> bytes | None:
        sent = super().retrieve()
        return None if sent is None or sent.size == 0 else sent.tobytes()


@dataclass(frozen=True, slots=True)
class DeviceSource:
    """A V4L2 device file, or a link to one (``/dev/v4l/by-id/…`` survives replugging)."""

    path: Path
    size: tuple[int, int]
    fps: int

    @property
    def name(self) -> str:
        return str(self.path)

    def open(self) -> Capture | None:
        device = _DEVICE_FILE.fullmatch(os.path.realpath(self.path))
        if device is None or not self.path.exists():
            return None
        capture = cv2.VideoCapture(int(device[1]), cv2.CAP_V4L2)
        if not capture.isOpened():
            return None
        width, height = self.size
        if width * height > _MAX_RAW_PIXELS:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
        capture.set(cv2.CAP_PROP_FPS, self.fps)
        return DecodingCapture(capture)

    def explain(self, waited_s: float) -> str:  # noqa: ARG002 - a device answers at once
        if not self.path.exists():
            return "no such camera; plug it in, or set camera.source (`ls /dev/video*` lists what there is)"
        if not os.access(self.path, os.R_OK | os.W_OK):
            return "may not be opened by this user; add the user to the group video"
        return "cannot be opened; does another program use it, or is it no camera?"


@dataclass(frozen=True, slots=True)
class StreamSource:
    """An RTSP or HTTP address."""

    url: str
    open_timeout_s: float
    read_timeout_s: float

    @property
    def name(self) -> str:
        return shown_address(self.url)

    def open(self) -> Capture | None:
        try:
            # FFmpeg's own look-up knows no time-out, and while it lasts OpenCV opens no other stream.
            _resolve(urlsplit(self.url))
        except (ValueError, OSError):
            return None
        # Only here do they count: OpenCV's own are 30 s, and a capture once opened does not take them.
        timeouts = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
            round(self.open_timeout_s * 1000),
            cv2.CAP_PROP_READ_TIMEOUT_MSEC,
            round(self.read_timeout_s * 1000),
        ]
        capture = cv2.VideoCapture(self.url, cv2.CAP_FFMPEG, timeouts)
        if not capture.isOpened():
            return None
        codec = int(capture.get(cv2.CAP_PROP_FOURCC))
        return JpegCapture(capture) if codec in _MJPEG_CODECS else DecodingCapture(capture)

    def explain(self, waited_s: float) -> str:
        try:
            address = urlsplit(self.url)
            _connect(address)
        except ValueError:
            return "not a valid address; check camera.source"
        except socket.gaierror:
            return "unknown host; check camera.source and the network"
        except TimeoutError:
            return "the host does not answer; check camera.source and the network"
        except OSError as error:
            return f"{(error.strerror or str(error)).lower()}; is the camera on, and camera.source right?"
        if waited_s >= self.open_timeout_s:
            return "takes the connection but sends no video; restart the camera, or check camera.source"
        return "no video to be had; check path, user and password in camera.source"


def _resolve(address: SplitResult) -> tuple[str, int]:
    """Host and port, once the host's name is known to have an address."""
    host, port = address.hostname or "", address.port or STREAM_SCHEMES[address.scheme]
    socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return host, port


def _connect(address: SplitResult) -> None:
    """FFmpeg keeps its reason to itself: see whether anybody listens at all."""
    socket.create_connection(_resolve(address), timeout=_PROBE_TIMEOUT_S).close()
