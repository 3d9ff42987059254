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
    """BGR crops (size, size, 3). No held-out crop is a calibration crop; ``split`` says how they were kept apart.

    ``photos``: the files the calibration crops are of, resolved.
    """

    calibration: list[Image]
    held_out: list[Image]
    split: str
    photos: frozenset[Path]


def collect_crops(
    folder: Path | None,
    *,
    alignment: str,
    size_px: int,
    count: int = CALIBRATION_CROPS,
    held_out: int = HELD_OUT_CROPS,
    apart: frozenset[Path] = frozenset(),
    say: Callable[[str], None] = lambda _: None,
) -> Crops:
    """Cut crops from the photos of a folder (the sample photos by default); the same photos give the same crops.

    ``apart``: photos, resolved, that something else is to be measured with.

    Raises:
        InputError: no photo there, one that cannot be read, or none with a face.
    """
    source = folder or SAMPLE_PHOTOS
    random = np.random.default_rng(_SEED)
    paths = _shuffled(source, apart, random)
    shots = _find_faces(paths, math.ceil(count / 2) + math.ceil(held_out / 2))
    if not shots:
        raise InputError(
            f"{source}: calibration gate: no face found in any of its {len(paths)} photos; nothing was published; "
            "give photos that show faces, or --crops if these are aligned crops already"
        )
    aside = min(math.ceil(held_out / 2), len(shots) // 3 or len(shots) - 1)
    tested, used = (shots[:aside], shots[aside:]) if aside else (shots, shots)
    say(f"calibration: {len(used)} photos, parity: {len(tested)}, of {'the sample photos' if not folder else source}")
    calibration = _cut(used, count, alignment, size_px, random)
    others = _cut(tested, held_out, alignment, size_px, random, skip_plain=not aside)
    split = _describe(folder, len(used), len(tested) if aside else 0, count, held_out)
    return Crops(calibration, others, split, frozenset(path.resolve() for path, _ in used))


def read_crops(
    folder: Path,
    *,
    size_px: int,
    count: int = CALIBRATION_CROPS,
    held_out: int = HELD_OUT_CROPS,
    apart: frozenset[Path] = frozenset(),
    say: Callable[[str], None] = lambda _: None,
) -> Crops:
    """Take crops that are aligned already as they are: nothing is looked for in them, none is changed or mirrored.

    Raises:
        InputError: no picture there, one that cannot be read, or one that does not have the model's input size.
    """
    paths = _shuffled(folder, apart, np.random.default_rng(_SEED))
    aside = min(held_out, len(paths) // 3 or len(paths) - 1)
    tested, used = paths[:aside] or paths, paths[aside : aside + count]
    say(f"calibration: {len(used)} crops, parity: {len(tested)}, of {folder}")
    split = (
        f"{len(used)} calibration crops, {len(tested)} {'other ' if aside else ''}parity crops, "
        "aligned by the user and taken as they are"
    )
    calibration, others = ([_read_crop(path, size_px) for path in part] for part in (used, tested))
    return Crops(calibration, others, split, frozenset(path.resolve() for path in used))


def _read_crop(path: Path, size_px: int) -> Image:
    crop = read_photo(path)
    height, width = crop.shape[:2]
    if (height, width) != (size_px, size_px):
        raise InputError(
            f"{path}: {width} × {height} pixels; --crops wants aligned faces of the model's {size_px} × {size_px}; "
            "leave it out for photos"
        )
    return crop


def _shuffled(folder: Path, apart: frozenset[Path], random: np.random.Generator) -> list[Path]:
    paths = photos_below(folder)
    paths = [paths[index] for index in random.permutation(len(paths))]
    kept = [path for path in paths if path.resolve() not in apart] if apart else paths
    if not kept:
        raise InputError(f"{folder}: all of its photos are in the gate's pairs; calibrate with others")
    return kept


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
            seen = face if number < 2 else move_face(face, random)
            crop = align_face(image, seen, alignment, size_px)
            crop = crop if number < 2 else light(crop, random)
            crops.append(np.ascontiguousarray(crop[:, ::-1]) if number % 2 else crop)
    return [crop for crops in by_round for crop in crops][:count]


def move_face(
    face: Face,
    random: np.random.Generator,
    *,
    turn_deg: float = _TURN_DEG,
    scale: float = _SCALE,
    shift: float = _SHIFT,
) -> Face:
    """The detection as another one might have been: turned, scaled and shifted about its centre, at most as much."""
    angle = math.radians(random.uniform(-turn_deg, turn_deg))
    grown = 1 + random.uniform(-scale, scale)
    box = face.box
    centre = np.array(box.centre)
    moved = centre + random.uniform(-shift, shift, 2) * (box.w, box.h)
    turn = grown * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    landmarks = None
    if face.landmarks is not None:
        landmarks = ((face.landmarks - centre) @ turn.T + moved).astype(np.float32)
    w, h = box.w * grown, box.h * grown
    return Face(Box(float(moved[0] - w / 2), float(moved[1] - h / 2), w, h), face.score, landmarks)


def light(crop: Image, random: np.random.Generator) -> Image:
    gain = random.uniform(1 - _LIGHT, 1 + _LIGHT)
    bias = random.uniform(-20, 20)
    lit: Image = np.clip(np.rint(crop * gain + bias), 0, 255).astype(np.uint8)
    return lit
