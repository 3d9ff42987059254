"""What poses are worth at enrollment: templates of three photos near and far apart in pose, and one sitting's frames.

    python benchmarks/poses.py BUNDLE LFW_FOLDER CLIP...

LFW_FOLDER holds one folder per person. Of everybody with four or more photos that pass the limits for enrollment each
photo is the probe once, and every three of the others are a template. Of a probe's templates the third with the least
of a measure (range of yaw, range of pitch, distance of the mean yaw to the probe's) is compared with the third with the
most: ``gain`` is the mean difference of their scores, with half of a 95 % interval over people. CLIPs show one person
each: how often two frames count as nearly the same picture, by how far they differ in yaw. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kiosk.biometrics import Embedding
from kiosk.bundle import read_bundle
from kiosk.detector import BlazeFaceDetector, PhotoDetector
from kiosk.embedder import TfliteEmbedder
from kiosk.enrollment import embed_photo
from kiosk.errors import InputError
from kiosk.gallery import fuse
from kiosk.opencv import cv2
from kiosk.photo import load_photo
from kiosk.pipeline import Pipeline
from kiosk.quality import ENROLLMENT_GATE, PROBE_GATE

MOST_PHOTOS = 8
EVERY = 6
YAW_BINS = ((0.0, 0.02), (0.02, 0.15), (0.15, 0.3))

View = tuple[Embedding, float, float]
"""Embedding, yaw, pitch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("lfw", type=Path)
    parser.add_argument("clips", type=Path, nargs="+")
    options = parser.parse_args()
    bundle = read_bundle(options.bundle)
    pipeline = Pipeline(bundle, BlazeFaceDetector(), TfliteEmbedder(bundle), PROBE_GATE, ENROLLMENT_GATE)
    people = [views for folder in sorted(options.lfw.iterdir()) if len(views := photos(pipeline, folder)) >= 4]
    document = {
        "model": str(pipeline.embedder.model_id),
        "people": len(people),
        "photos": sum(map(len, people)),
        "gain": gains(people),
        "clips": {clip.name: sitting(pipeline, clip) for clip in options.clips},
    }
    print(json.dumps(document, indent=1))


def photos(pipeline: Pipeline, folder: Path) -> list[View]:
    paths = sorted(folder.glob("*.jpg")) if folder.is_dir() else []
    return [view for path in paths[:MOST_PHOTOS] for view in look(pipeline, path)] if len(paths) >= 4 else []


def look(pipeline: Pipeline, path: Path) -> Iterator[View]:
    try:
        photo = embed_photo(
            str(path),
            load_photo(path).image,
            detector=PhotoDetector(pipeline.detector),
            embedder=pipeline.embedder,
            gate=pipeline.enrollment_gate,
        )
    except InputError:
        return
    if photo.quality.yaw is not None and photo.quality.pitch is not None:
        yield photo.embedding, photo.quality.yaw, photo.quality.pitch


def gains(people: list[list[View]]) -> dict[str, dict[str, float]]:
    """By measure, what the third of the templates with the most of it scores more than the third with the least."""
    found: dict[str, list[list[float]]] = {"yaw_range": [], "pitch_range": [], "yaw_to_probe": []}
    for views in people:
        mine: dict[str, list[float]] = {name: [] for name in found}
        for probe in views:
            others = [view for view in views if view is not probe]
            trios = list(itertools.combinations(others, 3))
            if len(trios) < 3:
                continue
            scores = np.array([fuse([view[0] for view in trio]) @ probe[0] for trio in trios])
            yaws, pitches = (np.array([[view[i] for view in trio] for trio in trios]) for i in (1, 2))
            measures = {
                "yaw_range": np.ptp(yaws, axis=1),
                "pitch_range": np.ptp(pitches, axis=1),
                "yaw_to_probe": np.abs(yaws.mean(axis=1) - probe[1]),
            }
            third = len(trios) // 3
            for name, values in measures.items():
                order = np.argsort(values)
                mine[name].append(float(scores[order[-third:]].mean() - scores[order[:third]].mean()))
        for name, differences in mine.items():
            if differences:
                found[name].append(differences)
    return {name: _summarize([float(np.mean(one)) for one in per_person]) for name, per_person in found.items()}


def _summarize(differences: list[float]) -> dict[str, float]:
    half = 1.96 * float(np.std(differences, ddof=1)) / math.sqrt(len(differences))
    return {"people": len(differences), "mean": round(float(np.mean(differences)), 4), "half_of_95": round(half, 4)}


def sitting(pipeline: Pipeline, clip: Path) -> dict[str, object]:
    """Pairs of frames of one clip that are nearly one picture, by their difference in yaw."""
    capture, views = cv2.VideoCapture(str(clip)), []
    for number in itertools.count():
        read, image = capture.read()
        if not read:
            break
        faces = pipeline.detector.detect(image) if number % EVERY == 0 else []  # type: ignore[arg-type]
        if faces:
            face = pipeline.detector.refine(image, faces[0])  # type: ignore[arg-type]
            quality = pipeline.enrollment_gate.assess(image, face)  # type: ignore[arg-type]
            if quality.failure is None and quality.yaw is not None:
                views.append((pipeline.embedder.embed(image, face), quality.yaw))  # type: ignore[arg-type]
    pairs = [(abs(a[1] - b[1]), float(a[0] @ b[0])) for a, b in itertools.combinations(views, 2)]
    alike = {}
    for low, high in YAW_BINS:
        scores = [score for turned, score in pairs if low <= turned < high]
        if scores:
            share = sum(score >= pipeline.same_picture_score for score in scores) / len(scores)
            alike[f"{low:g}-{high:g}"] = {"pairs": len(scores), "nearly_one_picture": round(share, 3)}
    return {"frames": len(views), "yaw_differs_by": alike}


if __name__ == "__main__":
    main()
