"""Photos as people have them, and as they should not be."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kiosk.biometrics import Image
from kiosk.errors import InputError
from kiosk.opencv import cv2
from kiosk.photo import load_photo, read_photo

_NOBODY = 65534
_PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def picture() -> Image:
    """A smooth picture, brighter to the right, so that every codec keeps it and every turn shows."""
    ramp = np.linspace(30, 220, 64, dtype=np.uint8)
    return np.repeat(np.repeat(ramp[None, :, None], 48, axis=0), 3, axis=2) // np.array([1, 2, 1], np.uint8)


def _encoded(suffix: str, image: NDArray[np.uint8] | NDArray[np.uint16], *parameters: int) -> bytes:
    done, data = cv2.imencode(suffix, image, parameters)
    assert done
    return data.tobytes()


def _written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(size: tuple[int, int], depth: int, colour_type: int, rows: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0)
    return _PNG + _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _dc_only_jpeg(levels: tuple[int, ...]) -> bytes:
    """An 8 × 8 JPEG of one colour with any number of components; four of them are CMYK, stored inverted (Adobe)."""
    bits = ""
    for level in levels:
        difference = level - 128
        size = abs(difference).bit_length()
        value = difference if difference > 0 else difference + (1 << size) - 1
        bits += f"{size:04b}" + (f"{value:0{size}b}" if size else "") + "0"
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    components = range(1, len(levels) + 1)
    return b"".join(
        [
            b"\xff\xd8",
            b"\xff\xee" + struct.pack(">H", 14) + b"Adobe" + struct.pack(">HHHB", 100, 0, 0, 0),
            b"\xff\xdb" + struct.pack(">HB", 67, 0) + b"\x08" * 64,
            b"\xff\xc0" + struct.pack(">HBHHB", 8 + 3 * len(levels), 8, 8, 8, len(levels)),
            *(bytes([component, 0x11, 0]) for component in components),
            # Twelve codes of four bits for the sizes 0 to 11, and one of one bit that ends a block.
            b"\xff\xc4" + struct.pack(">HB", 31, 0x00) + bytes([0, 0, 0, 12] + [0] * 12) + bytes(range(12)),
            b"\xff\xc4" + struct.pack(">HB", 20, 0x10) + bytes([1] + [0] * 15) + b"\x00",
            b"\xff\xda" + struct.pack(">HB", 6 + 2 * len(levels), len(levels)),
            *(bytes([component, 0x00]) for component in components),
            b"\x00\x3f\x00" + scan + b"\xff\xd9",
        ]
    )


def _with_orientation(jpeg: bytes, orientation: int) -> bytes:
    tiff = b"II*\x00" + struct.pack("<IH", 8, 1) + struct.pack("<HHIHHI", 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("a.jpg", ()),
        ("progressive.jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
        ("restarts.jpg", (cv2.IMWRITE_JPEG_RST_INTERVAL, 1)),
        ("a.png", ()),
        ("a.webp", ()),
        ("a.bmp", ()),
        ("a.tiff", ()),
    ],
)
def test_usual_formats(tmp_path: Path, picture: Image, name: str, parameters: tuple[int, ...]) -> None:
    data = _encoded(Path(name).suffix, picture, *parameters)
    photo = load_photo(_written(tmp_path, name, data))
    assert photo.image.dtype == np.uint8
    assert photo.image.flags.c_contiguous
    assert np.abs(photo.image.astype(int) - picture).max() < 12
    assert photo.sha256 == hashlib.sha256(data).hexdigest()


def test_grayscale_becomes_three_equal_channels(tmp_path: Path, picture: Image) -> None:
    grey = picture[..., 0]
    for name in ("grey.png", "grey.jpg"):
        image = read_photo(_written(tmp_path, name, _encoded(name[-4:], grey)))
        assert image.shape == (48, 64, 3)
        assert np.abs(image.astype(int) - grey[..., None]).max() < 8


def test_sixteen_bits_keep_their_brightness(tmp_path: Path, picture: Image) -> None:
    deep = picture.astype(np.uint16) * 257
    assert np.array_equal(read_photo(_written(tmp_path, "deep.png", _encoded(".png", deep))), picture)


@pytest.mark.parametrize(("name", "factor"), [("a.png", 1), ("deep.png", 257), ("lossless.webp", 1)])
def test_transparency_lies_over_white(tmp_path: Path, name: str, factor: int) -> None:
    image = np.zeros((3, 8, 4), np.uint16 if factor > 1 else np.uint8)
    image[..., 2] = 200 * factor
    image[1, :, 3] = 128 * factor
    image[2, :, 3] = 255 * factor
    parameters = (cv2.IMWRITE_WEBP_QUALITY, 101) if name.endswith("webp") else ()
    read = read_photo(_written(tmp_path, name, _encoded(Path(name).suffix, image, *parameters)))
    assert read.shape == (3, 8, 3)
    assert [row[0].tolist() for row in read] == [[255, 255, 255], [127, 127, 227], [0, 0, 200]]


def test_transparent_palette_and_grey(tmp_path: Path) -> None:
    palette = _chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60])) + _chunk(b"tRNS", b"\x00")
    indexed = read_photo(_written(tmp_path, "palette.png", _png((2, 1), 8, 3, b"\x00\x00\x01", palette)))
    assert indexed[0].tolist() == [[255, 255, 255], [60, 50, 40]]
    grey = read_photo(_written(tmp_path, "grey.png", _png((2, 1), 8, 4, b"\x00\x50\xff\x50\x00")))
    assert grey[0].tolist() == [[80, 80, 80], [255, 255, 255]]


@pytest.mark.parametrize(
    ("cmyk", "bgr"),
    [((0, 255, 255, 0), (0, 0, 255)), ((255, 0, 0, 0), (255, 255, 0)), ((0, 0, 0, 128), (127, 127, 127))],
)
def test_cmyk_jpeg(tmp_path: Path, cmyk: tuple[int, ...], bgr: tuple[int, ...]) -> None:
    data = _dc_only_jpeg(tuple(255 - ink for ink in cmyk))
    image = read_photo(_written(tmp_path, "print.jpg", data))
    assert image.shape == (8, 8, 3)
    assert np.abs(image[4, 4].astype(int) - bgr).max() <= 3


@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_obeyed(tmp_path: Path, picture: Image, orientation: int, turn: int) -> None:
    data = _with_orientation(_encoded(".jpg", picture), orientation)
    upright = np.rot90(picture, turn)
    image = read_photo(_written(tmp_path, "phone.jpg", data))
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).max() < 12


def test_one_pixel_and_one_row_are_photos(tmp_path: Path, picture: Image) -> None:
    assert read_photo(_written(tmp_path, "1.png", _encoded(".png", picture[:1, :1]))).shape == (1, 1, 3)
    wide = np.zeros((1, 20_000, 3), np.uint8)
    assert read_photo(_written(tmp_path, "wide.png", _encoded(".png", wide))).shape == (1, 20_000, 3)


def test_bytes_after_the_end_are_fine(tmp_path: Path, picture: Image) -> None:
    """Phones put a second picture or a film there."""
    jpeg = _encoded(".jpg", picture)
    assert read_photo(_written(tmp_path, "motion.jpg", jpeg + jpeg[: len(jpeg) // 2])).shape == picture.shape
    png = _encoded(".png", picture)
    assert read_photo(_written(tmp_path, "more.png", png + b"more")).shape == picture.shape


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.95])
def test_cut_off_files(tmp_path: Path, picture: Image, suffix: str, part: float) -> None:
    noisy = picture ^ np.random.default_rng(5).integers(0, 4, picture.shape, np.uint8)
    data = _encoded(suffix, noisy)
    _refused(_written(tmp_path, f"cut{suffix}", data[: int(len(data) * part)]), "damaged")


def test_cut_off_by_one_byte(tmp_path: Path, picture: Image) -> None:
    _refused(_written(tmp_path, "cut.jpg", _encoded(".jpg", picture)[:-1]), "cut off")
    _refused(_written(tmp_path, "cut.png", _encoded(".png", picture)[:-1]), "cut off")


def test_thumbnail_does_not_stand_in_for_a_cut_off_photo(tmp_path: Path, picture: Image) -> None:
    jpeg = _encoded(".jpg", picture)
    thumbnail = _encoded(".jpg", picture[:16, :16])
    with_thumbnail = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + jpeg[2:]
    assert read_photo(_written(tmp_path, "whole.jpg", with_thumbnail)).shape == picture.shape
    _refused(_written(tmp_path, "cut.jpg", with_thumbnail[:-40]), "cut off")


def test_changed_bytes_in_a_png(tmp_path: Path, picture: Image) -> None:
    data = bytearray(_encoded(".png", picture))
    data[len(data) // 2] ^= 1
    _refused(_written(tmp_path, "flipped.png", bytes(data)), "damaged")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("text.jpg", b"this is no photo\n"),
        ("start.jpg", b"\xff\xd8\xff"),
        ("end.jpg", b"\xff\xd8\xff\xd9"),
        ("start.png", _PNG),
        ("page.jpg", b"<html><body>404</body></html>"),
        ("photo.heic", b"\x00\x00\x00\x18ftypheic" + bytes(64)),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ],
)
def test_no_photos(tmp_path: Path, name: str, data: bytes) -> None:
    _refused(_written(tmp_path, name, data), "JPEG|damaged")


def test_files_that_are_none(tmp_path: Path) -> None:
    _refused(_written(tmp_path, "empty.jpg", b""), "empty")
    _refused(tmp_path, "folder")
    _refused(tmp_path / "missing.jpg", "no such file")
    _refused(tmp_path / "no\x00name.jpg", "not a file name")
    _refused(tmp_path / ("x" * 300), "cannot be read")
    os.mkfifo(tmp_path / "pipe.jpg")
    _refused(tmp_path / "pipe.jpg", "regular")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    _refused(tmp_path / "loop.jpg", "cannot be read")


def test_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(200 * 1024**2)
    _refused(tmp_path / "huge.jpg", "50 MiB")


def test_file_of_somebody_else(tmp_path: Path, picture: Image) -> None:
    path = _written(tmp_path, "private.jpg", _encoded(".jpg", picture))
    path.chmod(0)
    with _unprivileged():
        _refused(path, "may not be read", 77)


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp"])
def test_pixel_bomb_costs_nothing(tmp_path: Path, kind: str) -> None:
    make: dict[str, Callable[[], bytes]] = {
        # One bit a pixel: 48 KB in the file, 1.2 GB as BGR.
        "png": lambda: _png((20_000, 20_000), 1, 0, bytes(2501) * 20_000),
        "jpg": lambda: _dc_only_jpeg((128, 128, 128)).replace(
            struct.pack(">BHHB", 8, 8, 8, 3), struct.pack(">BHHB", 8, 20_000, 20_000, 3)
        ),
        "bmp": lambda: (
            struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 10**6, 0, 0, 54, 40, 20_000, 20_000, 1, 24, *[0] * 6)
            + bytes(10**6)
        ),
    }
    path = _written(tmp_path, f"bomb.{kind}", make[kind]())
    program = (
        "import resource, sys; from pathlib import Path; from kiosk.errors import InputError\n"
        "from kiosk.photo import read_photo; usage = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = usage()\n"
        "try: read_photo(Path(sys.argv[1]))\n"
        "except InputError as error: print(error, usage() - before, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, timeout=20, check=True)
    message, added_kib = done.stdout.splitlines()
    assert "megapixels" in message
    assert int(added_kib) < 16 * 1024
    assert done.stderr == ""


def _refused(path: Path, reason: str, code: int = 65) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        read_photo(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == code


@contextmanager
def _unprivileged() -> Iterator[None]:
    """Root may read everything: be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
