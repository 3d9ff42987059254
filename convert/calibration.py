"""Face crops for quantization and, from other photos, for the parity check: made by the runtime's own pipeline.

Each photo gives one crop and its mirror image; where that is too few, further crops are cut with the face box
slightly shifted, scaled and turned, and with other light.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import kiosk
from convert.photos import main_face
from kiosk.align import align_face
from kiosk.biometrics import Box, Face, Image
from kiosk.detector import BlazeFaceDetector
from kiosk.errors import InputError
from kiosk.photo import photos_below, read_photo

SAMPLE_PHOTOS = Path(kiosk.__file__).parent / "data" / "samples"
"""Calibrates a build that is given no photos: few people, so that your own photos are better."""

CALIBRATION_CROPS = 200
HELD_OUT_CROPS = 100
_SEED = 20180402
# Largest deviation of an augmented crop: turn in degrees, scale and shift as a share of the box, light as a factor.
_TURN_DEG, _SCALE, _SHIFT, _LIGHT = 8.0, 0.08, 0.05, 0.4


@dataclass(frozen=True, slots=True)
class Crops:
    """BGR crops (size, size, 3). No held-out crop is a calibration crop; ``split`` says how they were kept apart."""

    calibration: list[Image]
    held_out: list[Image]
    split: str


def collect_crops(
    folder: Path | None,
    *,
    alignment: str,
    size_px: int,
    count: int = CALIBRATION_CROPS,
    held_out: int = HELD_OUT_CROPS,
    say: Callable[[str], None] = lambda _: None,
) -> Crops:
    """Cut crops from the photos of a folder (the sample photos by default); the same photos give the same crops.

    Raises:
        InputError: no photo there, one that cannot be read, or none with a face.
    """
    source = folder or SAMPLE_PHOTOS
    random = np.random.default_rng(_SEED)
    paths = photos_below(source)
    paths = [paths[index] for index in random.permutation(len(paths))]
    shots = _find_faces(paths, math.ceil(count / 2) + math.ceil(held_out / 2))
    if not shots:
        raise InputError(f"{source}: no face found in any of its {len(paths)} photos; give photos that show faces")
    aside = min(math.ceil(held_out / 2), len(shots) // 3 or len(shots) - 1)
    tested, used = (shots[:aside], shots[aside:]) if aside else (shots, shots)
    say(f"calibration: {len(used)} photos, parity: {len(tested)}, of {'the sample photos' if not folder else source}")
    calibration = _cut(used, count, alignment, size_px, random)
    others = _cut(tested, held_out, alignment, size_px, random, skip_plain=not aside)
    return Crops(calibration, others, _describe(folder, len(used), len(tested) if aside else 0, count, held_out))


def _describe(folder: Path | None, used: int, tested: int, count: int, held_out: int) -> str:
    whence = "the kiosk's sample photos" if folder is None else "photos given by the user"
    if not tested:
        return f"{count} calibration and {held_out} parity crops, all of one photo ({whence}), differently augmented"
    return (
        f"{count} calibration crops of {used} photos, {held_out} parity crops of {tested} other photos ({whence}); "
        "half of each mirrored"
    )


def _find_faces(paths: Sequence[Path], wanted: int) -> list[tuple[Path, Face]]:
    detector = BlazeFaceDetector(threads=2)
    found: list[tuple[Path, Face]] = []
    for path in paths:
        face = main_face(read_photo(path), detector)
        if face is not None:
            found.append((path, face))
        if len(found) == wanted:
            break
    return found


def _cut(
    shots: Sequence[tuple[Path, Face]],
    count: int,
    alignment: str,
    size_px: int,
    random: np.random.Generator,
    *,
    skip_plain: bool = False,
) -> list[Image]:
    """``count`` crops, every photo equally often: plain, mirrored, then augmented with every second one mirrored."""
    first = 2 if skip_plain else 0
    rounds = range(first, first + math.ceil(count / len(shots)))
    by_round: list[list[Image]] = [[] for _ in rounds]
    for path, face in shots:
        # One photo at a time: a folder of large photos does not fit into memory.
        image = read_photo(path)
        for crops, number in zip(by_round, rounds, strict=True):
            seen = face if number < 2 else _moved(face, random)
            crop = align_face(image, seen, alignment, size_px)
            crop = crop if number < 2 else _lit(crop, random)
            crops.append(np.ascontiguousarray(crop[:, ::-1]) if number % 2 else crop)
    return [crop for crops in by_round for crop in crops][:count]


def _moved(face: Face, random: np.random.Generator) -> Face:
    """The detection as a slightly different one might have been: turned, scaled and shifted about its centre."""
    angle = math.radians(random.uniform(-_TURN_DEG, _TURN_DEG))
    scale = 1 + random.uniform(-_SCALE, _SCALE)
    box = face.box
    centre = np.array(box.centre)
    moved = centre + random.uniform(-_SHIFT, _SHIFT, 2) * (box.w, box.h)
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    landmarks = None
    if face.landmarks is not None:
        landmarks = ((face.landmarks - centre) @ turn.T + moved).astype(np.float32)
    w, h = box.w * scale, box.h * scale
    return Face(Box(float(moved[0] - w / 2), float(moved[1] - h / 2), w, h), face.score, landmarks)


def _lit(crop: Image, random: np.random.Generator) -> Image:
    gain = random.uniform(1 - _LIGHT, 1 + _LIGHT)
    bias = random.uniform(-20, 20)
    lit: Image = np.clip(np.rint(crop * gain + bias), 0, 255).astype(np.uint8)
    return lit
