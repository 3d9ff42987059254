"""Score distributions of a bundle from photos of many people: what its manifest needs for automatic thresholds.

    python benchmarks/thresholds.py BUNDLE FOLDER [--threads N] [--record]

FOLDER holds one folder per person (LFW's layout). Embeddings are made as photos are (plain and mirrored). Measured:

- 1:1: false match rates of single comparisons (every pair of different people once) with their scores.
- 1:N: random galleries of several sizes, with one to three fused templates a subject; everybody else is a stranger who
  is searched once. The score that a share of the strangers reaches, the crowd's share taken off, for every size. Where
  too few people have three photos, the difference to single templates at the largest measured size is carried on.
- how far such thresholds hold: fitted on half of the people, the FPIR measured on the other half.

``--record`` writes 1:1 and 1:N into convert/measured.json, for the next build of this network.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert.identification import Searches, random_galleries
from convert.photos import photos_of_people
from convert.pipelines import open_pipelines, watch_photos
from kiosk.bundle import Bundle, read_bundle
from kiosk.thresholds import SearchScores, StrangerScores, take_off_crowd

Embeddings = NDArray[np.float32]
People = Mapping[str, Embeddings]

FMRS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
FPIRS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
TEMPLATES = (1, 2, 3)
CROWD_SIZE, CROWD_WEIGHT = 5, 0.5
# Enough random galleries that each size sees this many strangers' searches.
SEARCHES = 30_000
LEAST_STRANGERS = 200
TAIL = 10
HOLD_OUT_SIZES = (10, 50, 200, 500)
HOLD_OUT_RATES = (0.01, 0.001)
HOLD_OUT_SPLITS = 6
SEED = 20180402
MEASURED = Path(__file__).parent.parent / "convert" / "measured.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    figures = measure(read_bundle(arguments.bundle), arguments.folder, threads=arguments.threads)
    if arguments.record:
        record(read_bundle(arguments.bundle), figures)
    text = json.dumps(figures, indent=1) + "\n"
    sys.stdout.write(text)


def measure(bundle: Bundle, folder: Path, *, threads: int = 2) -> dict[str, Any]:
    people, photos = embed_people(bundle, folder, threads=threads)
    found = sum(map(len, people.values()))
    measured_on = f"LFW View 1: {found} photos of {len(people)} people, {bundle.model_id}, {bundle.manifest.alignment}"
    search = search_scores(people, measured_on=measured_on)
    return {
        "model": bundle.model_id,
        "alignment": bundle.manifest.alignment,
        "people": len(people),
        "photos": photos,
        "undetected_photos": photos - found,
        **comparisons(people),
        "search": search.model_dump(mode="json"),
        "held_out": held_out(people),
    }


def record(bundle: Bundle, figures: dict[str, Any]) -> None:
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    own = measured.setdefault(bundle.manifest.architecture, {})
    own["thresholds"] = [{"fmr": point["fmr"], "score": point["score"]} for point in figures["comparisons"]]
    own["thresholds_measured_on"] = (
        f"{figures['search']['measured_on']}; {figures['impostor_pairs']} pairs of different people, one photo each"
    )
    own["search"] = figures["search"]
    MEASURED.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


def embed_people(bundle: Bundle, folder: Path, *, threads: int) -> tuple[dict[str, Embeddings], int]:
    """The embeddings (photos, d) of everybody with a face found, and how many photos there are."""
    paths = photos_of_people(folder)
    pipelines = open_pipelines([bundle], ["blazeface"], threads=threads)
    sightings = watch_photos(pipelines, [path for found in paths.values() for path in found])[0]
    rows = {
        name: [row for path in found if (row := sightings.embedding(path)) is not None] for name, found in paths.items()
    }
    return {name: np.stack(found) for name, found in rows.items() if found}, len(sightings.by_path)


def comparisons(people: People) -> dict[str, Any]:
    """Single comparisons: impostors by the first photo of everybody, genuine by all pairs, people weighing the same."""
    names = sorted(people)
    first = np.stack([people[name][0] for name in names])
    rows, columns = np.triu_indices(len(names), k=1)
    scores = (first @ first.T)[rows, columns]
    order = np.argsort(-scores)
    genuine = [[float(a @ b) for a, b in combinations(people[name], 2)] for name in names if len(people[name]) > 1]
    points = []
    for rate in FMRS:
        if rate * len(scores) < 1:
            break
        score = float(scores[order[int(rate * len(scores))]])
        missed = float(np.mean([np.mean(np.array(own) <= score) for own in genuine]))
        points.append({"fmr": rate, "score": round(score, 4), "fnmr": round(missed, 4)})
    return {
        "impostor_pairs": len(scores),
        "genuine_people": len(genuine),
        "comparisons": points,
        # In LFW the highest are partly one person under two names: look at them before believing a rate below 1e-5.
        "tail": [[names[rows[i]], names[columns[i]], round(float(scores[i]), 4)] for i in order[:TAIL]],
    }


def search_scores(people: People, *, measured_on: str, seed: int = SEED) -> SearchScores:
    galleries = [
        stranger_scores(people, size, templates, seed)
        for templates in TEMPLATES
        for size in SIZES
        if len(people) - size >= LEAST_STRANGERS and size <= able(people, templates)
    ]
    return SearchScores(
        crowd_size=CROWD_SIZE,
        crowd_weight=CROWD_WEIGHT,
        fpirs=FPIRS,
        galleries=tuple(galleries + carried_on(galleries)),
        measured_on=measured_on,
    )


def able(people: People, templates: int) -> int:
    """How many people can be enrolled with so many photos; not all, so that galleries differ."""
    count = sum(len(rows) >= templates for rows in people.values())
    return count if templates == 1 else int(count * 0.9)


def search(people: People, size: int, templates: int, seed: int) -> Searches:
    rounds = max(-(-SEARCHES // (len(people) - size)), 10)
    return random_galleries(
        people,
        size=size,
        templates=templates,
        rounds=rounds,
        seed=seed,
        score=lambda scores: take_off_crowd(scores, CROWD_SIZE, CROWD_WEIGHT),
    )


def stranger_scores(people: People, size: int, templates: int, seed: int) -> StrangerScores:
    found = search(people, size, templates, seed)
    scores = np.quantile(found.nearest_scores, 1 - np.array(FPIRS))
    fnirs = [float(1 - (found.first & (found.own_scores >= score)).mean()) for score in scores]
    return StrangerScores(
        subjects=size,
        templates=templates,
        scores=tuple(round(float(score), 4) for score in scores),
        fnirs=tuple(round(rate, 4) for rate in fnirs),
    )


def carried_on(galleries: list[StrangerScores]) -> list[StrangerScores]:
    """Sizes that fused templates could not fill: single templates' scores, raised as at the largest measured size."""
    single = {g.subjects: g for g in galleries if g.templates == 1}
    more = []
    for templates in TEMPLATES[1:]:
        measured = [g for g in galleries if g.templates == templates]
        last = measured[-1]
        rise = np.array(last.scores) - np.array(single[last.subjects].scores)
        for size in sorted(single):
            if size > last.subjects:
                scores = tuple(round(float(s), 4) for s in np.array(single[size].scores) + rise)
                more.append(StrangerScores(subjects=size, templates=templates, scores=scores))
    return more


def held_out(people: People) -> list[dict[str, Any]]:
    """Thresholds from half of the people, the FPIR at them among the others; over several random halves."""
    random = np.random.default_rng(SEED)
    names = np.array(sorted(people))
    rows: dict[tuple[int, int, float], list[float]] = {}
    for split in range(HOLD_OUT_SPLITS // 2):
        shuffled = random.permutation(names)
        halves = [{name: people[name] for name in part} for part in np.array_split(shuffled, 2)]
        for fitted, other in (halves, halves[::-1]):
            scores = search_scores(fitted, measured_on="half", seed=SEED + split)
            for templates in (1, 3):
                for size in HOLD_OUT_SIZES:
                    if size > able(other, templates) or len(other) - size < LEAST_STRANGERS:
                        continue
                    found = search(other, size, templates, SEED + 100 + split)
                    for rate in HOLD_OUT_RATES:
                        threshold = scores.threshold({templates: size}, rate)
                        measured = float((found.nearest_scores >= threshold).mean())
                        rows.setdefault((templates, size, rate), []).append(measured)
    return [
        {
            "templates": templates,
            "subjects": size,
            "fpir": rate,
            "measured": [round(value, 5) for value in sorted(values)],
            "mean": round(float(np.mean(values)), 5),
        }
        for (templates, size, rate), values in sorted(rows.items())
    ]


if __name__ == "__main__":
    main()
