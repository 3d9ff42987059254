"""How close each variant, run by the kiosk's own embedder, stays to the Keras network and to its float32 variant."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
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

Latencies = dict[int, dict[str, float]]
"""Milliseconds by number of threads and variant."""


@dataclass(frozen=True, slots=True)
class Parity:
    """Cosine between a variant's embeddings and Keras' (``cosine``), and float32's, over ``crops`` held-out crops."""

    crops: int
    cosine_mean: float
    cosine_p1: float
    cosine_min: float
    floor: float
    float32_mean: float
    float32_p1: float
    float32_min: float
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


def runtime_embeddings(bundle: Bundle, crops: Sequence[Image]) -> Array:
    """L2-normalised embeddings (n, d) of the crops by a variant in the kiosk's runtime."""
    embedder = TfliteEmbedder(bundle, threads=2)
    return np.stack([embedder.embed_crop(crop) for crop in crops])


def measure_parity(bundle: Bundle, crops: Sequence[Image], keras: Array, float32: Array) -> Parity:
    """Embed the crops through the runtime and compare with the embeddings (n, d) of Keras and of float32."""
    embeddings = runtime_embeddings(bundle, crops)
    mean, p1, least = _drift(embeddings, keras)
    float32_mean, float32_p1, float32_least = _drift(embeddings, float32)
    return Parity(
        crops=len(crops),
        cosine_mean=mean,
        cosine_p1=p1,
        cosine_min=least,
        floor=FLOORS[bundle.manifest.variant],
        float32_mean=float32_mean,
        float32_p1=float32_p1,
        float32_min=float32_least,
        size_bytes=bundle.model_path.stat().st_size,
    )


def _drift(embeddings: Array, reference: Array) -> tuple[float, float, float]:
    """Mean, first percentile and least of the cosines between rows."""
    cosines = np.einsum("nd,nd->n", embeddings, reference, dtype=np.float64)
    figures = cosines.mean(), np.percentile(cosines, 1), cosines.min()
    mean, p1, least = (round(float(figure), 6) for figure in figures)
    return mean, p1, least


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


def measure_latencies(bundles: Mapping[Variant, Bundle], crop: Image) -> Latencies:
    """Median wall time of one embedding in milliseconds, preprocessing included.

    The variants take turns, so that whatever else the machine does meets all of them.
    """
    return {threads: _latencies_ms(bundles, crop, threads) for threads in (1, 2)}


def _latencies_ms(bundles: Mapping[Variant, Bundle], crop: Image, threads: int) -> dict[str, float]:
    embedders = {variant: TfliteEmbedder(bundle, threads=threads) for variant, bundle in bundles.items()}
    times: dict[Variant, list[float]] = {variant: [] for variant in bundles}
    for _ in range(_LATENCY_RUNS + 1):
        for variant, embedder in embedders.items():
            start = time.perf_counter()
            embedder.embed_crop(crop)
            times[variant].append(time.perf_counter() - start)
    # The first one of each warms up.
    return {variant: round(statistics.median(values[1:]) * 1000, 2) for variant, values in times.items()}
