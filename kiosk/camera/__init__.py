"""Frames from cameras, streams, video files and folders behind one interface; the newest frame wins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from kiosk.attention import Attention
from kiosk.camera._devices import FoundCamera, list_cameras
from kiosk.camera._live import LiveCamera
from kiosk.camera._media import FolderMedia, Media, VideoMedia
from kiosk.camera._picamera2 import LOADING_S, Picamera2Settings, Picamera2Source
from kiosk.camera._replay import ReplayCamera
from kiosk.camera._sources import STREAM_SCHEMES, DeviceSource, LiveSource, StreamSource, shown_address
from kiosk.errors import CameraError

__all__ = [
    "FoundCamera",
    "LiveCamera",
    "OpenedCamera",
    "Picamera2Settings",
    "ReplayCamera",
    "list_cameras",
    "open_camera",
    "shown_source",
]

OpenedCamera = LiveCamera | ReplayCamera

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PLACES = frozenset("0123456789")


def open_camera(
    *,
    source: int | str,
    width: int = 1280,
    height: int = 720,
    fps: int = 15,
    rotate: Literal[0, 90, 180, 270] = 0,
    loop: bool = False,
    pace: Literal["realtime", "fast"] = "realtime",
    open_timeout_s: float = 5.0,
    read_timeout_s: float = 3.0,
    frozen_after_s: float = 4.0,
    picamera2: Picamera2Settings = Picamera2Settings(),  # noqa: B008 - frozen
    attention: Attention | None = None,
) -> OpenedCamera:
    """Open a source and start it.

    ``source``: a V4L2 index or device file, ``picamera2`` (``picamera2:1`` for a second camera), an ``rtsp://`` or
    ``http://`` (MJPEG) address, a video file, or a folder of images. ``width``, ``height`` (pixels) and ``fps`` are
    asked of V4L2 devices and picamera2; a folder is played at ``fps``. ``rotate``: degrees clockwise. ``loop`` and
    ``pace`` are for files and folders. ``frozen_after_s``: a live picture that stays the same for longer is a fault; 0
    never. ``picamera2``: for that source only. ``attention``: which pictures of a live source are worth being decoded;
    without it all of them.

    Raises:
        CameraError: it cannot be opened; told in little more than ``open_timeout_s``, for picamera2 in 5 s more.
    """
    live: LiveSource | None
    if (place := _picamera2_place(source)) is not None:
        open_timeout_s += LOADING_S
        live = Picamera2Source(
            place,
            (width, height),
            fps,
            upside_down=rotate == 180,
            settings=picamera2,
            open_timeout_s=open_timeout_s,
            read_timeout_s=read_timeout_s,
        )
        rotate = 0 if rotate == 180 else rotate
    else:
        live = _live_source(source, (width, height), fps, (open_timeout_s, read_timeout_s))
    camera: OpenedCamera
    if live is not None:
        camera = LiveCamera(
            live,
            rotate=rotate,
            open_timeout_s=open_timeout_s,
            read_timeout_s=read_timeout_s,
            frozen_after_s=frozen_after_s,
            attention=attention,
        )
    else:
        camera = ReplayCamera(_media(Path(source), fps), rotate=rotate, loop=loop, pace=pace)  # type: ignore[arg-type]
    camera.start()
    return camera


def shown_source(source: int | str) -> str:
    """Where pictures come from, in messages: of an address no more than scheme, host and port."""
    text = str(source)
    return shown_address(text) if _SCHEME.match(text) else text


def _picamera2_place(source: int | str) -> int | None:
    """Which of libcamera's cameras is meant; None: another kind of source."""
    kind, colon, place = str(source).partition(":")
    if kind != "picamera2":
        return None
    if colon and place not in _PLACES:
        raise CameraError(f"camera.source: {shown_source(source)}: use picamera2, or picamera2:1 for the second camera")
    return int(place or 0)


def _live_source(
    source: int | str, size: tuple[int, int], fps: int, timeouts_s: tuple[float, float]
) -> LiveSource | None:
    """The camera or stream that is meant; None for a file or folder."""
    text = str(source)
    if text.isascii() and text.isdigit():
        return DeviceSource(Path(f"/dev/video{int(text)}"), size, fps)
    if text.startswith("/dev/"):
        return DeviceSource(Path(text), size, fps)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return None
    if scheme[1].lower() not in STREAM_SCHEMES:
        raise CameraError(f"camera.source: {scheme[1]}:// is not supported; use rtsp:// or http:// (MJPEG)")
    return StreamSource(text, *timeouts_s)


def _media(path: Path, fps: int) -> Media:
    try:
        if path.is_dir():
            return FolderMedia(path, fps)
        if path.is_file():
            return VideoMedia(path, fps)
    except OSError as error:
        raise CameraError(f"{path}: cannot be read: {error.strerror}") from error
    raise CameraError(
        f"{path}: no such file or folder; set camera.source to a camera index, /dev/videoN, picamera2, rtsp://…, "
        "http://…, a video file or a folder of images"
    )
