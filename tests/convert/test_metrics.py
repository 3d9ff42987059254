"""Verification figures, compared with their definitions computed the slow way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.metrics import (
    accuracy_at,
    best_threshold,
    equal_error_rate,
    fold_accuracies,
    make_curve,
    true_accept_rate,
)

SCORE = st.one_of(st.just(math.nan), st.integers(-10, 10).map(lambda n: n / 10))
PAIRS = st.lists(st.tuples(SCORE, st.booleans()), min_size=1, max_size=30)


def arrays(pairs: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([score for score, _ in pairs]), np.array([same for _, same in pairs])


@given(PAIRS)
def test_best_threshold_is_as_good_as_any(pairs: list[tuple[float, bool]]) -> None:
    scores, same = arrays(pairs)
    reached = accuracy_at(scores, same, best_threshold(make_curve(scores, same)))
    slow = max(
        sum(not math.isnan(score) and (score >= t) == same for score, same in pairs) / len(pairs)
        for t in np.arange(-1.05, 1.1, 0.1)
    )
    assert reached == pytest.approx(slow)


@given(PAIRS, st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_true_accept_rate_by_definition(pairs: list[tuple[float, bool]], far: float) -> None:
    scores, same = arrays(pairs)
    rate = true_accept_rate(make_curve(scores, same), far)
    genuine = [score for score, is_same in pairs if is_same]
    impostor = [score for score, is_same in pairs if not is_same]
    if not genuine or not impostor or np.isnan(scores).all():
        assert rate is None
        return
    allowed = [t for t in np.arange(-1.05, 1.2, 0.1) if sum(s >= t for s in impostor) <= far * len(impostor)]
    assert rate == pytest.approx(max(sum(s >= t for s in genuine) for t in allowed) / len(genuine))


def test_undetected_pairs_are_errors_of_either_kind() -> None:
    scores, same = np.array([0.9, math.nan, 0.1, math.nan]), np.array([True, True, False, False])
    curve = make_curve(scores, same)
    assert accuracy_at(scores, same, best_threshold(curve)) == 0.5
    assert curve.undetected == 2


def test_separable_scores_make_no_error() -> None:
    scores, same = np.array([0.9, 0.8, 0.2, 0.1]), np.array([True, True, False, False])
    curve = make_curve(scores, same)
    assert best_threshold(curve) == pytest.approx(0.5)
    assert equal_error_rate(curve) == 0
    assert true_accept_rate(curve, 0.0) == 1


def test_equal_error_rate_of_overlapping_scores() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.3, 0.6, 0.2, 0.1, 0.0])
    assert equal_error_rate(make_curve(scores, np.arange(8) < 4)) == pytest.approx(0.25)


def test_folds_are_judged_by_the_threshold_of_the_others() -> None:
    # Fold 2 alone would choose a threshold near 0.3; fold 1's, near 0.7, costs it one pair of two.
    scores, same = np.array([0.8, 0.6, 0.4, 0.2]), np.array([True, False, True, False])
    assert fold_accuracies(scores, same, np.array([1, 1, 2, 2])).tolist() == [0.5, 0.5]


def test_one_kind_of_pair_has_no_error_rates() -> None:
    curve = make_curve(np.array([0.5]), np.array([True]))
    assert equal_error_rate(curve) is None
    assert true_accept_rate(curve, 0.1) is None


def test_no_face_anywhere() -> None:
    curve = make_curve(np.array([math.nan]), np.array([True]))
    assert best_threshold(curve) == 0
    assert curve.undetected == 1
