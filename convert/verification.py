"""1:1 verification over labelled pairs: scores, figures with their intervals, and at which stage a pair failed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert.bootstrap import RESAMPLES, SEED, intervals, resample_people
from convert.metrics import (
    Flags,
    Scores,
    accuracy_at,
    allowed_errors,
    best_accuracies,
    best_threshold,
    curve_points,
    equal_error_rate,
    equal_error_rates,
    fold_accuracies,
    make_curve,
    true_accept_rate,
    true_accept_rates,
    unresolved,
)
from convert.pairs import Pair
from kiosk.biometrics import Embedding

FARS = ("0.01", "0.001", "0.0001")

WRONG_FACE_RULE = (
    "a pair of one person below the threshold, in whose photos another detected face reaches it and gains at least "
    "half of what lies between the median of different people and the threshold"
)


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Pairs and their scores; arrays of one entry a pair. A NaN score: a face was not found."""

    pairs: Sequence[Pair]
    scores: Scores

    @property
    def same(self) -> Flags:
        return np.array([pair.same for pair in self.pairs], np.bool_)

    @property
    def folds(self) -> NDArray[np.int64]:
        return np.array([pair.fold for pair in self.pairs], np.int64)

    def people(self) -> tuple[list[str], list[str]]:
        """Who is on either side: the folder each photo is in."""
        sides = ([pair.path_a for pair in self.pairs], [pair.path_b for pair in self.pairs])
        first, second = ([str(PurePosixPath(path).parent) for path in side] for side in sides)
        return first, second


def compare(pairs: Sequence[Pair], embedding: Callable[[str], Embedding | None]) -> Comparisons:
    """Cosine similarity of each pair; ``embedding`` gives that of a photo, by the path in the pair."""

    def score(pair: Pair) -> float:
        a, b = embedding(pair.path_a), embedding(pair.path_b)
        return math.nan if a is None or b is None else float(a @ b)

    return Comparisons(pairs, np.array([score(pair) for pair in pairs]))


def verification_figures(
    comparisons: Comparisons, *, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Any]:  # fmt: skip
    """Accuracy, EER, TAR at each FAR and the ROC, unrounded, with 95 % intervals from resampling people.

    ``accuracy``: one fold (View 1) at the best threshold of these very pairs; several folds (View 2) as the mean over
    folds, each at the best threshold of the others. A pair with a face not found is an error at every threshold.
    Thresholds are chosen anew in each resample. A TAR that this many different-person pairs cannot show is None, with
    the reason in ``tar_at_far_reason``; ``false_accepts_at_far`` says how many false accepts each one allows.
    """
    scores, same, folds = comparisons.scores, comparisons.same, comparisons.folds
    curve = make_curve(scores, same)
    threshold = best_threshold(curve)
    by_fold = fold_accuracies(scores, same, folds) if folds.max() > 1 else None
    different = int(curve.different)
    reasons = {far: why for far in FARS if (why := unresolved(float(far), different, "pairs of different people"))}
    shown = [far for far in FARS if far not in reasons]

    def figures(weights: Scores) -> dict[str, Scores]:
        resampled = make_curve(scores, same, weights)
        if by_fold is None:
            accuracy = best_accuracies(scores, same, weights)
        else:
            accuracy = fold_accuracies(scores, same, folds, weights).mean(axis=0)
        rates = {far: true_accept_rates(resampled, float(far)) for far in shown}
        return {"accuracy": accuracy, "eer": equal_error_rates(resampled), **rates}

    found = intervals(resample_people(*comparisons.people(), resamples=resamples, seed=seed), figures)
    return {
        "protocol": "one fold, best threshold" if by_fold is None else f"{len(by_fold)} folds, threshold of the others",
        "pairs": len(scores),
        "same_pairs": int(curve.same),
        "different_pairs": different,
        "undetected_pairs": curve.undetected,
        "accuracy": accuracy_at(scores, same, threshold) if by_fold is None else float(by_fold.mean()),
        "accuracy_ci": found.get("accuracy"),
        "accuracy_std": None if by_fold is None else float(by_fold.std()),
        "threshold": threshold,
        "eer": equal_error_rate(curve),
        "eer_ci": found.get("eer"),
        "tar_at_far": {far: true_accept_rate(curve, float(far)) if far in shown else None for far in FARS},
        "tar_at_far_ci": {far: found.get(far) for far in FARS},
        "tar_at_far_reason": reasons,
        "false_accepts_at_far": {far: allowed_errors(float(far), different) for far in shown},
        "roc": [
            {"far": far, "tar": tar, "threshold": threshold} for far, tar, threshold in curve_points(curve).tolist()
        ],
    }


def find_wrong_faces(
    comparisons: Comparisons,
    threshold: float,
    embedding: Callable[[str], Embedding | None],
    others: Callable[[str], Sequence[Embedding]],
) -> list[Pair]:
    """Pairs of one person that failed because another face of a photo was taken: see :data:`WRONG_FACE_RULE`.

    ``others``: embeddings of a photo's faces beside the chosen one; asked for failed pairs only.
    """
    different = comparisons.scores[~comparisons.same]
    usual = float(np.nanmedian(different)) if (~np.isnan(different)).any() else -1.0
    least_gain = max(threshold - usual, 0.0) / 2
    wrong = []
    for pair, score in zip(comparisons.pairs, comparisons.scores.tolist(), strict=True):
        if not pair.same or not score < threshold:
            continue
        best = _best_of_others(pair, embedding, others)
        if best >= max(threshold, score + least_gain):
            wrong.append(pair)
    return wrong


def _best_of_others(
    pair: Pair, embedding: Callable[[str], Embedding | None], others: Callable[[str], Sequence[Embedding]]
) -> float:
    """The best score of two faces of the pair's photos that are not both the chosen ones; -1 without others."""
    more_a, more_b = others(pair.path_a), others(pair.path_b)
    a, b = embedding(pair.path_a), embedding(pair.path_b)
    scores = [float(x @ y) for x in more_a for y in (b, *more_b) if y is not None]
    scores += [float(a @ y) for y in more_b if a is not None]
    return max(scores, default=-1.0)
