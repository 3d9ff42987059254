"""What a live picture can come from: how it is opened, and why it could not be."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from kiosk.opencv import cv2

STREAM_SCHEMES = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
"""Address schemes that are supported, with the port each means when none is given."""

_DEVICE_FILE = re.compile(r"/dev/video([0-9]{1,3})")
_CREDENTIALS = re.compile(r"://.*@")
_PROBE_TIMEOUT_S = 1.0
# Beyond this, uncompressed pictures do not fit through USB 2 at a useful rate.
_MAX_RAW_PIXELS = 640 * 480


class LiveSource(Protocol):
    @property
    def name(self) -> str:
        """For messages; holds no password."""

    def open(self) -> cv2.VideoCapture | None:
        """None when it cannot be opened."""

    def explain(self) -> str:
        """Why ``open`` failed, and what to do, as well as can be told."""


@dataclass(frozen=True, slots=True)
class DeviceSource:
    """A V4L2 device file, or a link to one (``/dev/v4l/by-id/…`` survives replugging)."""

    path: Path
    size: tuple[int, int]
    fps: int

    @property
    def name(self) -> str:
        return str(self.path)

    def open(self) -> cv2.VideoCapture | None:
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
        return capture

    def explain(self) -> str:
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
        return _CREDENTIALS.sub("://***@", self.url).partition("?")[0]

    def open(self) -> cv2.VideoCapture | None:
        # Only here do they count: OpenCV's own are 30 s, and a capture once opened does not take them.
        timeouts = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
            round(self.open_timeout_s * 1000),
            cv2.CAP_PROP_READ_TIMEOUT_MSEC,
            round(self.read_timeout_s * 1000),
        ]
        capture = cv2.VideoCapture(self.url, cv2.CAP_FFMPEG, timeouts)
        return capture if capture.isOpened() else None

    def explain(self) -> str:
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
        return "no video to be had; check path, user and password in camera.source"


def _connect(address: SplitResult) -> None:
    """FFmpeg keeps its reason to itself: see whether anybody listens at all."""
    port = address.port or STREAM_SCHEMES[address.scheme]
    socket.create_connection((address.hostname or "", port), timeout=_PROBE_TIMEOUT_S).close()
