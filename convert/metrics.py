"""Figures of 1:1 verification from the scores of pairs. A NaN score is a pair with a face that was not found.

Every figure exists twice: for one curve as a number (None where it is not defined), and, in the plural, for a curve
whose pairs carry weights of shape (resamples, pairs), as an array of shape (resamples,) with NaN there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Flags = NDArray[np.bool_]

# A rate times a number of pairs may come out just below the whole number that is meant: 0.29 * 100.
_ROUNDING = 1e-9
# Below this many false accepts at a rate, the pairs say nothing about it. From half a pair on, "at most this rate"
# means "none at all", which is the nearest that can be counted.
_LEAST_EXPECTED = 0.5


@dataclass(frozen=True, slots=True)
class Curve:
    """Acceptances at every possible threshold, highest first: column k accepts the k best-scoring groups of pairs.

    ``true_accepts`` and ``false_accepts``: (thresholds,), or (resamples, thresholds) of weighted pairs; ``same`` and
    ``different``: () or (resamples,).
    """

    thresholds: Scores
    true_accepts: Scores
    false_accepts: Scores
    same: Scores
    """Pairs of one person, with those whose face was not found: they are never accepted."""
    different: Scores
    undetected: int


def make_curve(scores: Scores, same: Flags, weights: Scores | None = None) -> Curve:
    """``weights``: how often each pair counts, (resamples, pairs); once by default."""
    counts = np.ones(len(scores)) if weights is None else weights
    found = ~np.isnan(scores)
    order = np.flatnonzero(found)[np.argsort(-scores[found], kind="stable")]
    ranked = scores[order]
    # A threshold cannot fall between equal scores.
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1) if len(ranked) else np.empty(0, np.int64)
    below = np.append(ranked[ends[:-1] + 1], ranked[-1:] - 1e-6) if len(ranked) else np.empty(0)
    thresholds = np.concatenate([ranked[:1] + 1e-6, (ranked[ends] + below) / 2])
    columns = len(thresholds)
    return Curve(
        thresholds,
        _accepted(counts[..., order] * same[order], ends)[..., :columns],
        _accepted(counts[..., order] * ~same[order], ends)[..., :columns],
        np.asarray(counts[..., same].sum(axis=-1)),
        np.asarray(counts[..., ~same].sum(axis=-1)),
        int((~found).sum()),
    )


def _accepted(ranked: Scores, ends: NDArray[np.int64]) -> Scores:
    """Sums of the weights down to each threshold, beginning with none."""
    sums = np.cumsum(ranked, axis=-1)[..., ends]
    none = np.zeros((*sums.shape[:-1], 1))
    return np.concatenate([none, sums], axis=-1)


def best_threshold(curve: Curve) -> float:
    """The threshold with the most pairs right."""
    return float(best_thresholds(curve))


def best_thresholds(curve: Curve) -> Scores:
    if not len(curve.thresholds):
        return np.zeros(curve.same.shape)
    return np.asarray(curve.thresholds[np.argmax(curve.true_accepts - curve.false_accepts, axis=-1)])


def accuracy_at(scores: Scores, same: Flags, threshold: float) -> float:
    """Share of pairs right at the threshold; a pair with a face not found is wrong, whatever it is."""
    return float(_accuracies(scores, same, np.array(threshold), np.ones(len(scores))))


def best_accuracies(scores: Scores, same: Flags, weights: Scores) -> Scores:
    """In each resample the share of pairs right at the threshold that is best in it."""
    return _accuracies(scores, same, best_thresholds(make_curve(scores, same, weights)), weights)


def _accuracies(scores: Scores, same: Flags, thresholds: Scores, weights: Scores) -> Scores:
    with np.errstate(invalid="ignore"):
        accepted = scores >= thresholds[..., np.newaxis]
    right = (accepted == same) & ~np.isnan(scores)
    return _divide((right * weights).sum(axis=-1), weights.sum(axis=-1))


def fold_accuracies(scores: Scores, same: Flags, folds: NDArray[np.int64], weights: Scores | None = None) -> Scores:
    """Per fold, the accuracy at the threshold that is best on all other folds (LFW View 2): (folds,) or, of weighted
    pairs, (folds, resamples).
    """
    counts = np.ones(len(scores)) if weights is None else weights
    rows = []
    for fold in np.unique(folds):
        inside = folds == fold
        others = make_curve(scores[~inside], same[~inside], counts[..., ~inside])
        rows.append(_accuracies(scores[inside], same[inside], best_thresholds(others), counts[..., inside]))
    return np.array(rows)


def equal_error_rate(curve: Curve) -> float | None:
    """Where false acceptance and false rejection rates meet; None without pairs of both kinds."""
    return _number(equal_error_rates(curve))


def equal_error_rates(curve: Curve) -> Scores:
    if not len(curve.thresholds):
        return np.full(curve.same.shape, np.nan)
    accepted = _divide(curve.false_accepts, curve.different[..., np.newaxis])
    rejected = 1 - _divide(curve.true_accepts, curve.same[..., np.newaxis])
    nearest = np.argmin(np.abs(accepted - rejected), axis=-1)[..., np.newaxis]
    return np.asarray(np.take_along_axis((accepted + rejected) / 2, nearest, axis=-1)[..., 0])


def true_accept_rate(curve: Curve, far: float) -> float | None:
    """The share of same-person pairs accepted where at most ``far`` of the different-person pairs are."""
    return _number(true_accept_rates(curve, far))


def true_accept_rates(curve: Curve, far: float) -> Scores:
    if not len(curve.thresholds):
        return np.full(curve.same.shape, np.nan)
    accepted = np.take_along_axis(curve.true_accepts, _last_allowed(curve, far)[..., np.newaxis], axis=-1)[..., 0]
    return np.where(curve.different > 0, _divide(accepted, curve.same), np.nan)


def threshold_at(curve: Curve, far: float) -> float:
    """The lowest threshold at which at most ``far`` of the different-person pairs are accepted (of one curve)."""
    return float(curve.thresholds[_last_allowed(curve, far)])


def _last_allowed(curve: Curve, far: float) -> NDArray[np.intp]:
    allowed = curve.false_accepts <= far * curve.different[..., np.newaxis] + _ROUNDING
    return np.asarray(allowed.sum(axis=-1) - 1)


def allowed_errors(rate: float, count: int) -> int:
    """How many of ``count`` trials may fail at an error rate."""
    return math.floor(rate * count + _ROUNDING)


def unresolved(rate: float, count: int, what: str) -> str | None:
    """Why ``count`` trials cannot show an error rate this small; None where they can."""
    if rate * count + _ROUNDING >= _LEAST_EXPECTED:
        return None
    least = math.ceil(_LEAST_EXPECTED / rate - _ROUNDING)
    return f"{count:,} {what} cannot show a rate of {rate:g}: at least {least:,} are needed"


def curve_points(curve: Curve, most: int = 200) -> NDArray[np.float64]:
    """The corners of the ROC, rows of (false accept rate, true accept rate, threshold), at most ``most`` of them,
    the smallest rates all kept; empty where it is not defined.
    """
    if not len(curve.thresholds) or not curve.same or not curve.different:
        return np.empty((0, 3))
    # Of the thresholds with equally many false accepts the lowest accepts most of the others.
    corners = np.append(np.flatnonzero(np.diff(curve.false_accepts)), len(curve.thresholds) - 1)
    if len(corners) > most:
        places = np.concatenate([np.arange(most // 2), np.geomspace(most // 2, len(corners) - 1, most - most // 2)])
        corners = corners[np.unique(places.astype(int))]
    rows = [curve.false_accepts / curve.different, curve.true_accepts / curve.same, curve.thresholds]
    points: Scores = np.stack(rows, axis=1)[corners]
    return points


def _divide(a: Scores, b: Scores) -> Scores:
    """NaN where there is nothing to divide by."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(b > 0, a / b, np.nan))


def _number(value: Scores) -> float | None:
    return None if np.isnan(value) else float(value)
