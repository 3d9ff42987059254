"""Open-set 1:N identification from folders of photos: who is enrolled, who comes back, and who is a stranger."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert.identification import (
    Embeddings,
    ScoreRule,
    Searches,
    figures_at,
    fuse_rows,
    identification_figures,
    keep_scores,
    search_gallery,
)
from convert.photos import photos_of_people
from kiosk.biometrics import Embedding
from kiosk.bundle import Bundle
from kiosk.errors import InputError, ModelError

STATED_FPIRS = ("0.01", "0.001")

Visit = tuple[str, tuple[Path, ...]]
"""A person and the photos that are fused to one probe."""


@dataclass(frozen=True, slots=True)
class OpenSet:
    """Photos enrolled per subject, and those of each search by a subject or a stranger."""

    enrolled: Mapping[str, tuple[Path, ...]]
    mated: Sequence[Visit]
    strangers: Sequence[Visit]
    left_out: int
    """Photos of probes and strangers that were too few for another search."""

    @property
    def paths(self) -> list[Path]:
        visits = [*self.enrolled.values(), *(photos for _, photos in [*self.mated, *self.strangers])]
        return [path for photos in visits for path in photos]


def read_open_set(gallery: Path, probes: Path, strangers: Path, *, templates: int | None, fuse: int) -> OpenSet:
    """Folders ``DIR/<subject>/*.jpg``. The first ``templates`` photos of each subject (by name; None: all) are
    enrolled; ``fuse`` photos in a row make a search, what remains of a person's photos is left out.

    Raises:
        InputError: a folder is missing or empty, somebody is on the wrong side, a photo is both enrolled and searched,
            or nobody has enough photos for a search.
    """
    enrolled = {name: tuple(paths[:templates]) for name, paths in photos_of_people(gallery).items()}
    mated, others = photos_of_people(probes), photos_of_people(strangers)
    unknown = next((name for name in mated if name not in enrolled), None)
    if unknown is not None:
        raise InputError(f"{probes / unknown}: not in {gallery}; move it to --strangers or enroll this subject")
    known = next((name for name in others if name in enrolled), None)
    if known is not None:
        raise InputError(f"{strangers / known}: in {gallery}, too: no stranger; move it to --probes or rename it")
    _refuse_repeats(enrolled, mated)
    visits = _visits(mated, fuse), _visits(others, fuse)
    for folder, found in zip((probes, strangers), visits, strict=True):
        if not found:
            raise InputError(f"{folder}: nobody in it has the {fuse} photos a search needs; use a smaller --fuse")
    there = sum(map(len, [*mated.values(), *others.values()]))
    return OpenSet(enrolled, *visits, there - fuse * sum(map(len, visits)))


def _visits(people: Mapping[str, Sequence[Path]], fuse: int) -> list[Visit]:
    return [
        (name, tuple(paths[start : start + fuse]))
        for name, paths in people.items()
        for start in range(0, len(paths) - fuse + 1, fuse)
    ]


def _refuse_repeats(enrolled: Mapping[str, Sequence[Path]], mated: Mapping[str, Sequence[Path]]) -> None:
    """A photo that finds itself proves nothing."""
    hashes = {_sha256(path): path for paths in enrolled.values() for path in paths}
    for paths in mated.values():
        for path in paths:
            if twin := hashes.get(_sha256(path)):
                raise InputError(f"{path}: the same photo as {twin}, which is enrolled; search with other photos")


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; check its permissions") from error


def search_open_set(
    photos: OpenSet, embedding: Callable[[Path], Embedding | None], *, score: ScoreRule = keep_scores
) -> Searches:
    """Enroll, and search with everybody; ``embedding`` gives that of a photo, None without a face."""

    def rows(paths: Sequence[Path]) -> list[Embedding | None]:
        return [embedding(path) for path in paths]

    dimension = next((len(found) for path in photos.paths if (found := embedding(path)) is not None), 1)

    def fuse(paths: Sequence[Path]) -> Embeddings:
        missing = np.full(dimension, np.nan, np.float32)
        return fuse_rows(np.stack([missing if row is None else row for row in rows(paths)]))

    return search_gallery(
        list(photos.enrolled),
        np.stack([fuse(paths) for paths in photos.enrolled.values()]),
        [(name, fuse(paths)) for name, paths in photos.mated],
        [(name, fuse(paths)) for name, paths in photos.strangers],
        score=score,
    )


def open_set_figures(
    photos: OpenSet, searches: Searches, bundle: Bundle, alignment: str, embedding: Callable[[Path], Embedding | None]
) -> dict[str, Any]:
    """All identification figures, unrounded: see :func:`identification_figures`; and at the automatic thresholds."""
    not_enrolled = [
        name for name, paths in photos.enrolled.items() if all(embedding(path) is None for path in paths)
    ]  # fmt: skip
    counts = [sum(embedding(path) is not None for path in paths) for paths in photos.enrolled.values()]
    templates = [count for count in counts if count]
    return {
        "enrolled": len(templates),
        "failed_to_enroll": not_enrolled,
        "templates_per_subject": {
            "min": min(templates, default=0),
            "median": float(np.median(templates)) if templates else 0.0,
            "max": max(templates, default=0),
        },
        "photos_per_search": len(photos.mated[0][1]),
        "left_out_photos": photos.left_out,
        "undetected_mated_searches": _undetected(photos.mated, embedding),
        "undetected_stranger_searches": _undetected(photos.strangers, embedding),
        **identification_figures(searches),
        "automatic": [
            {
                "stated_fpir": float(fpir),
                **_at_automatic_threshold(searches, bundle, alignment, templates, float(fpir)),
            }
            for fpir in STATED_FPIRS
        ],
    }


def _undetected(visits: Sequence[Visit], embedding: Callable[[Path], Embedding | None]) -> int:
    return sum(all(embedding(path) is None for path in paths) for _, paths in visits)


def _at_automatic_threshold(
    searches: Searches, bundle: Bundle, alignment: str, templates: Sequence[int], fpir: float
) -> dict[str, Any]:
    try:
        threshold = automatic_threshold(bundle, alignment, templates, fpir)
    except ModelError as error:
        return {"threshold": None, "fpir": None, "fpir_ci": None, "fnir": None, "fnir_ci": None, "reason": str(error)}
    return figures_at(searches, threshold)


def automatic_threshold(bundle: Bundle, alignment: str, templates: Sequence[int], fpir: float) -> float:
    """The score that ``match.threshold: auto`` chooses for a stated FPIR and a gallery: ``templates`` of each subject.

    Raises:
        ModelError: no error rates were measured for this bundle with this alignment.
    """
    if alignment != bundle.manifest.alignment:
        raise ModelError(f"no error rates were measured for {bundle.manifest.name} with {alignment}")
    return bundle.search_scores().threshold(Counter(templates), fpir)


def score_rule(bundle: Bundle, alignment: str) -> ScoreRule:
    """How the kiosk scores searches: with automatic thresholds the crowd's share is taken off."""
    if bundle.manifest.search is None or alignment != bundle.manifest.alignment:
        return keep_scores
    return bundle.manifest.search.take_off_crowd


def find_wrong_searches(
    photos: OpenSet,
    searches: Searches,
    threshold: float,
    embedding: Callable[[Path], Embedding | None],
    others: Callable[[Path], Sequence[Embedding]],
) -> list[Path]:
    """Photos of missed mated searches in which another detected face is so much more like the right subject than the
    chosen one that the search would have reached the threshold.
    """
    templates = {
        name: fuse_rows(np.stack(found))
        for name, paths in photos.enrolled.items()
        if (found := [row for path in paths if (row := embedding(path)) is not None])
    }
    with np.errstate(invalid="ignore"):
        missed = ~(searches.first & (searches.own_scores >= threshold))
    wrong = []
    for (name, paths), is_missed, own in zip(photos.mated, missed.tolist(), searches.own_scores.tolist(), strict=True):
        template = templates.get(name)
        if not is_missed or template is None:
            continue
        for path in paths:
            chosen = embedding(path)
            if chosen is None or own >= threshold:
                continue
            if any(float((other - chosen) @ template) >= threshold - own for other in others(path)):
                wrong.append(path)
    return wrong
