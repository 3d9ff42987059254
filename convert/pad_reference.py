"""What the published PyTorch networks say of pictures that a seed makes: what our conversion is held against.

`pad_reference.json` was written by `benchmarks/pad_reference.py`, which needs PyTorch and the published source; nothing
else does.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert.minifasnet import INPUT_SIZE_PX
from kiosk.errors import InputError

REFERENCE = Path(__file__).with_name("pad_reference.json")

SEED = 80
COUNT = 24

Array = NDArray[np.float32]


def synthetic_crops() -> Array:
    """Pictures (24, 80, 80, 3), values 0-255, of squares from 2 to 40 pixels wide, with some noise: all spatial
    frequencies and the whole range of brightness occur.
    """
    random = np.random.Generator(np.random.PCG64(SEED))
    crops = []
    for number in range(COUNT):
        side = (2, 4, 5, 8, 10, 16, 20, 40)[number % 8]
        cells = random.integers(0, 256, (INPUT_SIZE_PX // side, INPUT_SIZE_PX // side, 3))
        crop = np.repeat(np.repeat(cells, side, axis=0), side, axis=1)
        noise = random.integers(-12, 13, crop.shape) * (number % 3)
        crops.append(np.clip(crop + noise, 0, 255))
    return np.stack(crops).astype(np.float32)


def reference_logits(file: str) -> Array:
    """The published network's logits (24, 3) for the synthetic crops.

    Raises:
        InputError: NumPy no longer makes the pictures that the reference was computed for.
    """
    document = _document()
    if digest(synthetic_crops()) != document["crops_sha256"]:
        raise InputError(
            f"{REFERENCE}: made for other pictures than this NumPy {np.__version__} makes; "
            "run benchmarks/pad_reference.py again"
        )
    return np.array(document["logits"][file], np.float32)


def digest(crops: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(crops, "<f4").tobytes()).hexdigest()


@cache
def _document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(REFERENCE.read_text(encoding="utf-8"))
    return document
