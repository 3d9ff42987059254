"""Finite sources of pictures with a time of their own: video files and folders of images."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from kiosk.biometrics import Image
from kiosk.encoded import MAX_FILE_BYTES, decode, read_header
from kiosk.errors import CameraError
from kiosk.opencv import cv2

_IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
# Beyond it a file's frame rate is a wrong header.
_MAX_FPS = 1000.0


class Media(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def interval_s(self) -> float:
        """Nominal time between two pictures."""

    def open(self) -> None:
        """Open it, or go back to its beginning.

        Raises:
            CameraError: it cannot be read or holds no pictures.
        """

    def grab(self) -> float | None:
        """Go on to the next picture. Its time in the media, seconds; None after the last."""

    def retrieve(self) -> Image | None:
        """Decode the picture gone to; None when it is damaged."""

    def close(self) -> None: ...


class VideoMedia:
    """A video file. ``fps`` counts where the file states no frame rate."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._capture: cv2.VideoCapture | None = None
        self._last_s: float | None = None
        self.interval_s = 1 / fps

    @property
    def name(self) -> str:
        return str(self._path)

    def open(self) -> None:
        self.close()
        # Absolute: in a name like a:b.avi FFmpeg would take a for a protocol.
        capture = cv2.VideoCapture(str(self._path.absolute()), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise CameraError(f"{self._path}: not a video that can be read (AVI, MP4, MPEG-TS); use another file")
        stated_fps = capture.get(cv2.CAP_PROP_FPS)
        if 0 < stated_fps <= _MAX_FPS:
            self.interval_s = 1 / stated_fps
        self._capture = capture
        self._last_s = None

    def grab(self) -> float | None:
        if self._capture is None or not self._capture.grab():
            return None
        media_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if self._last_s is None:
            media_s = max(media_s, 0.0)
        elif media_s <= self._last_s:
            # Some containers carry no times.
            media_s = self._last_s + self.interval_s
        self._last_s = media_s
        return media_s

    def retrieve(self) -> Image | None:
        if self._capture is None:
            return None
        decoded, image = self._capture.retrieve()
        return image if decoded else None  # type: ignore[return-value]

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None


class FolderMedia:
    """A folder's images in the order of their names, each one picture at ``fps``."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._files: list[Path] = []
        self._next = 0
        self.interval_s = 1 / fps

    @property
    def name(self) -> str:
        return str(self._path)

    def open(self) -> None:
        try:
            self._files = sorted(file for file in self._path.iterdir() if file.suffix.lower() in _IMAGE_SUFFIXES)
        except OSError as error:
            raise CameraError(f"{self._path}: cannot be read: {error.strerror}") from error
        self._next = 0
        if not self._files:
            raise CameraError(f"{self._path}: holds no images ({', '.join(sorted(_IMAGE_SUFFIXES))})")

    def grab(self) -> float | None:
        if self._next >= len(self._files):
            return None
        self._next += 1
        return (self._next - 1) * self.interval_s

    def retrieve(self) -> Image | None:
        try:
            with self._files[self._next - 1].open("rb") as file:
                data = file.read(MAX_FILE_BYTES)
        except OSError:
            return None
        header = read_header(data)
        return decode(data, header) if header is not None and header.fits else None

    def close(self) -> None:
        self._files = []
