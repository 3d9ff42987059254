"""How close each variant, run by the kiosk's own embedder, stays to the Keras network."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convert.quiet import Model
from kiosk.biometrics import Image
from kiosk.bundle import Bundle, Variant
from kiosk.embedder import TfliteEmbedder
from kiosk.errors import InputError
from kiosk.preprocessing import preprocess

FLOORS: dict[Variant, float] = {"float32": 0.9999, "float16": 0.999, "dynamic": 0.99, "int8": 0.995}
"""Least mean cosine to Keras on held-out crops; a build below it fails."""

_BATCH = 16
_LATENCY_RUNS = 25

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Parity:
    """Cosine between the embeddings of Keras and of the variant, over ``crops`` held-out crops."""

    crops: int
    cosine_mean: float
    cosine_p1: float
    cosine_min: float
    floor: float
    latency_ms_1_thread: float
    latency_ms_2_threads: float
    size_bytes: int


def reference_embeddings(model: Model, crops: Sequence[Image], preprocessing: str) -> Array:
    """L2-normalised embeddings (n, d) of BGR crops by the Keras network."""
    batches = []
    for start in range(0, len(crops), _BATCH):
        tensors = np.stack([preprocess(crop, preprocessing) for crop in crops[start : start + _BATCH]])
        batches.append(np.asarray(model(tensors, training=False)))
    raw = np.concatenate(batches)
    normalised: Array = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    return normalised


def measure_parity(bundle: Bundle, crops: Sequence[Image], reference: Array) -> Parity:
    """Embed the crops through the runtime and compare with ``reference`` (n, d)."""
    embedder = TfliteEmbedder(bundle, threads=2)
    embeddings = np.stack([embedder.embed_crop(crop) for crop in crops])
    cosines = np.einsum("nd,nd->n", embeddings, reference, dtype=np.float64)
    return Parity(
        crops=len(crops),
        cosine_mean=round(float(cosines.mean()), 6),
        cosine_p1=round(float(np.percentile(cosines, 1)), 6),
        cosine_min=round(float(cosines.min()), 6),
        floor=FLOORS[bundle.manifest.variant],
        latency_ms_1_thread=_latency_ms(TfliteEmbedder(bundle, threads=1), crops[0]),
        latency_ms_2_threads=_latency_ms(embedder, crops[0]),
        size_bytes=bundle.model_path.stat().st_size,
    )


def require_floor(name: str, parity: Parity) -> None:
    """
    Raises:
        InputError: the mean cosine is below the floor.
    """
    if not parity.cosine_mean >= parity.floor:
        raise InputError(
            f"{name}: mean cosine to Keras is {parity.cosine_mean:.4f} on {parity.crops} held-out crops, below the "
            f"floor of {parity.floor}; nothing was published; calibrate with more, and more typical, photos"
        )


def _latency_ms(embedder: TfliteEmbedder, crop: Image) -> float:
    """Median wall time of one embedding, preprocessing included."""
    embedder.embed_crop(crop)
    times = []
    for _ in range(_LATENCY_RUNS):
        start = time.perf_counter()
        embedder.embed_crop(crop)
        times.append(time.perf_counter() - start)
    return round(statistics.median(times) * 1000, 2)
