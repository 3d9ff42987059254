"""Open-set 1:N identification from embeddings: searches by enrolled people and by strangers, and their error rates.

FNIR: the share of searches by an enrolled person in which that person is not first with a score that reaches the
threshold. FPIR: the share of searches by strangers in which anybody's score reaches it. (NIST, FRVT part 2:
identification; rank is 1.) A search without a face counts: a mated one as a miss, a stranger's as not identified.

Pure numpy: no photo, no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert.bootstrap import RESAMPLES, SEED, intervals, resample_people
from convert.metrics import (
    Curve,
    Flags,
    Scores,
    make_curve,
    threshold_at,
    true_accept_rate,
    true_accept_rates,
    unresolved,
)
from kiosk.errors import InputError

Embeddings = NDArray[np.float32]
"""Rows of L2-normalised embeddings (n, d); a row of NaN is a photo in which no face was found."""

Names = NDArray[np.str_]
Indices = NDArray[np.intp]

ScoreRule = Callable[[Scores], Scores]
"""From cosine similarities (probes, templates) to the scores that are compared with a threshold, of the same shape.
Rows and columns without an embedding are left out of what it gets."""

FPIRS = ("0.01", "0.001")


def keep_scores(similarities: Scores) -> Scores:
    """The similarities themselves are the scores."""
    return similarities


@dataclass(frozen=True, slots=True)
class Searches:
    """The outcome of many searches; arrays of one entry a search: m by enrolled people, s by strangers.

    A score is NaN where there was nothing to compare: no face in the searched photos, or none in the enrolled ones.
    """

    mated_people: Names
    own_scores: Scores
    """The right subject's score (m,)."""
    other_people: Names
    other_scores: Scores
    """The best other subject's (m,); -inf in a gallery without others."""
    stranger_people: Names
    nearest_people: Names
    nearest_scores: Scores
    """The best subject's score (s,)."""

    @property
    def first(self) -> Flags:
        """Whether the right subject came first, alone (m,)."""
        with np.errstate(invalid="ignore"):
            return self.own_scores > self.other_scores

    def curve(self, weights: Scores | None = None) -> Curve:
        """Hits of enrolled people as true accepts, strangers identified as false accepts: FNIR is 1 - TAR, FPIR is FAR.

        ``weights``: (resamples, m + s).
        """
        hits = np.where(self.first, self.own_scores, np.nan)
        scores = np.concatenate([hits, self.nearest_scores])
        return make_curve(scores, np.arange(len(scores)) < len(hits), weights)


def fuse_rows(rows: Embeddings) -> Embeddings:
    """The L2-normalised mean of the rows (n, d) that are there, as the kiosk fuses templates; NaN when none is."""
    found = rows[~np.isnan(rows).any(axis=1)]
    if not len(found):
        return np.full(rows.shape[1], np.nan, np.float32)
    mean = found.mean(axis=0)
    fused: Embeddings = (mean / np.linalg.norm(mean)).astype(np.float32)
    return fused


def search_gallery(
    subjects: Sequence[str],
    templates: Embeddings,
    mated: Sequence[tuple[str, Embeddings]],
    strangers: Sequence[tuple[str, Embeddings]],
    *,
    score: ScoreRule = keep_scores,
) -> Searches:
    """Search a gallery of one template a subject (subjects, d) with probes of its own people and of others.

    ``mated``, ``strangers``: person and probe (d,), one entry a search; each mated person is one of the subjects.
    """
    names = np.array(subjects, dtype=np.str_)
    rows = {name: row for row, name in enumerate(subjects)}
    own, other, best_other = _compare(mated, templates, np.array([rows[name] for name, _ in mated], np.intp), score)
    _, nearest, best = _compare(strangers, templates, None, score)
    return Searches(
        mated_people=_names(mated),
        own_scores=own,
        other_people=names[best_other],
        other_scores=other,
        stranger_people=_names(strangers),
        nearest_people=names[best],
        nearest_scores=nearest,
    )


def _names(probes: Sequence[tuple[str, Embeddings]]) -> Names:
    return np.array([name for name, _ in probes], dtype=np.str_)


def _compare(
    probes: Sequence[tuple[str, Embeddings]], templates: Embeddings, right: Indices | None, score: ScoreRule
) -> tuple[Scores, Scores, Indices]:
    """Of each probe the score of its right template, the best score of all others, and which one that is."""
    if not probes:
        return np.empty(0), np.empty(0), np.empty(0, np.intp)
    matrix = np.stack([probe for _, probe in probes]).astype(np.float64)
    searched, enrolled = ~np.isnan(matrix[:, 0]), ~np.isnan(templates[:, 0])
    scores = np.full((len(matrix), len(templates)), -np.inf)
    scores[np.ix_(searched, enrolled)] = score(matrix[searched] @ templates[enrolled].astype(np.float64).T)
    own = np.full(len(matrix), np.nan)
    if right is not None:
        each = np.arange(len(matrix))
        own = np.where(searched & enrolled[right], scores[each, right], np.nan)
        scores[each, right] = -np.inf
    best = scores.argmax(axis=1)
    others = scores.max(axis=1)
    return own, np.where(searched, others, np.nan), np.asarray(best)


def random_galleries(
    people: Mapping[str, Embeddings],
    *,
    size: int,
    templates: int = 1,
    fuse: int = 1,
    rounds: int = 10,
    seed: int = SEED,
    partial: bool = False,
    score: ScoreRule = keep_scores,
) -> Searches:
    """Searches in many random galleries drawn from one pool of people, with the kiosk's fused templates.

    In every round ``size`` people are enrolled, each with ``templates`` of their photos. Those of them who have
    ``fuse`` more photos are searched once, with a probe fused of that many; everybody who is not enrolled and has
    ``fuse`` photos is searched once as a stranger. Who can be both enrolled and searched is enrolled first.

    ``partial``: where too few people have that many photos, the gallery is filled up with people who have fewer (they
    are not searched), and every stranger is searched with what there is. Fewer photos a template or probe make lower
    scores: FPIR then comes out too low.

    ``people``: embeddings (photos, d) of each. ``score``: see :data:`ScoreRule`; called once a round for the mated
    probes and once for the strangers'.

    Raises:
        InputError: too few people have enough photos.
    """
    draw = _Draw(size, templates, fuse, partial)
    random = np.random.default_rng(seed)
    return join_searches([_search_random_gallery(people, draw, random, score) for _ in range(rounds)])


@dataclass(frozen=True, slots=True)
class _Draw:
    """What every random gallery has in common: see :func:`random_galleries`."""

    size: int
    templates: int
    fuse: int
    partial: bool


def _search_random_gallery(
    people: Mapping[str, Embeddings], draw: _Draw, random: np.random.Generator, score: ScoreRule
) -> Searches:
    names = sorted(people)
    photos = {name: people[name][random.permutation(len(people[name]))] for name in names}
    enrolled = _draw_subjects(random, {name: len(photos[name]) for name in names}, draw)
    templates = np.stack([fuse_rows(photos[name][: draw.templates]) for name in enrolled])
    needed = draw.templates + draw.fuse
    mated = [
        (name, fuse_rows(photos[name][draw.templates : needed])) for name in enrolled if len(photos[name]) >= needed
    ]
    least, chosen = 1 if draw.partial else draw.fuse, set(enrolled)
    strangers = [
        (name, fuse_rows(photos[name][: draw.fuse]))
        for name in names
        if name not in chosen and len(photos[name]) >= least
    ]
    if not mated or not strangers:
        raise InputError(
            f"{draw.size} of {len(names)} people enrolled leave {len(mated)} of them and {len(strangers)} strangers "
            f"with {draw.fuse} photos to search; use a smaller gallery or more photos"
        )
    return search_gallery(enrolled, templates, mated, strangers, score=score)


def _draw_subjects(random: np.random.Generator, photos: Mapping[str, int], draw: _Draw) -> list[str]:
    """Whom to enroll, at random within each group: who can also be searched, who has enough templates, the rest."""
    names, counts = list(photos), np.array(list(photos.values()))
    able = len(names) if draw.partial else int((counts >= draw.templates).sum())
    if draw.size > able:
        raise InputError(
            f"a gallery of {draw.size} with {draw.templates} photos a subject: only {able} of {len(names)} people have "
            "that many; use a smaller gallery, fewer templates or more photos"
        )
    group = np.select([counts >= draw.templates + draw.fuse, counts >= draw.templates], [0, 1], 2)
    order = random.permutation(len(names))
    ranked = order[np.argsort(group[order], kind="stable")]
    return [names[index] for index in ranked[: draw.size]]


def join_searches(parts: Sequence[Searches]) -> Searches:
    """All searches of several galleries."""
    return Searches(
        mated_people=np.concatenate([part.mated_people for part in parts]),
        own_scores=np.concatenate([part.own_scores for part in parts]),
        other_people=np.concatenate([part.other_people for part in parts]),
        other_scores=np.concatenate([part.other_scores for part in parts]),
        stranger_people=np.concatenate([part.stranger_people for part in parts]),
        nearest_people=np.concatenate([part.nearest_people for part in parts]),
        nearest_scores=np.concatenate([part.nearest_scores for part in parts]),
    )


def identification_figures(
    searches: Searches,
    *,
    fpirs: Sequence[str] = FPIRS,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Any]:
    """Rank-1 rate, FNIR and threshold at each FPIR, with 95 % intervals from resampling the people who are searched
    (the gallery stays as it is; the threshold is chosen anew in each resample).

    A figure that this many strangers' searches cannot show is None, with the reason in ``fnir_at_fpir_reason``.
    """
    count = len(searches.own_scores)
    curve = searches.curve()
    reasons = {
        fpir: reason
        for fpir in fpirs
        if (reason := unresolved(float(fpir), len(searches.nearest_scores), "searches by strangers"))
    }
    shown = [fpir for fpir in fpirs if fpir not in reasons]

    def figures(weights: Scores) -> dict[str, Scores]:
        resampled = searches.curve(weights)
        mated = weights[:, :count]
        first = (mated * searches.first).sum(axis=1) / np.where(resampled.same > 0, resampled.same, np.nan)
        return {"rank1": first, **{fpir: 1 - true_accept_rates(resampled, float(fpir)) for fpir in shown}}

    found = intervals(_resample(searches, resamples, seed), figures)
    return {
        "mated_searches": count,
        "mated_people": len(np.unique(searches.mated_people)),
        "stranger_searches": len(searches.nearest_scores),
        "stranger_people": len(np.unique(searches.stranger_people)),
        "rank1_rate": float(searches.first.mean()) if count else None,
        "rank1_rate_ci": found.get("rank1"),
        "fnir_at_fpir": {fpir: _fnir(curve, float(fpir)) if fpir in shown else None for fpir in fpirs},
        "fnir_at_fpir_ci": {fpir: found.get(fpir) for fpir in fpirs},
        "threshold_at_fpir": {
            fpir: threshold_at(curve, float(fpir)) if fpir in shown and len(curve.thresholds) else None
            for fpir in fpirs
        },
        "fnir_at_fpir_reason": reasons,
    }


def figures_at(searches: Searches, threshold: float, *, resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, Any]:
    """Measured FPIR and FNIR at a threshold, with 95 % intervals from resampling the people who are searched."""
    count = len(searches.own_scores)
    with np.errstate(invalid="ignore"):
        missed = ~(searches.first & (searches.own_scores >= threshold))
        passed = searches.nearest_scores >= threshold

    def figures(weights: Scores) -> dict[str, Scores]:
        return {"fnir": _share(missed, weights[:, :count]), "fpir": _share(passed, weights[:, count:])}

    found = intervals(_resample(searches, resamples, seed), figures)
    return {
        "threshold": threshold,
        "fpir": float(passed.mean()) if len(passed) else None,
        "fpir_ci": found.get("fpir"),
        "fnir": float(missed.mean()) if len(missed) else None,
        "fnir_ci": found.get("fnir"),
    }


def _resample(searches: Searches, resamples: int, seed: int) -> Iterator[Scores]:
    people = [*searches.mated_people.tolist(), *searches.stranger_people.tolist()]
    return resample_people(people, resamples=resamples, seed=seed)


def _fnir(curve: Curve, fpir: float) -> float | None:
    rate = true_accept_rate(curve, fpir)
    return None if rate is None else 1 - rate


def _share(flags: Flags, weights: Scores) -> Scores:
    total = weights.sum(axis=1)
    share: Scores = (weights * flags).sum(axis=1) / np.where(total > 0, total, np.nan)
    return share
