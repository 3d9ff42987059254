"""Score thresholds of a bundle from photos of many people: false match rate, and what it costs in false non-matches.

    python benchmarks/measure_thresholds.py BUNDLE FOLDER > thresholds.json

FOLDER holds one folder per person (LFW's layout). Impostor scores: every pair of different people once, each by the
first photo of theirs in which a face is found. Genuine scores: all pairs of photos of one person, every person
weighing the same. The largest impostor scores are listed, because in LFW they are partly one person under two names:
look at them before believing a threshold at a rate below about 1e-5.
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

RATES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
TAIL = 20


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
        "thresholds": [point(impostors[ranked], genuine, rate) for rate in RATES if rate * len(impostors) >= 1],
        "tail": [
            {"a": names[rows[i]], "b": names[columns[i]], "score": round(float(impostors[i]), 4)} for i in ranked[:TAIL]
        ],
    }


def genuine_scores(embeddings: list[NDArray[np.float32]]) -> NDArray[np.float32] | None:
    scores = [float(a @ b) for a, b in combinations(embeddings, 2)]
    return np.array(scores, np.float32) if scores else None


def point(descending: NDArray[np.float32], genuine: list[NDArray[np.float32]], rate: float) -> dict[str, float]:
    """The lowest score that at most ``rate`` of the impostor scores exceed, and the false non-matches at it."""
    score = float(descending[int(rate * len(descending))])
    missed = [float((scores <= score).mean()) for scores in genuine]
    return {"fmr": rate, "score": round(score, 4), "fnmr": round(float(np.mean(missed)), 4)}


if __name__ == "__main__":
    main()
