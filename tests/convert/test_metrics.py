"""Verification figures, compared with their definitions computed the slow way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.metrics import (
    accuracy_at,
    best_accuracies,
    best_threshold,
    curve_points,
    equal_error_rate,
    equal_error_rates,
    fold_accuracies,
    make_curve,
    threshold_at,
    true_accept_rate,
    true_accept_rates,
    unresolved,
)

SCORE = st.one_of(st.just(math.nan), st.integers(-10, 10).map(lambda n: n / 10))
PAIRS = st.lists(st.tuples(SCORE, st.booleans()), min_size=1, max_size=30)


def arrays(pairs: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([score for score, _ in pairs]), np.array([same for _, same in pairs])


@settings(deadline=None)
@given(PAIRS)
def test_best_threshold_is_as_good_as_any(pairs: list[tuple[float, bool]]) -> None:
    scores, same = arrays(pairs)
    reached = accuracy_at(scores, same, best_threshold(make_curve(scores, same)))
    slow = max(
        sum(not math.isnan(score) and (score >= t) == same for score, same in pairs) / len(pairs)
        for t in np.arange(-1.05, 1.1, 0.1)
    )
    assert reached == pytest.approx(slow)


@settings(deadline=None)
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


@settings(max_examples=50, deadline=None)
@given(PAIRS, st.data())
def test_a_pair_of_weight_three_is_three_pairs(pairs: list[tuple[float, bool]], data: st.DataObject) -> None:
    scores, same = arrays(pairs)
    times = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(pairs), max_size=len(pairs))))
    if not times.sum():
        return
    weights = np.stack([times, np.ones(len(pairs))]).astype(float)
    weighted = make_curve(scores, same, weights)
    for row, repeated in enumerate((np.repeat(np.arange(len(pairs)), times), np.arange(len(pairs)))):
        plain = make_curve(scores[repeated], same[repeated])
        if not len(plain.thresholds):
            continue
        # Where all accuracies are equal, any threshold is best: compare what it gives, not where it is.
        right = best_accuracies(scores, same, weights)[row]
        assert right == pytest.approx(accuracy_at(scores[repeated], same[repeated], best_threshold(plain)))
        for far in (0.0, 0.1, 1.0):
            found, expected = true_accept_rates(weighted, far)[row], true_accept_rate(plain, far)
            assert np.isnan(found) if expected is None else found == pytest.approx(expected)
        found, expected = equal_error_rates(weighted)[row], equal_error_rate(plain)
        assert np.isnan(found) if expected is None else found == pytest.approx(expected)


def test_weighted_folds_are_judged_by_the_weighted_others() -> None:
    random = np.random.default_rng(5)
    scores, same, folds = random.normal(size=120), random.random(120) < 0.5, np.repeat([1, 2, 3], 40)
    weights = random.integers(1, 4, (2, 120)).astype(float)
    found = fold_accuracies(scores, same, folds, weights)
    assert found.shape == (3, 2)
    for row in range(2):
        repeated = np.repeat(np.arange(120), weights[row].astype(int))
        expected = fold_accuracies(scores[repeated], same[repeated], folds[repeated])
        assert found[:, row] == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(PAIRS)
def test_curve_points_are_the_best_of_each_false_accept_rate(pairs: list[tuple[float, bool]]) -> None:
    scores, same = arrays(pairs)
    points = curve_points(make_curve(scores, same))
    genuine, impostor = scores[same], scores[~same]
    if not len(genuine) or not len(impostor) or np.isnan(scores).all():
        assert not len(points)
        return
    assert len(np.unique(points[:, 0])) == len(points)
    for far, tar, threshold in points:
        assert far == pytest.approx(np.sum(impostor >= threshold) / len(impostor))
        assert tar == pytest.approx(np.sum(genuine >= threshold) / len(genuine))
    slow = {true_accept_rate(make_curve(scores, same), far) for far in points[:, 0]}
    assert slow == set(points[:, 1])


def test_a_long_curve_is_thinned_where_it_is_least_interesting() -> None:
    random = np.random.default_rng(5)
    scores, same = random.normal(size=4000), np.arange(4000) < 2000
    curve = make_curve(scores, same)
    points = curve_points(curve, most=50)
    assert len(points) <= 50
    assert points[:25, 0] * 2000 == pytest.approx(np.arange(25))
    assert points[-1, 0] == pytest.approx(1, abs=0.01)


def test_the_threshold_at_a_rate_lies_just_above_the_first_score_too_many() -> None:
    scores = np.array([0.9, 0.7, 0.6, 0.5, 0.4, 0.3])
    same = np.array([True, False, True, False, False, False])
    assert threshold_at(make_curve(scores, same), 0.25) == pytest.approx(0.55)
    assert threshold_at(make_curve(scores, same), 0.0) == pytest.approx(0.8)


@pytest.mark.parametrize(("rate", "count"), [(1e-3, 500), (1e-2, 50), (1e-4, 5000), (0.29, 100)])
def test_a_rate_is_shown_from_half_an_error_on(rate: float, count: int) -> None:
    assert unresolved(rate, count, "pairs") is None


def test_a_rate_too_small_for_the_pairs_says_how_many_it_takes() -> None:
    assert unresolved(1e-4, 3000, "pairs") == "3,000 pairs cannot show a rate of 0.0001: at least 5,000 are needed"
    assert unresolved(1e-3, 499, "pairs") == "499 pairs cannot show a rate of 0.001: at least 500 are needed"
