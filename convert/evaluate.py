"""`kiosk-convert evaluate`: verification over pairs and open-set identification, by the runtime's own detector,
alignment and embedder; any number of bundles and detectors side by side on the same photos.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.bootstrap import LEVEL, RESAMPLES, SEED
from convert.identification import Searches
from convert.openset import OpenSet, find_wrong_searches, open_set_figures, score_rule, search_open_set
from convert.pairs import Pair
from convert.photos import opencv_threads
from convert.pipelines import (
    FACE_RULE,
    Pipeline,
    Sightings,
    embed_other_faces,
    watch_photos,
)
from convert.results import Result, round_figures
from convert.verification import WRONG_FACE_RULE, compare, find_wrong_faces, verification_figures
from kiosk.biometrics import Embedding


@dataclass(frozen=True, slots=True)
class PairList:
    """Labelled pairs of photos in a folder."""

    images: Path
    pairs: Sequence[Pair]

    @property
    def paths(self) -> list[Path]:
        return [self.images / path for pair in self.pairs for path in (pair.path_a, pair.path_b)]


@dataclass(frozen=True, slots=True)
class Task:
    """What to measure: pairs, an open set, or both on the same pipelines."""

    pairs: PairList | None
    open_set: OpenSet | None

    @property
    def paths(self) -> list[Path]:
        return [path for part in (self.pairs, self.open_set) if part is not None for path in part.paths]


def evaluate(
    pipelines: Sequence[Pipeline], task: Task, *, threads: int, say: Callable[[str], None] = lambda _: None
) -> list[Result]:
    """One result a pipeline, in their order; a progress bar on stderr.

    Raises:
        InputError: a photo is missing, or none can be read.
        ModelError: a bundle returned no usable embedding.
    """
    watched = watch_photos(pipelines, task.paths, say=say)
    return [
        _make_result(label, sightings, task, threads)
        for label, sightings in zip(_labels(pipelines), watched, strict=True)
    ]


def _labels(pipelines: Sequence[Pipeline]) -> list[str]:
    """Bundle and detector; numbered where two bundles have one name."""
    labels: list[str] = []
    for pipeline in pipelines:
        name, number = pipeline.bundle.manifest.name, 1
        while (label := f"{name}{f'#{number}' if number > 1 else ''}, {pipeline.detector_name}") in labels:
            number += 1
        labels.append(label)
    return labels


def _make_result(label: str, sightings: Sightings, task: Task, threads: int) -> Result:
    pipeline = sightings.pipeline
    document: dict[str, Any] = {
        "model": pipeline.embedder.model_id,
        "bundle": str(pipeline.bundle.folder),
        "detector": pipeline.detector_name,
        "alignment": pipeline.embedder.alignment,
        "photos": len(sightings.by_path),
        "undetected_photos": sum(seen.embedding is None for seen in sightings.by_path.values()),
        "stages": _stages(sightings),
        "timing": {**sightings.medians_ms(), "embedder_threads": threads, "opencv_threads": opencv_threads()},
        "confidence": {"level": LEVEL, "method": "percentiles, people resampled", "resamples": RESAMPLES, "seed": SEED},
    }
    others = _remember(lambda path: embed_other_faces(pipeline, path), sightings)
    comparisons = searches = None
    if task.pairs is not None:
        images = task.pairs.images
        comparisons = compare(task.pairs.pairs, lambda path: sightings.embedding(images / path))
        figures = verification_figures(comparisons)
        wrong = find_wrong_faces(
            comparisons,
            figures["threshold"],
            lambda path: sightings.embedding(images / path),
            lambda path: others(images / path),
        )
        document |= figures
        document["stages"] |= {
            "wrong_face": [[pair.path_a, pair.path_b] for pair in wrong],
            "wrong_face_rule": WRONG_FACE_RULE,
        }
    if task.open_set is not None:
        score = score_rule(pipeline.bundle, pipeline.embedder.alignment)
        searches = search_open_set(task.open_set, sightings.embedding, score=score)
        figures = open_set_figures(
            task.open_set, searches, pipeline.bundle, pipeline.embedder.alignment, sightings.embedding
        )
        document["identification"] = figures | {
            "wrong_face": _wrong_searches(task.open_set, searches, figures, sightings, others)
        }
    return Result(label, round_figures(document), comparisons, searches)


def _wrong_searches(
    photos: OpenSet,
    searches: Searches,
    figures: dict[str, Any],
    sightings: Sightings,
    others: Callable[[Path], Sequence[Embedding]],
) -> list[str] | None:
    """Photos in which the wrong face was taken, at the threshold of FPIR 1 % (the measured, else the automatic one);
    None without either.
    """
    threshold = figures["threshold_at_fpir"]["0.01"]
    if threshold is None:
        threshold = figures["automatic"][0]["threshold"]
    if threshold is None:
        return None
    return [str(path) for path in find_wrong_searches(photos, searches, threshold, sightings.embedding, others)]


def _stages(sightings: Sightings) -> dict[str, Any]:
    """Photos by the stage they failed at, and those where a face had to be chosen."""
    seen = sightings.by_path.items()
    return {
        "unreadable": [str(path) for path, one in seen if not one.readable],
        "no_face": [str(path) for path, one in seen if one.readable and not one.faces],
        "several_faces": [str(path) for path, one in seen if one.faces > 1],
        "face_rule": FACE_RULE,
    }


def _remember(
    embed: Callable[[Path], Sequence[Embedding]], sightings: Sightings
) -> Callable[[Path], Sequence[Embedding]]:
    """Embeds the other faces of a photo once, and only where there are any."""
    known: dict[Path, Sequence[Embedding]] = {}

    def others(path: Path) -> Sequence[Embedding]:
        if sightings.by_path[path].faces < 2:
            return ()
        if path not in known:
            known[path] = embed(path)
        return known[path]

    return others


# --- for other programs -----------------------------------------------------------------------------------------------
