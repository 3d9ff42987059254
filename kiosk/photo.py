"""People's photos: read strictly, so that a damaged file is refused with one line instead of enrolled half grey."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiosk.biometrics import Image
from kiosk.errors import InputError
from kiosk.opencv import MAX_IMAGE_PIXELS, cv2

_MAX_FILE_BYTES = 100 * 1024 * 1024
_USE_ANOTHER = "use a JPEG or PNG photo"
_WHITE = 255
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_ALPHA_TYPES = frozenset({4, 6})
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_JPEG_EOI, _JPEG_SOS = 0xD9, 0xDA
# Start of frame, of every coding process; C4, C8 and CC between them mean something else.
_JPEG_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# The next marker in compressed data: there FF 00 is a stuffed byte, FF D0…D7 are restarts, and FF FF is fill.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo and the SHA-256 of the very bytes it was decoded from, in hex."""

    path: Path
    image: Image
    sha256: str


def is_photo(path: Path) -> bool:
    """Whether a file's name says that it is a photo."""
    return path.suffix.lower() in _SUFFIXES and path.is_file()


def photos_below(folder: Path) -> list[Path]:
    """All photos below a folder, sorted.

    Raises:
        InputError: no such folder, or no photo in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    paths = sorted(path for path in folder.rglob("*") if is_photo(path))
    if not paths:
        raise InputError(f"{folder}: no photos in it ({' '.join(sorted(_SUFFIXES))})")
    return paths


def read_photo(path: Path) -> Image:
    """Read a photo as BGR, upright (EXIF), 8 bits, transparency laid over white.

    Raises:
        InputError: it is missing, unreadable, damaged, too large, or no image.
    """
    return load_photo(path).image


def load_photo(path: Path) -> Photo:
    """Like :func:`read_photo`, with the hash of the file."""
    data = _read(path)
    return Photo(path, _decode(path, data), hashlib.sha256(data).hexdigest())


def hash_photo(path: Path) -> str:
    """The SHA-256 of a photo's file, in hex, without decoding it.

    Raises:
        InputError: it is missing, unreadable, empty or too large.
    """
    return hashlib.sha256(_read(path)).hexdigest()


def _read(path: Path) -> bytes:
    try:
        # Not blocking: a named pipe nobody writes to must not hang the command.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check_file(path, os.fstat(descriptor))
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(_MAX_FILE_BYTES)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the name") from None
    except PermissionError:
        raise InputError(f"{path}: may not be read by this user; change its permissions") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not a file name'}") from None
    if not data:
        raise InputError(f"{path}: the file is empty; copy it again or {_USE_ANOTHER}")
    return data


def _check_file(path: Path, about: os.stat_result) -> None:
    if stat.S_ISDIR(about.st_mode):
        raise InputError(f"{path}: is a folder; name the photo in it")
    if not stat.S_ISREG(about.st_mode):
        raise InputError(f"{path}: is not a regular file; {_USE_ANOTHER}")
    if about.st_size > _MAX_FILE_BYTES:
        raise InputError(f"{path}: larger than {_MAX_FILE_BYTES // 1024**2} MiB; {_USE_ANOTHER}")


def _decode(path: Path, data: bytes) -> Image:
    transparent = False
    if data.startswith(_JPEG_SIGNATURE):
        _check_jpeg(path, data)
    elif data.startswith(_PNG_SIGNATURE):
        transparent = _check_png(path, data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        transparent = _webp_has_alpha(data)
    image = _opencv_decode(data, cv2.IMREAD_UNCHANGED if transparent else cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(
            f"{path}: not a photo that can be read, damaged, or above {MAX_IMAGE_PIXELS // 10**6} megapixels; "
            f"{_USE_ANOTHER}"
        )
    return _flatten(image)


def _opencv_decode(data: bytes, flags: int) -> NDArray[Any] | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def _flatten(image: NDArray[Any]) -> Image:
    """Eight bits a channel and no transparency.

    Below transparent pixels a file may hold anything; white is what a viewer shows and what ID photos stand on.
    """
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)  # type: ignore[return-value]
    colour = np.ascontiguousarray(image[..., :3], dtype=np.uint8)
    if image.shape[2] == 3:
        return colour
    alpha = image[..., 3:].astype(np.float32) / _WHITE
    return (colour * alpha + _WHITE * (1 - alpha) + 0.5).astype(np.uint8)


def _check_pixels(path: Path, width: int, height: int) -> None:
    if width * height > MAX_IMAGE_PIXELS:
        raise InputError(
            f"{path}: {width} × {height} pixels are too many (at most {MAX_IMAGE_PIXELS // 10**6} megapixels); "
            "scale the photo down"
        )


def _damaged(path: Path) -> InputError:
    return InputError(f"{path}: the file is damaged or cut off; copy it again or use another photo")


def _check_jpeg(path: Path, data: bytes) -> None:
    """OpenCV before 4.12 decodes a cut-off JPEG to a half grey picture: look for the end marker ourselves.

    Bytes after the end marker are fine, cameras put second pictures there.
    """
    for marker, start in _jpeg_segments(path, data):
        if marker in _JPEG_SOF and len(data) >= start + 7:
            height, width = struct.unpack_from(">HH", data, start + 3)
            _check_pixels(path, width, height)


def _jpeg_segments(path: Path, data: bytes) -> Iterator[tuple[int, int]]:
    """Each marker up to the end of the picture, with the position after it."""
    position = 2
    while True:
        found = _JPEG_MARKER.search(data, position)
        if found is None:
            raise _damaged(path)
        marker, position = data[found.end() - 1], found.end()
        yield marker, position
        if marker == _JPEG_EOI:
            return
        if position + 2 > len(data):
            raise _damaged(path)
        # Compressed data follows the scan's header; it is searched for the next marker, headers are skipped.
        position += int.from_bytes(data[position : position + 2], "big")


def _check_png(path: Path, data: bytes) -> bool:
    """Refuse a PNG with missing or changed bytes (libpng would write to stderr). True: it has transparency."""
    transparent = False
    for kind, body in _png_chunks(path, data):
        if kind == b"IHDR" and len(body) == 13:
            width, height, _, colour_type = struct.unpack_from(">IIBB", body)
            _check_pixels(path, width, height)
            transparent = colour_type in _PNG_ALPHA_TYPES
        transparent = transparent or kind == b"tRNS"
    return transparent


def _png_chunks(path: Path, data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    view = memoryview(data)
    position = len(_PNG_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        if position + 12 > len(data):
            raise _damaged(path)
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data) or zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise _damaged(path)
        yield kind, view[position + 8 : end]
        position = end + 4


def _webp_has_alpha(data: bytes) -> bool:
    """The flag of an extended or of a lossless WebP; the simple lossy one has no transparency."""
    match data[12:16]:
        case b"VP8X":
            return len(data) > 20 and bool(data[20] & 0x10)
        case b"VP8L":
            return len(data) > 24 and bool(data[24] & 0x10)
    return False
