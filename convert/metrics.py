"""Figures of 1:1 verification from the scores of pairs. A NaN score is a pair with a face that was not found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Curve:
    """Acceptances at every possible threshold, highest first: row k accepts the k best-scoring groups of pairs."""

    thresholds: Scores
    true_accepts: NDArray[np.int64]
    false_accepts: NDArray[np.int64]
    same: int
    """Pairs of one person, with those whose face was not found: they are never accepted."""
    different: int
    undetected: int


def make_curve(scores: Scores, same: Flags) -> Curve:
    found = ~np.isnan(scores)
    order = np.argsort(-scores[found], kind="stable")
    ranked, ranked_same = scores[found][order], same[found][order]
    # A threshold cannot fall between equal scores.
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1) if len(ranked) else np.empty(0, np.int64)
    below = np.append(ranked[ends[:-1] + 1], ranked[-1:] - 1e-6) if len(ranked) else np.empty(0)
    thresholds = np.concatenate([ranked[:1] + 1e-6, (ranked[ends] + below) / 2])
    true_accepts = np.concatenate([[0], np.cumsum(ranked_same)[ends]])[: len(thresholds)]
    false_accepts = np.concatenate([[0], np.cumsum(~ranked_same)[ends]])[: len(thresholds)]
    return Curve(
        thresholds, true_accepts, false_accepts, int(same.sum()), int((~same).sum()), int((~found).sum())
    )  # fmt: skip


def best_threshold(curve: Curve) -> float:
    """The threshold with the most pairs right."""
    if not len(curve.thresholds):
        return 0.0
    return float(curve.thresholds[np.argmax(curve.true_accepts - curve.false_accepts)])


def accuracy_at(scores: Scores, same: Flags, threshold: float) -> float:
    """Share of pairs right at the threshold; a pair with a face not found is wrong, whatever it is."""
    with np.errstate(invalid="ignore"):
        right = np.where(same, scores >= threshold, scores < threshold)
    return float(right.mean())


def fold_accuracies(scores: Scores, same: Flags, folds: NDArray[np.int64]) -> Scores:
    """Per fold, the accuracy at the threshold that is best on all other folds (LFW View 2)."""
    rows = []
    for fold in np.unique(folds):
        inside = folds == fold
        threshold = best_threshold(make_curve(scores[~inside], same[~inside]))
        rows.append(accuracy_at(scores[inside], same[inside], threshold))
    return np.array(rows)


def equal_error_rate(curve: Curve) -> float | None:
    """Where false acceptance and false rejection rates meet; None without pairs of both kinds."""
    if not curve.same or not curve.different or not len(curve.thresholds):
        return None
    accepted = curve.false_accepts / curve.different
    rejected = 1 - curve.true_accepts / curve.same
    nearest = np.argmin(np.abs(accepted - rejected))
    return float((accepted[nearest] + rejected[nearest]) / 2)


def true_accept_rate(curve: Curve, far: float) -> float | None:
    """The share of same-person pairs accepted where at most ``far`` of the different-person pairs are."""
    if not curve.same or not curve.different or not len(curve.thresholds):
        return None
    allowed = curve.false_accepts <= far * curve.different
    return float(curve.true_accepts[allowed].max() / curve.same)
