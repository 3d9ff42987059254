"""Score thresholds of a bundle from photos of many people: false match rate, and what it costs in false non-matches.

    python benchmarks/measure_thresholds.py BUNDLE FOLDER > thresholds.json

FOLDER holds one folder per person (LFW's layout). Impostor scores: every pair of different people once, each by the
first photo of theirs in which a face is found. Genuine scores: all pairs of photos of one person, every person
weighing the same. The largest impostor scores are listed, because in LFW they are partly one person under two names:
look at them before believing a threshold at a rate below about 1e-5.

A gallery fuses a subject's templates, and a fused template is nearer to everybody, strangers among them. So the
same is measured with templates fused of three photos; a threshold is the higher of the two. Where the triples are too
few to show a rate, the single photos' score is raised by what they differed at the last rate that shows.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert.evaluate import PhotoEmbeddings, embed_photos
from convert.photos import photos_in
from kiosk.bundle import read_bundle
from kiosk.gallery import fuse

RATES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
TAIL = 20
TRIPLE = 3
# Fewer impostor scores than this beyond a threshold say little about it.
ENOUGH = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    paths = [str(path.relative_to(arguments.folder)) for path in photos_in(arguments.folder)]
    embeddings = embed_photos(read_bundle(arguments.bundle), arguments.folder, paths, threads=arguments.threads)
    json.dump(measure(embeddings), sys.stdout, indent=2)
    print()


def measure(embeddings: PhotoEmbeddings) -> dict[str, Any]:
    people: dict[str, list[NDArray[np.float32]]] = {}
    for path, embedding in embeddings.by_path.items():
        if embedding is not None:
            people.setdefault(path.split("/")[0], []).append(embedding)
    names = sorted(people)
    first = np.stack([people[name][0] for name in names])
    rows, columns = np.triu_indices(len(names), k=1)
    impostors = (first @ first.T)[rows, columns]
    ranked = np.argsort(-impostors)
    single = impostors[ranked]
    fused = np.sort(fused_impostors(people, first, names))[::-1]
    genuine = [scores for name in names if (scores := genuine_scores(people[name])) is not None]
    return {
        "model": embeddings.model_id,
        "alignment": embeddings.alignment,
        "people": len(names),
        "photos": sum(map(len, people.values())),
        "undetected_photos": sum(embedding is None for embedding in embeddings.by_path.values()),
        "impostor_pairs": len(impostors),
        "genuine_people": len(genuine),
        "genuine_pairs": int(sum(map(len, genuine))),
        "fused_impostor_pairs": len(fused),
        "single": [point(at(single, rate), genuine, rate) for rate in RATES if rate * len(single) >= 1],
        "fused": [point(at(fused, rate), genuine, rate) for rate in RATES if rate * len(fused) >= ENOUGH],
        "thresholds": thresholds(single, fused, genuine),
        "tail": [
            {"a": names[rows[i]], "b": names[columns[i]], "score": round(float(impostors[i]), 4)} for i in ranked[:TAIL]
        ],
    }


def genuine_scores(embeddings: list[NDArray[np.float32]]) -> NDArray[np.float32] | None:
    scores = [float(a @ b) for a, b in combinations(embeddings, 2)]
    return np.array(scores, np.float32) if scores else None


def fused_impostors(
    people: dict[str, list[NDArray[np.float32]]], first: NDArray[np.float32], names: list[str]
) -> NDArray[np.float32]:
    """Scores of three-photo templates against one photo of everybody else."""
    scores = []
    for row, name in enumerate(names):
        if len(people[name]) >= TRIPLE:
            template = fuse(people[name][:TRIPLE])
            scores.append(np.delete(first, row, axis=0) @ template)
    return np.concatenate(scores) if scores else np.empty(0, np.float32)


def thresholds(
    single: NDArray[np.float32], fused: NDArray[np.float32], genuine: list[NDArray[np.float32]]
) -> list[dict[str, float]]:
    points, rise = [], 0.0
    for rate in RATES:
        if rate * len(single) < 1:
            break
        if rate * len(fused) >= ENOUGH:
            rise = max(at(fused, rate) - at(single, rate), 0.0)
        points.append(point(at(single, rate) + rise, genuine, rate))
    return points


def at(descending: NDArray[np.float32], rate: float) -> float:
    """The lowest score that at most ``rate`` of the scores exceed."""
    return float(descending[int(rate * len(descending))])


def point(score: float, genuine: list[NDArray[np.float32]], rate: float) -> dict[str, float]:
    """A score with its rate, and the false non-matches of single photos at it."""
    missed = [float((scores <= score).mean()) for scores in genuine]
    return {"fmr": rate, "score": round(score, 4), "fnmr": round(float(np.mean(missed)), 4)}


if __name__ == "__main__":
    main()
