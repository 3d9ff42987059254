"""`kiosk-convert evaluate-pad`: APCER and BPCER of pad bundles, photo by photo, by the kiosk's own detector and crop.

APCER: the share of attack presentations called live; BPCER: the share of live ones called attacks (ISO/IEC 30107-3).
"""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert.photos import main_face
from kiosk.detector import BlazeFaceDetector
from kiosk.errors import OutputError
from kiosk.pad import PadBundle, TflitePad
from kiosk.photo import photos_below, read_photo

LIVE = "live"
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))

# Of a normal distribution, 95 % lie within so many standard deviations.
_Z = 1.959964
# Below every score.
_NOT_FOUND = -1.0

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Presentation:
    """One photo. ``kind``: ``live``, or the attack's. ``scores``: every bundle's, None where no face was found."""

    kind: str
    path: Path
    scores: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class PadResult:
    """What was measured of the bundles; ``milliseconds``: each one's median for a
    face, detection not included; None without a face.
    """

    bundles: Sequence[PadBundle]
    presentations: Sequence[Presentation]
    milliseconds: Sequence[float | None]
    threads: int


def evaluate_pad(bundles: Sequence[PadBundle], folders: Mapping[str, Path], *, threads: int) -> PadResult:
    """Score the main face of every photo below the folders, named by kind, by all bundles in turns.

    Raises:
        InputError: a folder without photos, or a photo that cannot be read.
        ModelError: a bundle that does not run.
    """
    from tqdm import tqdm

    photos = [(kind, path) for kind, folder in folders.items() for path in photos_below(folder)]
    detector = BlazeFaceDetector(threads=threads)
    pads = [TflitePad(bundle, threads=threads) for bundle in bundles]
    times_s: list[list[float]] = [[] for _ in pads]
    presentations = []
    for kind, path in tqdm(photos, desc="photos", unit=""):
        image = read_photo(path)
        face = main_face(image, detector)
        if face is None:
            presentations.append(Presentation(kind, path, None))
            continue
        scores = []
        for pad, spent_s in zip(pads, times_s, strict=True):
            started = time.perf_counter()
            scores.append(pad.score(image, face))
            spent_s.append(time.perf_counter() - started)
        presentations.append(Presentation(kind, path, tuple(scores)))
    medians = [round(statistics.median(spent_s) * 1000, 2) if spent_s else None for spent_s in times_s]
    return PadResult(bundles, presentations, medians, threads)


def pad_documents(result: PadResult) -> list[dict[str, Any]]:
    """One document a bundle: error rates at its own threshold, each kind apart, and at others."""
    return [_document(result, number) for number in range(len(result.bundles))]


def _document(result: PadResult, number: int) -> dict[str, Any]:
    manifest = result.bundles[number].manifest
    scores: dict[str, Scores] = {}
    undetected: dict[str, int] = {}
    for kind in dict.fromkeys(one.kind for one in result.presentations):
        own = [one.scores for one in result.presentations if one.kind == kind]
        undetected[kind] = sum(found is None for found in own)
        # A face that was not found opens no door, and is no attack found either.
        scores[kind] = np.array([found[number] if found else _NOT_FOUND for found in own])
    return {
        "bundle": str(result.bundles[number].folder),
        "model": result.bundles[number].model_id,
        "threshold": manifest.threshold,
        "undetected": undetected,
        "at_threshold": _rates(scores, manifest.threshold),
        "curve": [{"threshold": threshold, **_rates(scores, threshold)} for threshold in THRESHOLDS],
        "highest_attack": {k: _extreme(s, max) for k, s in scores.items() if k != LIVE},
        "lowest_live": _extreme(scores[LIVE], min),
        "milliseconds": result.milliseconds[number],
        "threads": result.threads,
        "confidence": {"level": 0.95, "method": "Wilson, photos counted as independent"},
    }


def _extreme(scores: Scores, choose: Callable[[Iterable[float]], float]) -> float | None:
    """The lowest or highest score of the faces that were found; None where there are none."""
    found = [float(score) for score in scores if score != _NOT_FOUND]
    return round(choose(found), 4) if found else None


def _rates(scores: Mapping[str, Scores], threshold: float) -> dict[str, Any]:
    """``bpcer``, and ``apcer`` by kind of attack."""
    live = scores[LIVE]
    return {
        "bpcer": _rate(int((live < threshold).sum()), len(live)),
        "apcer": {k: _rate(int((s >= threshold).sum()), len(s)) for k, s in scores.items() if k != LIVE},
    }


def _rate(errors: int, count: int) -> dict[str, Any]:
    low, high = wilson(errors, count)
    interval = [round(low, 5), round(high, 5)]
    return {"errors": errors, "of": count, "rate": round(errors / count, 5), "interval": interval}


def wilson(errors: int, count: int) -> tuple[float, float]:
    """Wilson's score interval (95 %) of a rate: not empty where no error was seen (Wilson 1927)."""
    rate, z2 = errors / count, _Z**2
    centre = (rate + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * np.sqrt(rate * (1 - rate) / count + z2 / (4 * count**2))
    return max(float(centre - half), 0.0), min(float(centre + half), 1.0)


def pad_text(documents: Sequence[Mapping[str, Any]]) -> str:
    """The documents in words, a paragraph each."""
    return "\n\n".join(_paragraph(document) for document in documents)


def _paragraph(document: Mapping[str, Any]) -> str:
    lines = [f"{document['model']}, threshold {document['threshold']}, {_milliseconds(document)} a face"]
    lines += [f"  {name:<14}{_told(rate)}" for name, rate in _named(document["at_threshold"])]
    lines += [f"  no face found  {count} of kind {kind}" for kind, count in document["undetected"].items() if count]
    highest = ", ".join(f"{kind} {_shown(score)}" for kind, score in document["highest_attack"].items())
    lines.append(f"  lowest live score {_shown(document['lowest_live'])}, highest of attacks: {highest}")
    for row in document["curve"]:
        told = ", ".join(f"{name} {rate['rate']:.2%}" for name, rate in _named(row))
        lines.append(f"  at {row['threshold']:.2f}: {told}")
    return "\n".join(lines)


def _milliseconds(document: Mapping[str, Any]) -> str:
    return f"{_shown(document['milliseconds'])} ms"


def _shown(figure: float | None) -> str:
    return "-" if figure is None else f"{figure}"


def _named(rates: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [("BPCER", rates["bpcer"]), *((f"APCER {kind}", rate) for kind, rate in rates["apcer"].items())]


def _told(rate: Mapping[str, Any]) -> str:
    low, high = rate["interval"]
    return f"{rate['rate']:.2%} ({rate['errors']} of {rate['of']}; 95 %: {low:.2%} to {high:.2%})"


def write_pad_scores(path: Path, result: PadResult) -> None:
    """One row a photo: kind, path, and each bundle's score, empty where no face was found.

    Raises:
        OutputError: the file cannot be written.
    """
    names = [bundle.manifest.name for bundle in result.bundles]
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["kind", "path", *names])
            for one in result.presentations:
                scores = [f"{score:.6f}" for score in one.scores] if one.scores else [""] * len(names)
                writer.writerow([one.kind, str(one.path), *scores])
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
