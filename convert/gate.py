"""The quantization gate: a variant that tells people apart worse than float32 is not published."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convert.crop_pairs import CropPairs, score_pairs
from convert.metrics import (
    accuracy_at,
    best_threshold,
    equal_error_rate,
    fold_accuracies,
    make_curve,
    threshold_at,
    true_accept_rate,
)
from kiosk.bundle import Bundle
from kiosk.embedder import TfliteEmbedder
from kiosk.errors import InputError, ModelError

FAR = 1e-3

ACCURACY_TOLERANCE = 0.003
"""Three of LFW View 1's 1,000 pairs: what may change hands at the threshold between networks of the same quality."""

TAR_TOLERANCE = 0.01
"""Five of LFW View 1's 500 same pairs. There good variants differed from float32 by 0.004 at most; dlib-resnet29 as
TensorFlow's converter quantizes it, by 0.016; damaged ones by more than that on any pairs."""


@dataclass(frozen=True, slots=True)
class PairFigures:
    """How well a variant tells the gate's pairs apart, with one inference a face, as for a camera's frame.

    ``undetected`` pairs are errors of every variant. ``accuracy``: at ``threshold``, the best of these very
    pairs; of several folds, the mean over folds, each at the best threshold of the others. ``tar``: true accept rate at
    FAR 1e-3, reached at the score ``far_threshold``.
    """

    pairs: int
    undetected: int
    accuracy: float
    eer: float
    tar: float
    threshold: float
    far_threshold: float


def measure_pairs(bundle: Bundle, pairs: CropPairs) -> PairFigures:
    """Embed the crops through the runtime and compare.

    Raises:
        InputError: the variant returns no usable embedding, or there are no pairs of both kinds with a face found.
    """
    try:
        scores = score_pairs(pairs, TfliteEmbedder(bundle, threads=2))
    except ModelError as error:
        why = str(error).removeprefix(f"{bundle.model_path}: ")
        raise _refusal(bundle.manifest.name, f"it does not run ({why})", pairs) from error
    curve = make_curve(scores, pairs.same)
    eer, tar = equal_error_rate(curve), true_accept_rate(curve, FAR)
    if eer is None or tar is None:
        raise InputError("quantization gate: the pairs need photos of the same person and of different ones")
    threshold = best_threshold(curve)
    by_fold = pairs.folds.max() > 1
    accuracy = (
        float(fold_accuracies(scores, pairs.same, pairs.folds).mean())
        if by_fold
        else accuracy_at(scores, pairs.same, threshold)
    )
    return PairFigures(
        pairs=len(scores),
        undetected=int(np.isnan(scores).sum()),
        accuracy=round(accuracy, 6),
        eer=round(eer, 6),
        tar=round(tar, 6),
        threshold=round(threshold, 6),
        far_threshold=round(threshold_at(curve, FAR), 6),
    )


def require_pass(name: str, figures: PairFigures, float32: PairFigures, pairs: CropPairs) -> None:
    """
    Raises:
        InputError: accuracy or TAR lies further below float32's than the tolerance allows.
    """
    judged = (
        ("accuracy", figures.accuracy, float32.accuracy, ACCURACY_TOLERANCE),
        (f"TAR at FAR {FAR:g}", figures.tar, float32.tar, TAR_TOLERANCE),
    )
    failed = [
        f"{what} {value:.4f} is {reference - value:.4f} below float32's {reference:.4f} (tolerance {tolerance:g})"
        for what, value, reference, tolerance in judged
        # A figure that is no number fails too.
        if not reference - value <= tolerance + 1e-9
    ]
    if failed:
        raise _refusal(name, " and ".join(failed), pairs)


def _refusal(name: str, why: str, pairs: CropPairs) -> InputError:
    return InputError(
        f"{name}: quantization gate: {why} on {pairs.what}; nothing was published; "
        "calibrate with more, and more typical, photos"
    )
