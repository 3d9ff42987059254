"""Encoded pictures are judged by their headers, before a decoder is."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from kiosk.encoded import MAX_DECODED_BYTES, Format, Header, decode, decode_frame, read_header
from kiosk.opencv import cv2

PICTURE = np.random.default_rng(1).integers(0, 256, (30, 40, 3), np.uint8)
ALPHA = cv2.cvtColor(PICTURE, cv2.COLOR_BGR2BGRA)


def encoded(kind: str, picture: Any = PICTURE, options: tuple[int, ...] = ()) -> bytes:
    done, data = cv2.imencode(kind, picture, list(options))
    assert done
    return data.tobytes()


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (encoded(".jpg"), Header(Format.JPEG, 40, 30)),
        (encoded(".jpg", PICTURE[:, :, 0]), Header(Format.JPEG, 40, 30)),
        (encoded(".png"), Header(Format.PNG, 40, 30)),
        (encoded(".png", PICTURE[:, :, 0].astype(np.uint16)), Header(Format.PNG, 40, 30)),
        (encoded(".png", ALPHA), Header(Format.PNG, 40, 30, 4, transparent=True)),
        (encoded(".png", ALPHA.astype(np.uint16)), Header(Format.PNG, 40, 30, 8, transparent=True)),
        (encoded(".webp", PICTURE, (cv2.IMWRITE_WEBP_QUALITY, 80)), Header(Format.WEBP, 40, 30)),
        (encoded(".webp", PICTURE, (cv2.IMWRITE_WEBP_QUALITY, 101)), Header(Format.WEBP, 40, 30, 4)),
        (encoded(".webp", ALPHA, (cv2.IMWRITE_WEBP_QUALITY, 80)), Header(Format.WEBP, 40, 30, 4, transparent=True)),
        (encoded(".bmp"), Header(Format.BMP, 40, 30)),
        (encoded(".tif"), Header(Format.TIFF, 40, 30)),
        # Uncompressed: by itself an older OpenCV chooses LogLuv, of 16 bits a sample.
        (
            encoded(".tif", PICTURE.astype(np.float32), (cv2.IMWRITE_TIFF_COMPRESSION, 1)),
            Header(Format.TIFF, 40, 30, 12),
        ),
    ],
)
def test_headers_say_what_is_in_the_file(data: bytes, header: Header) -> None:
    if header.transparent and header.format is Format.WEBP:
        # Where nothing shines through the encoder leaves transparency out.
        assert read_header(data) is not None
        return
    assert read_header(data) == header
    assert header.fits


@pytest.mark.parametrize("sampling", [0x111111, 0x211111, 0x221111])
def test_the_coefficients_of_a_progressive_jpeg_count(sampling: int) -> None:
    options = (cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling)
    header = read_header(encoded(".jpg", PICTURE, options))
    assert header is not None
    shares = {0x111111: 3, 0x211111: 2, 0x221111: 1.5}
    assert header.coefficient_bytes == 2 * 1200 * shares[sampling]
    assert header.max_pixels == int(36_000_000 / shares[sampling])


@pytest.mark.parametrize("kind", [".gif", ".ppm", ".pam", ".ras", ".hdr"])
def test_other_formats_reach_no_decoder(kind: str) -> None:
    picture = PICTURE.astype(np.float32) if kind == ".hdr" else PICTURE
    try:
        data = encoded(kind, picture)
    except cv2.error:
        pytest.skip(f"this OpenCV writes no {kind}")
    assert read_header(data) is None


def test_a_large_jpeg_is_reduced_while_it_is_decoded() -> None:
    data = encoded(".jpg", np.full((6000, 8000, 3), 90, np.uint8), (cv2.IMWRITE_JPEG_QUALITY, 30))
    header = read_header(data)
    assert header is not None
    assert header.fits
    image = decode(data, header)
    assert image is not None
    assert image.shape == (3000, 4000, 3)
    assert image.nbytes <= MAX_DECODED_BYTES


@pytest.mark.parametrize(
    ("width", "height", "format_"), [(5000, 5000, Format.PNG), (9000, 8000, Format.JPEG), (0, 9, Format.PNG)]
)
def test_what_does_not_fit(width: int, height: int, format_: Format) -> None:
    assert not Header(format_, width, height).fits


def test_a_frame_is_a_jpeg_of_a_cameras_size() -> None:
    jpeg = encoded(".jpg")
    frame = decode_frame(jpeg)
    assert frame is not None
    assert frame.shape == PICTURE.shape
    assert decode_frame(encoded(".png")) is None
    assert decode_frame(b"") is None
    assert decode_frame(jpeg[:200]) is None
    sof = jpeg.index(b"\xff\xc0")
    bomb = jpeg[: sof + 5] + struct.pack(">HH", 6000, 8000) + jpeg[sof + 9 :]
    assert decode_frame(bomb) is None


def test_garbage_between_segments_hides_no_size() -> None:
    jpeg = encoded(".jpg")
    sof = jpeg.index(b"\xff\xc0")
    header = read_header(jpeg[:sof] + b"\0\1garbage" + jpeg[sof:])
    assert header is not None
    assert (header.width, header.height) == (40, 30)
