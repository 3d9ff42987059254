"""`kiosk-convert evaluate`: LFW-protocol verification by the runtime's own detector, alignment and embedder."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from convert.metrics import (
    accuracy_at,
    best_threshold,
    equal_error_rate,
    fold_accuracies,
    make_curve,
    true_accept_rate,
)
from convert.pairs import Pair
from convert.photos import main_face
from kiosk.biometrics import Embedding, ModelId
from kiosk.bundle import Bundle
from kiosk.detector import BlazeFaceDetector, HaarDetector
from kiosk.embedder import TfliteEmbedder
from kiosk.errors import InputError, OutputError
from kiosk.photo import read_photo
from kiosk.ports import Detector

DetectorName = Literal["blazeface", "haar"]


@dataclass(frozen=True, slots=True)
class PhotoEmbeddings:
    """The main face of each photo, by relative path; None where no face was found."""

    model_id: ModelId
    alignment: str
    by_path: dict[str, Embedding | None]

    def score(self, pair: Pair) -> float:
        """Cosine similarity, NaN where a face was not found."""
        a, b = self.by_path[pair.path_a], self.by_path[pair.path_b]
        return math.nan if a is None or b is None else float(a @ b)


def embed_photos(
    bundle: Bundle, images: Path, paths: Iterable[str], *, detector: DetectorName = "blazeface", threads: int = 2
) -> PhotoEmbeddings:
    """Embed each distinct photo once, with a progress bar on stderr.

    Raises:
        InputError: a photo is missing or cannot be read.
        ModelError: the bundle cannot be used.
    """
    from tqdm import tqdm

    distinct = sorted(set(paths))
    missing = next((path for path in distinct if not (images / path).is_file()), None)
    if missing is not None:
        raise InputError(f"{images / missing}: no such photo; --images wants the folder that holds NAME/NAME_0001.jpg")
    finder: Detector = HaarDetector() if detector == "haar" else BlazeFaceDetector(threads=1)
    alignment = "haar-square-v1" if detector == "haar" else None
    embedder = TfliteEmbedder(bundle, threads=threads, alignment=alignment)
    by_path: dict[str, Embedding | None] = {}
    for path in tqdm(distinct, desc=embedder.model_id, unit="photo", mininterval=1):
        image = read_photo(images / path)
        face = main_face(image, finder)
        by_path[path] = None if face is None else embedder.embed(image, face)
    return PhotoEmbeddings(embedder.model_id, embedder.alignment, by_path)


def summarise(pairs: Sequence[Pair], embeddings: PhotoEmbeddings, *, detector: DetectorName) -> dict[str, Any]:
    """The figures as one JSON document.

    ``accuracy``: one fold (View 1) at the best threshold of these very pairs; several folds (View 2) as the mean over
    folds, each at the best threshold of the others. A pair with a face not found is an error at every threshold.
    """
    scores = np.array([embeddings.score(pair) for pair in pairs])
    same = np.array([pair.same for pair in pairs])
    folds = np.array([pair.fold for pair in pairs])
    curve = make_curve(scores, same)
    threshold = best_threshold(curve)
    by_fold = fold_accuracies(scores, same, folds) if folds.max() > 1 else None
    accuracy = accuracy_at(scores, same, threshold) if by_fold is None else float(by_fold.mean())
    return {
        "model": embeddings.model_id,
        "detector": detector,
        "alignment": embeddings.alignment,
        "protocol": "one fold, best threshold" if by_fold is None else f"{len(by_fold)} folds, threshold of the others",
        "pairs": len(pairs),
        "undetected_pairs": curve.undetected,
        "photos": len(embeddings.by_path),
        "undetected_photos": sum(embedding is None for embedding in embeddings.by_path.values()),
        "accuracy": round(accuracy, 6),
        "accuracy_std": None if by_fold is None else round(float(by_fold.std()), 6),
        "threshold": round(threshold, 6),
        "eer": _rounded(equal_error_rate(curve)),
        "tar_at_far": {far: _rounded(true_accept_rate(curve, float(far))) for far in ("0.01", "0.001")},
    }


def summary_text(figures: dict[str, Any]) -> str:
    spread = "" if figures["accuracy_std"] is None else f" ± {figures['accuracy_std']:.4f}"
    rates = ", ".join(f"{_percent(tar)} at FAR {far}" for far, tar in figures["tar_at_far"].items())
    return (
        f"{figures['model']} ({figures['detector']}, {figures['alignment']})\n"
        f"accuracy   {figures['accuracy']:.4f}{spread} of {figures['pairs']} pairs ({figures['protocol']})\n"
        f"threshold  {figures['threshold']:.3f}\n"
        f"EER        {_percent(figures['eer'])}\n"
        f"TAR        {rates}\n"
        f"not found  {figures['undetected_photos']} of {figures['photos']} photos, "
        f"{figures['undetected_pairs']} pairs (counted as errors)"
    )


def write_scores(path: Path, pairs: Sequence[Pair], embeddings: PhotoEmbeddings) -> None:
    """One CSV row a pair: fold, path_a, path_b, same, score (empty where a face was not found).

    Raises:
        OutputError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["fold", "path_a", "path_b", "same", "score"])
    for pair in pairs:
        score = embeddings.score(pair)
        writer.writerow(
            [pair.fold, pair.path_a, pair.path_b, int(pair.same), "" if math.isnan(score) else f"{score:.6f}"]
        )
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text.getvalue(), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _percent(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.2%}"
