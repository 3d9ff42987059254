"""Encoded pictures, looked at before any decoder is: which format, how large, how much memory they would take.

OpenCV has two dozen decoders and picks one by the content. Only these five are ever reached, and only with pictures
whose headers say that they fit: a file of some kilobytes may hold a picture of gigabytes.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiosk.biometrics import Image
from kiosk.opencv import cv2

MAX_FILE_BYTES = 50 * 1024 * 1024
"""Of an encoded picture."""
MAX_DECODED_BYTES = 60_000_000
"""Of one picture: 20 megapixels in colour, 15 with transparency."""
MAX_JPEG_PIXELS = 64_000_000
"""Where a JPEG's picture takes more than those bytes it is decoded at a half, a quarter or an eighth of its size."""
MAX_FRAME_PIXELS = 4096 * 2304
"""Of a live camera's picture."""

# Progressive JPEGs are kept as coefficients until the last scan has come: of a picture of 12 megapixels, 72 MB.
_MAX_COEFFICIENT_BYTES = 72_000_000
_MAX_SCALE = 8


class Format(StrEnum):
    """What a picture is encoded as."""

    JPEG = "JPEG"
    PNG = "PNG"
    WEBP = "WebP"
    BMP = "BMP"
    TIFF = "TIFF"


@dataclass(frozen=True, slots=True)
class Header:
    """What the beginning of an encoded picture says. Sizes in pixels; nothing else of it has been verified."""

    format: Format
    width: int
    height: int
    pixel_bytes: int = 3
    """Of a decoded pixel, as OpenCV keeps it."""
    transparent: bool = False
    coefficient_bytes: int = 0
    """Of a progressive JPEG, while it is decoded."""

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def max_pixels(self) -> int:
        """How many a picture like this may have."""
        if self.format is not Format.JPEG:
            return MAX_DECODED_BYTES // self.pixel_bytes
        if self.coefficient_bytes:
            return min(MAX_JPEG_PIXELS, _MAX_COEFFICIENT_BYTES * self.pixels // self.coefficient_bytes)
        return MAX_JPEG_PIXELS

    @property
    def fits(self) -> bool:
        return 0 < self.pixels <= self.max_pixels

    @property
    def scale(self) -> int:
        """By how much it is to be reduced while it is decoded: 1, 2, 4 or 8."""
        scale = 1
        while self.pixels // scale**2 * self.pixel_bytes > MAX_DECODED_BYTES and scale < _MAX_SCALE:
            scale *= 2
        return scale


def read_header(data: bytes) -> Header | None:
    """None: none of the five formats, or its header is damaged."""
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
        if data.startswith(b"BM"):
            return _bmp(data)
        if data.startswith((b"II*\0", b"MM\0*")):
            return _tiff(data, "<" if data.startswith(b"II") else ">")
    except (struct.error, IndexError):
        pass
    return None


# A JPEG is reduced while it is decoded, at no cost of memory. All others fit as they are.
_COLOUR = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def decode(data: bytes, header: Header, *, with_transparency: bool = False) -> NDArray[Any] | None:
    """A picture that fits, upright (EXIF): (height, width, 3) BGR, 8 bits; None when it is damaged.

    ``with_transparency``: a transparent one as it is, (height, width), (..., 3) or (..., 4), of 8 or 16 bits.
    """
    flags = cv2.IMREAD_UNCHANGED if with_transparency and header.transparent else _COLOUR[header.scale]
    return _decode(data, flags)


def decode_frame(data: bytes) -> Image | None:
    """A live camera's JPEG, (height, width, 3) BGR, as it lies; None when it is damaged, none, or too large."""
    return _decode_live(data, cv2.IMREAD_COLOR)


def decode_glance(data: bytes) -> NDArray[np.uint8] | None:
    """Its luminance at an eighth of the size, (height, width), for a third of the price; None as above."""
    return _decode_live(data, cv2.IMREAD_REDUCED_GRAYSCALE_8)


def _decode_live(data: bytes, flags: int) -> NDArray[Any] | None:
    header = read_header(data)
    if header is None or header.format is not Format.JPEG or not 0 < header.pixels <= MAX_FRAME_PIXELS:
        return None
    # camera.rotate alone turns pictures.
    return _decode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION)


def _decode(data: bytes, flags: int) -> NDArray[Any] | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


# Start of frame, of every coding process; C4, C8 and CC between them mean something else.
_JPEG_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BASELINE = frozenset({0xC0, 0xC1})
_JPEG_LONE = frozenset({0x01, *range(0xD0, 0xD8)})
# Before the compressed data as libjpeg finds it: garbage before a marker is passed over.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff]")


def _jpeg(data: bytes) -> Header | None:
    """From the first frame header; a decoder takes no second one."""
    at = 2
    while (found := _JPEG_MARKER.search(data, at)) is not None:
        marker, at = data[found.end() - 1], found.end()
        if marker in _JPEG_SOF:
            height, width, components = struct.unpack_from(">HHB", data, at + 3)
            factors = [divmod(data[at + 9 + 3 * number], 16) for number in range(components)]
            progressive = marker not in _JPEG_BASELINE
            return Header(
                Format.JPEG,
                width,
                height,
                coefficient_bytes=_coefficients(width * height, factors) if progressive else 0,
            )
        if marker not in _JPEG_LONE:
            at += int.from_bytes(data[at : at + 2], "big")
    return None


def _coefficients(pixels: int, factors: list[tuple[int, int]]) -> int:
    """Bytes, two a coefficient; ``factors``: each component's sampling, across and down."""
    most = max((across for across, _ in factors), default=1) * max((down for _, down in factors), default=1)
    return 2 * pixels * sum(across * down for across, down in factors) // max(most, 1)


_PNG_COLOURS = frozenset({0, 2, 3, 4, 6})
_PNG_TRANSPARENT = frozenset({4, 6})


def _png(data: bytes) -> Header | None:
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    if data[12:16] != b"IHDR" or colour not in _PNG_COLOURS:
        return None
    # A palette or a colour key may make it transparent as well.
    keyed = b"tRNS" in data
    transparent = colour in _PNG_TRANSPARENT or keyed
    pixel_bytes = (8 if depth > 8 else 4) if transparent else 3
    return Header(Format.PNG, width, height, pixel_bytes, transparent)


def _webp(data: bytes) -> Header | None:
    """Extended, lossless, and simple lossy WebP."""
    match data[12:16]:
        case b"VP8X":
            width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
            return Header(Format.WEBP, width, height, 4, bool(data[20] & 0x10))
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            return Header(Format.WEBP, (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 4, bool(bits >> 28 & 1))
        case b"VP8 ":
            width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
            return Header(Format.WEBP, width, height)
    return None


_BMP_OS2_HEADER = 12


def _bmp(data: bytes) -> Header:
    (length,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if length == _BMP_OS2_HEADER else "<ii", data, 18)
    return Header(Format.BMP, abs(width), abs(height))


_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _TIFF_SAMPLES = 256, 257, 258, 277
_TIFF_SHORT = 3


def _tiff(data: bytes, order: str) -> Header | None:
    """From the first directory."""
    (directory,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, directory)
    found: dict[int, int] = {}
    for at in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(f"{order}HHI", data, at)
        place = at + 8
        if tag == _TIFF_BITS and number > 2:
            (place,) = struct.unpack_from(f"{order}I", data, place)
        (found[tag],) = struct.unpack_from(f"{order}{'H' if kind == _TIFF_SHORT else 'I'}", data, place)
    if not {_TIFF_WIDTH, _TIFF_HEIGHT} <= found.keys():
        return None
    channels = max(found.get(_TIFF_SAMPLES, 1), 3)
    return Header(
        Format.TIFF, found[_TIFF_WIDTH], found[_TIFF_HEIGHT], channels * max(found.get(_TIFF_BITS, 8) // 8, 1)
    )
