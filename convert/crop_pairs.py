"""Pairs of aligned crops that the quantization gate compares variants on: cut once, embedded by each of them.

Either of photos and a list of pairs as LFW has them, or, on a machine without photos, of the kiosk's sample photos:
each many times over, as bad detections and a bad camera would have it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convert.calibration import SAMPLE_PHOTOS, move_face
from convert.metrics import Flags, Scores
from convert.pairs import Pair
from convert.photos import main_face
from kiosk.align import align_face
from kiosk.biometrics import Face, Image
from kiosk.detector import BlazeFaceDetector
from kiosk.embedder import TfliteEmbedder
from kiosk.errors import InputError
from kiosk.photo import photos_below, read_photo

_SEED = 20170512
# All pairs of these: more than 4,800 different ones, so that a false accept rate of 1e-3 is several of them.
_SAMPLE_CROPS = 144

# How badly a sample photo is treated, at most. Measured (docs/recognition.md): float32 networks are right on 99.6 % of
# the pairs and more, as good int8 variants are, and every variant calibrated with black images falls by 5 points and
# more. Half as much, and some damaged ones pass; twice as much, and chance decides.
_TURN_DEG, _SCALE, _SHIFT = 12.5, 0.125, 0.07
_BLOCK_PX = 2
_GAMMA, _DARKER, _BRIGHTER, _BIAS = 0.4, 0.35, 0.2, 15.0
_SHADOW, _NOISE, _COVERED = 0.6, 12.5, 0.275


@dataclass(frozen=True, slots=True)
class CropPairs:
    """``crops``: BGR (size, size, 3), None where no face was found. A pair is two positions among them.

    ``first``, ``second``, ``same``, ``folds``: one entry a pair; folds count from 1. ``what`` says in words what the
    pairs are of.
    """

    crops: list[Image | None]
    first: NDArray[np.intp]
    second: NDArray[np.intp]
    same: Flags
    folds: NDArray[np.int64]
    what: str


def cut_pairs(images: Path, pairs: Sequence[Pair], *, alignment: str, size_px: int) -> CropPairs:
    """Each photo's main face, found and cut as ``kiosk-convert evaluate`` does it, with a progress bar on stderr.

    Raises:
        InputError: a photo is missing or cannot be read, or no face was found in any.
    """
    from tqdm import tqdm

    paths = sorted({path for pair in pairs for path in (pair.path_a, pair.path_b)})
    missing = next((path for path in paths if not (images / path).is_file()), None)
    if missing is not None:
        raise InputError(f"{images / missing}: no such photo; --images wants the folder that holds NAME/NAME_0001.jpg")
    detector = BlazeFaceDetector(threads=1)
    crops: list[Image | None] = []
    for path in tqdm(paths, desc="gate: faces", unit="photo", mininterval=1):
        image = read_photo(images / path)
        face = main_face(image, detector)
        crops.append(None if face is None else align_face(image, face, alignment, size_px))
    if all(crop is None for crop in crops):
        raise InputError(f"{images}: quantization gate: no face found in any photo of the pairs; give photos of faces")
    place = {path: index for index, path in enumerate(paths)}
    return CropPairs(
        crops,
        np.array([place[pair.path_a] for pair in pairs]),
        np.array([place[pair.path_b] for pair in pairs]),
        np.array([pair.same for pair in pairs]),
        np.array([pair.fold for pair in pairs]),
        f"{len(pairs):,} pairs of {len(paths):,} photos given by the user",
    )


def sample_pairs(calibrated_with: frozenset[Path], *, alignment: str, size_px: int) -> CropPairs:
    """All pairs of differently spoilt crops of the sample photos that did not calibrate; always the same ones."""
    apart = [path for path in photos_below(SAMPLE_PHOTOS) if path.resolve() not in calibrated_with]
    # The people of fewer photos may be one: then nobody is there to be told apart.
    photos = apart if len({_person(path) for path in apart}) > 1 else photos_below(SAMPLE_PHOTOS)
    random = np.random.default_rng(_SEED)
    detector = BlazeFaceDetector(threads=1)
    crops: list[Image | None] = []
    for path in photos:
        image = read_photo(path)
        face = main_face(image, detector)
        if face is None:
            raise InputError(f"{path}: no face found in the kiosk's own sample photo; install the kiosk again")
        crops += [
            _spoilt_crop(image, face, alignment, size_px, random) for _ in range(math.ceil(_SAMPLE_CROPS / len(photos)))
        ]
    people = np.repeat([_person(path) for path in photos], len(crops) // len(photos))
    first, second = np.triu_indices(len(crops), k=1)
    what = f"{len(first):,} pairs of {len(crops)} spoilt crops of {len(photos)} sample photos" + (
        " that did not calibrate" if photos == apart else ""
    )
    return CropPairs(crops, first, second, people[first] == people[second], np.ones(len(first), np.int64), what)


def score_pairs(pairs: CropPairs, embedder: TfliteEmbedder) -> Scores:
    """Cosine similarity of each pair, NaN where a face was not found."""
    found = {index: embedder.embed_crop(crop) for index, crop in enumerate(pairs.crops) if crop is not None}
    embeddings = np.full((len(pairs.crops), len(next(iter(found.values())))), np.nan, np.float32)
    for index, embedding in found.items():
        embeddings[index] = embedding
    scores: Scores = np.einsum("nd,nd->n", embeddings[pairs.first], embeddings[pairs.second], dtype=np.float64)
    return scores


def _person(path: Path) -> str:
    """The sample photos are called after who is on them: obama2, biden_portrait."""
    return path.stem.rstrip("0123456789").split("_")[0]


def _spoilt_crop(image: Image, face: Face, alignment: str, size_px: int, random: np.random.Generator) -> Image:
    moved = move_face(face, random, turn_deg=_TURN_DEG, scale=_SCALE, shift=_SHIFT)
    crop = _spoil(align_face(image, moved, alignment, size_px), random)
    return np.ascontiguousarray(crop[:, ::-1]) if random.random() < 0.5 else crop


def _spoil(crop: Image, random: np.random.Generator) -> Image:
    """Coarser, in other and uneven light, noisy, and partly covered."""
    size = len(crop)
    values = _coarsen(crop.astype(np.float64), int(random.integers(1, _BLOCK_PX + 1)))
    values = 255 * (values / 255) ** math.exp(random.uniform(-_GAMMA, _GAMMA))
    values = values * math.exp(random.uniform(-_DARKER, _BRIGHTER)) + random.uniform(-_BIAS, _BIAS)
    direction = random.uniform(0, 2 * math.pi)
    place = np.arange(size) / size - 0.5
    slope = math.cos(direction) * place[np.newaxis] + math.sin(direction) * place[:, np.newaxis]
    values *= (1 + random.uniform(0, _SHADOW) * slope)[..., np.newaxis]
    values += random.normal(0, random.uniform(0, _NOISE), values.shape)
    spoilt: Image = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    width, height = (random.uniform(0, _COVERED, 2) * size).astype(int)
    left, top = int(random.integers(0, size - width + 1)), int(random.integers(0, size - height + 1))
    spoilt[top : top + height, left : left + width] = random.integers(0, 256)
    return spoilt


def _coarsen(values: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    """Each block of pixels as its mean: a face from farther away."""
    size = len(values)
    padded = np.pad(values, ((0, -size % block), (0, -size % block), (0, 0)), mode="edge")
    blocks = len(padded) // block
    means = padded.reshape(blocks, block, blocks, block, 3).mean(axis=(1, 3))
    coarse: NDArray[np.float64] = np.repeat(np.repeat(means, block, axis=0), block, axis=1)[:size, :size]
    return coarse
