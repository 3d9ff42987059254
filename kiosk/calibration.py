"""A threshold that holds at this door: how the people enrolled here differ from those the bundle was measured on.

Every enrolled photo is searched in the gallery without its own subject, as a stranger's would be; photos of real
strangers may be added. Where these searches score higher than the bundle says strangers do, the threshold moves up by
the difference. Pure arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from kiosk.biometrics import Embedding, SubjectId, Template
from kiosk.errors import InputError
from kiosk.gallery import Gallery
from kiosk.thresholds import SearchScores

Scores = NDArray[np.float64]

_LEAST_SEARCHES = 30
_LEAST_PEOPLE = 10
# A rate that fewer searches than this reach says little.
_LEAST_EVENTS = 10
# Rates above it describe the middle of the distribution, where a threshold never lies.
_HIGHEST_RATE = 0.2
_RATES_USED = 3
_RESAMPLES = 1000
_SEED = 20180402
_INTERVAL = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class StrangerSearches:
    """Searches by people who are not in the gallery; ``scores[i]`` (n,) is the best of ``people[i]``'s, crowd's share
    taken off.
    """

    scores: Scores
    people: tuple[str, ...]

    def __add__(self, other: StrangerSearches) -> StrangerSearches:
        return StrangerSearches(np.concatenate([self.scores, other.scores]), self.people + other.people)


@dataclass(frozen=True, slots=True)
class AlikePair:
    """Two enrolled subjects who cannot be told apart: a photo of ``a`` would be taken for ``b`` at the threshold."""

    a: SubjectId
    b: SubjectId
    score: float


class Calibration(BaseModel):
    """What was measured at this door, and what follows: ``score_shift`` is added to the bundle's threshold.

    ``measured_shift``: mean difference of the scores at ``rates`` from the bundle's, with its 95 % interval from
    resampling people.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    created_at: str
    subjects: int
    searches: int
    people: int
    stranger_photos: int = 0
    rates: tuple[float, ...]
    measured_shift: float
    interval: tuple[float, float]
    score_shift: float = Field(ge=-2, le=2)


def search_without_own(templates: Sequence[Template], gallery: Gallery, search: SearchScores) -> StrangerSearches:
    """Every template of the gallery's model, searched among all other subjects."""
    rows = [template for template in templates if template.model_id == gallery.model_id]
    # Of two subjects one would be left: no crowd, and nothing that was measured to compare with.
    if len(gallery) < 3:
        return StrangerSearches(np.empty(0), ())
    similarities = np.stack([row.embedding for row in rows]).astype(np.float64) @ gallery.matrix.T.astype(np.float64)
    column = {subject: index for index, subject in enumerate(gallery.subjects)}
    similarities[np.arange(len(rows)), [column[row.subject_id] for row in rows]] = -np.inf
    best = search.take_off_crowd(similarities).max(axis=1)
    return StrangerSearches(best, tuple(row.subject_id for row in rows))


def search_strangers(
    embeddings: Sequence[Embedding], people: Sequence[str], gallery: Gallery, search: SearchScores
) -> StrangerSearches:
    """Photos of people who are not enrolled, searched in the whole gallery."""
    if not embeddings or not len(gallery):
        return StrangerSearches(np.empty(0), ())
    similarities = np.stack(embeddings).astype(np.float64) @ gallery.matrix.T.astype(np.float64)
    return StrangerSearches(search.take_off_crowd(similarities).max(axis=1), tuple(people))


def own_scores(templates: Sequence[Template], gallery: Gallery, search: SearchScores) -> Scores:
    """Each photo of a subject with several against the others of that subject, crowd's share taken off: (n,)."""
    by_subject: dict[SubjectId, list[Embedding]] = {}
    for template in templates:
        if template.model_id == gallery.model_id:
            by_subject.setdefault(template.subject_id, []).append(template.embedding)
    scores = []
    for index, subject in enumerate(gallery.subjects):
        rows = np.stack(by_subject[subject]).astype(np.float64)
        if len(rows) < 2:
            continue
        rest = rows.sum(axis=0) - rows
        rest /= np.linalg.norm(rest, axis=1, keepdims=True)
        similarities = rows @ gallery.matrix.T.astype(np.float64)
        similarities[:, index] = np.einsum("nd,nd->n", rows, rest)
        scores.append(search.take_off_crowd(similarities)[:, index])
    return np.concatenate(scores) if scores else np.empty(0)


def find_alike(gallery: Gallery, search: SearchScores, threshold: float) -> list[AlikePair]:
    """Pairs of subjects whose fused templates are as alike as one person's; most alike first."""
    if len(gallery) < 3:
        return []
    similarities = (gallery.matrix @ gallery.matrix.T).astype(np.float64)
    np.fill_diagonal(similarities, -np.inf)
    adjusted = search.take_off_crowd(similarities)
    rows, columns = np.nonzero(adjusted >= threshold)
    pairs = {(min(a, b), max(a, b)) for a, b in zip(rows.tolist(), columns.tolist(), strict=True)}
    found = [AlikePair(gallery.subjects[a], gallery.subjects[b], float(similarities[a, b])) for a, b in pairs]
    return sorted(found, key=lambda pair: -pair.score)


def calibrate(
    searches: StrangerSearches, gallery: Gallery, search: SearchScores, *, created_at: str, stranger_photos: int = 0
) -> Calibration:
    """How far the threshold must move for this gallery.

    It moves up by the measured difference, and down only as far as the whole interval allows: a mistake upwards costs a
    second look, a mistake downwards lets somebody in.

    Raises:
        InputError: too few people or searches to say anything.
    """
    people, photos = len(set(searches.people)), len(searches.scores)
    if people < _LEAST_PEOPLE or photos < _LEAST_SEARCHES:
        if not people:
            # So few that none was searched: told are those there are.
            people, photos = len(gallery), gallery.template_count
        raise InputError(
            f"{people} people with {photos} photos are too few to calibrate with ({_LEAST_PEOPLE} people "
            f"and {_LEAST_SEARCHES} photos are needed); enroll more, or give photos of others with --strangers"
        )
    rates = _usable_rates(len(searches.scores), search)
    expected = np.array([search.threshold(gallery.subjects_by_templates, rate) for rate in rates])
    low, high = np.percentile(_resampled_shifts(searches, rates, expected), _INTERVAL)
    shift = float((_quantiles(searches.scores, rates) - expected).mean())
    return Calibration(
        model=gallery.model_id,
        created_at=created_at,
        subjects=len(gallery),
        searches=len(searches.scores),
        people=people,
        stranger_photos=stranger_photos,
        rates=rates,
        measured_shift=round(shift, 4),
        interval=(round(float(low), 4), round(float(high), 4)),
        score_shift=round(shift if shift > 0 else min(0.0, float(high)), 4),
    )


def _usable_rates(searches: int, search: SearchScores) -> tuple[float, ...]:
    """The lowest rates that enough searches show."""
    shown = [rate for rate in search.fpirs if rate <= _HIGHEST_RATE and rate * searches >= _LEAST_EVENTS]
    return tuple(shown[-_RATES_USED:]) or (_LEAST_EVENTS / searches,)


def _quantiles(scores: Scores, rates: Sequence[float]) -> Scores:
    """The scores that these shares of ``scores`` (..., n) reach."""
    quantiles: Scores = np.quantile(scores, 1 - np.array(rates), axis=-1)
    return quantiles


def _resampled_shifts(searches: StrangerSearches, rates: Sequence[float], expected: Scores) -> Scores:
    """Photos of one person are no independent evidence: people are drawn, with all their searches."""
    random = np.random.default_rng(_SEED)
    by_person: dict[str, list[float]] = {}
    for person, score in zip(searches.people, searches.scores.tolist(), strict=True):
        by_person.setdefault(person, []).append(score)
    rows = [np.array(scores) for scores in by_person.values()]
    shifts = []
    for _ in range(_RESAMPLES):
        drawn = np.concatenate([rows[index] for index in random.integers(len(rows), size=len(rows))])
        shifts.append(float((_quantiles(drawn, rates) - expected).mean()))
    return np.array(shifts)
