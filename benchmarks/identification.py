"""Open-set 1:N on people's photos: FNIR at stated FPIR by gallery size, templates a subject and photos a visit.

    python benchmarks/identification.py BUNDLE FOLDER [--threads N]

FOLDER holds one folder per person (LFW's layout). Random galleries are drawn from it; the others are strangers.
Each cell is measured by plain cosine and with the crowd's share taken off (kiosk/thresholds.py), on the same searches.
Intervals: 95 %, people resampled.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thresholds import CROWD_SIZE, CROWD_WEIGHT, People, embed_people

from convert.identification import Scores, identification_figures, keep_scores, random_galleries
from kiosk.bundle import Bundle, read_bundle
from kiosk.thresholds import take_off_crowd

# Gallery size, templates a subject, photos fused a visit. LFW View 1 has few people with many photos.
CELLS = (
    *((size, 1, 1) for size in (50, 100, 200, 500, 1000)),
    *((size, 3, 1) for size in (50, 100, 200)),
    (50, 1, 3), (100, 1, 3),
    (50, 3, 3), (100, 3, 3),
)  # fmt: skip
SEARCHES = 12_000
RESAMPLES = 400


def measure(bundle: Bundle, folder: Path, *, threads: int = 2) -> dict[str, Any]:
    people, _ = embed_people(bundle, folder, threads=threads)
    rules: dict[str, Callable[[Scores], Scores]] = {
        "cosine": keep_scores,
        "crowd": lambda scores: take_off_crowd(scores, CROWD_SIZE, CROWD_WEIGHT),
    }
    return {
        "model": bundle.model_id,
        "people": len(people),
        "cells": [
            {
                "subjects": size,
                "templates": templates,
                "fused": fused,
                **{name: _cell(people, (size, templates, fused), score) for name, score in rules.items()},
            }
            for size, templates, fused in CELLS
        ],
    }


def _cell(people: People, cell: tuple[int, int, int], score: Callable[[Scores], Scores]) -> dict[str, Any]:
    size, templates, fused = cell
    strangers = sum(len(rows) >= fused for rows in people.values()) - size
    rounds = min(max(-(-SEARCHES // max(strangers, 1)), 5), 60)
    searches = random_galleries(people, size=size, templates=templates, fuse=fused, rounds=rounds, score=score)
    figures = identification_figures(searches, resamples=RESAMPLES)
    kept = ("mated_people", "stranger_people", "mated_searches", "stranger_searches", "rank1_rate")
    return {
        **{name: figures[name] for name in kept},
        "fnir": {fpir: _rounded(value) for fpir, value in figures["fnir_at_fpir"].items()},
        "fnir_ci": {
            fpir: None if ci is None else [_rounded(value) for value in ci]
            for fpir, ci in figures["fnir_at_fpir_ci"].items()
        },
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    text = json.dumps(measure(read_bundle(arguments.bundle), arguments.folder, threads=arguments.threads), indent=1)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
