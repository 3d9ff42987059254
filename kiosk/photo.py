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
from kiosk.encoded import MAX_FILE_BYTES, Format, Header, decode, read_header
from kiosk.errors import InputError, InputPermissionError
from kiosk.opencv import cv2

_USE_ANOTHER = "use a JPEG or PNG photo"
_WHITE = 255
_STRIP_ROWS = 64
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_EOI = 0xD9
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
    return parse_photo(path, _read(path))


def parse_photo(path: Path, data: bytes) -> Photo:
    """The photo in a file's bytes; ``path`` is what it is called in messages.

    Raises:
        InputError: as :func:`read_photo`.
    """
    if not data:
        raise InputError(f"{path}: the file is empty; copy it again or {_USE_ANOTHER}")
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
                data = file.read(MAX_FILE_BYTES)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the name") from None
    except PermissionError:
        raise InputPermissionError(f"{path}: may not be read by this user; change its permissions") from None
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
    if about.st_size > MAX_FILE_BYTES:
        raise InputError(f"{path}: larger than {MAX_FILE_BYTES // 1024**2} MiB; {_USE_ANOTHER}")


def _decode(path: Path, data: bytes) -> Image:
    header = read_header(data)
    if header is None:
        raise InputError(f"{path}: not a photo that can be read, or damaged; {_USE_ANOTHER}")
    if not header.fits:
        raise _too_large(path, header)
    if header.format is Format.JPEG:
        _check_jpeg(path, data)
    elif header.format is Format.PNG:
        _check_png(path, data)
    image = decode(data, header, with_transparency=True)
    if image is None:
        raise InputError(f"{path}: not a photo that can be read, or damaged; {_USE_ANOTHER}")
    return _flatten(image)


def _too_large(path: Path, header: Header) -> InputError:
    size = f"{path}: {header.width} × {header.height} pixels"
    if not header.pixels:
        return InputError(f"{size}: nothing is in it; use another photo")
    most = f"at most {header.max_pixels // 10**6} megapixels in a {header.format} like this"
    return InputError(f"{size} are too many ({most}); scale the photo down")


def _flatten(image: NDArray[Any]) -> Image:
    """Eight bits a channel and no transparency.

    Below transparent pixels a file may hold anything; white is what a viewer shows and what ID photos stand on.
    """
    if image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    flat = np.empty((*image.shape[:2], 3), np.uint8)
    # In strips: the arithmetic takes several times what the strip itself does.
    for top in range(0, len(image), _STRIP_ROWS):
        flat[top : top + _STRIP_ROWS] = _flatten_strip(image[top : top + _STRIP_ROWS])
    return flat


def _flatten_strip(strip: NDArray[Any]) -> Image:
    if strip.dtype == np.uint16:
        strip = (strip >> 8).astype(np.uint8)
    if strip.ndim == 2:
        return cv2.cvtColor(strip, cv2.COLOR_GRAY2BGR)  # type: ignore[return-value]
    colour = np.ascontiguousarray(strip[..., :3], dtype=np.uint8)
    if strip.shape[2] == 3:
        return colour
    alpha = strip[..., 3:].astype(np.float32) / _WHITE
    return (colour * alpha + _WHITE * (1 - alpha) + 0.5).astype(np.uint8)


def _damaged(path: Path) -> InputError:
    return InputError(f"{path}: the file is damaged or cut off; copy it again or use another photo")


def _check_jpeg(path: Path, data: bytes) -> None:
    """OpenCV before 4.12 decodes a cut-off JPEG to a half grey picture: look for the end marker ourselves.

    Bytes after the end marker are fine, cameras put second pictures there.
    """
    for _ in _jpeg_segments(path, data):
        pass


def _jpeg_segments(path: Path, data: bytes) -> Iterator[int]:
    """Each marker up to the end of the picture."""
    position = 2
    while True:
        found = _JPEG_MARKER.search(data, position)
        if found is None:
            raise _damaged(path)
        marker, position = data[found.end() - 1], found.end()
        yield marker
        if marker == _JPEG_EOI:
            return
        if position + 2 > len(data):
            raise _damaged(path)
        # Compressed data follows the scan's header; it is searched for the next marker, headers are skipped.
        position += int.from_bytes(data[position : position + 2], "big")


def _check_png(path: Path, data: bytes) -> None:
    """Refuse a PNG with missing or changed bytes: libpng would write to stderr."""
    for _ in _png_chunks(path, data):
        pass


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
