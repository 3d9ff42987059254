"""The camera for a command: the running kiosk's where one runs, for only one program can have it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from kiosk.biometrics import Image
from kiosk.camera import LiveCamera
from kiosk.commands.stores import find_daemon
from kiosk.config import Config
from kiosk.daemon import open_configured_camera
from kiosk.errors import CameraError, UnavailableError
from kiosk.ports import Camera, EndOfStream
from kiosk.preview import PreviewCamera, socket_path

_FIRST_PICTURE_S = 5.0
_READ_S = 0.5
# Exposure and white balance begin anew whenever a camera is opened.
_SETTLE_S = 1.0


@contextlib.contextmanager
def open_frames(config: Config) -> Iterator[Camera]:
    """The running daemon's camera; our own where none runs.

    Raises:
        UnavailableError: it cannot be had.
    """
    daemon = find_daemon(config)
    camera: Camera
    if daemon is None:
        camera = open_configured_camera(config)
    else:
        try:
            camera = PreviewCamera(socket_path(Path(config.store.path)))
        except UnavailableError as error:
            raise UnavailableError(
                f"a kiosk daemon (process {daemon.process}) has the camera and shows no pictures ({error}); restart it"
            ) from error
    with closing(camera):
        yield camera


def take_picture(camera: Camera) -> Image:
    """The newest picture; of a camera that has just been opened, once it has settled.

    Raises:
        CameraError: none comes.
    """
    image: Image | None = None
    until_s, settled_s = time.monotonic() + _FIRST_PICTURE_S, math.inf
    while time.monotonic() < min(until_s, settled_s):
        try:
            frame = camera.read(_READ_S)
        except EndOfStream:
            break
        if frame is not None and image is None:
            settled_s = time.monotonic() + (_SETTLE_S if isinstance(camera, LiveCamera) else 0.0)
        image = image if frame is None else frame.image
    if image is None:
        raise CameraError(camera.fault or f"no picture came in {_FIRST_PICTURE_S:g} s")
    return image
