"""Frames from cameras, streams, video files and folders behind one interface; the newest frame wins."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from kiosk.camera._devices import DeviceSource
from kiosk.camera._live import LiveCamera
from kiosk.camera._media import FolderMedia, Media, VideoMedia
from kiosk.camera._replay import ReplayCamera
from kiosk.camera._streams import STREAM_SCHEMES, StreamSource
from kiosk.errors import CameraError

__all__ = ["LiveCamera", "OpenedCamera", "ReplayCamera", "open_camera"]

OpenedCamera = LiveCamera | ReplayCamera

_DEVICE = re.compile(r"/dev/video(0|[1-9][0-9]{0,2})")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


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
) -> OpenedCamera:
    """Open a source and start it.

    ``source``: a V4L2 index or ``/dev/videoN``, an ``rtsp://`` or ``http://`` (MJPEG) address, a video file, or a folder
    of images. ``width``, ``height`` in pixels and ``fps`` are asked of V4L2 devices; a folder is played at ``fps``.
    ``rotate``: degrees clockwise. ``loop`` and ``pace`` are for files and folders.

    Raises:
        CameraError: it cannot be opened, in little more than ``open_timeout_s``.
    """
    live = _live_source(source, width, height, fps, open_timeout_s, read_timeout_s)
    if live is not None:
        camera = LiveCamera(live, rotate=rotate, open_timeout_s=open_timeout_s, read_timeout_s=read_timeout_s)
        camera.start()
        return camera
    replay = ReplayCamera(_media(Path(source), fps), rotate=rotate, loop=loop, pace=pace)  # type: ignore[arg-type]
    replay.start()
    return replay
