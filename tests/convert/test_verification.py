"""Figures over pairs with their intervals, and whose failure it was that another face of the photo was taken."""

from __future__ import annotations

import math

import numpy as np
import pytest

from convert.pairs import Pair
from convert.verification import Comparisons, compare, find_wrong_faces, verification_figures


def make_pairs(people: int, folds: int = 1) -> list[Pair]:
    """Each person once with themselves and once with the next one."""
    pairs = []
    for number in range(people):
        fold = 1 + number * folds // people
        own, other = f"p{number}", f"p{(number + 1) % people}"
        pairs.append(Pair(fold, f"{own}/{own}_0001.jpg", f"{own}/{own}_0002.jpg", same=True))
        pairs.append(Pair(fold, f"{own}/{own}_0001.jpg", f"{other}/{other}_0001.jpg", same=False))
    return pairs


def draw_scores(pairs: list[Pair], seed: int = 3) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.array([random.normal(0.7 if pair.same else 0.1, 0.15) for pair in pairs])


def test_intervals_hold_their_figures() -> None:
    pairs = make_pairs(500)
    figures = verification_figures(Comparisons(pairs, draw_scores(pairs)))
    for name in ("accuracy", "eer"):
        low, high = figures[f"{name}_ci"]
        assert low <= figures[name] <= high
        assert 0.005 < high - low < 0.04
    for far in ("0.01", "0.001"):
        low, high = figures["tar_at_far_ci"][far]
        assert low <= figures["tar_at_far"][far] <= high
    assert figures["false_accepts_at_far"] == {"0.01": 5, "0.001": 0}
    # Distributions two sigma from the middle: 2.3 % on either side.
    assert figures["eer"] == pytest.approx(0.0228, abs=0.01)


def test_the_same_pairs_give_the_same_intervals() -> None:
    pairs = make_pairs(60)
    comparisons = Comparisons(pairs, draw_scores(pairs))
    assert verification_figures(comparisons) == verification_figures(comparisons)
    other = verification_figures(comparisons, seed=1)
    assert other["accuracy"] == verification_figures(comparisons)["accuracy"]


def test_a_rate_that_the_pairs_cannot_show_is_none_with_the_reason() -> None:
    pairs = make_pairs(60)
    figures = verification_figures(Comparisons(pairs, draw_scores(pairs)))
    assert figures["tar_at_far"]["0.01"] is not None
    assert figures["tar_at_far"]["0.001"] is None
    assert figures["tar_at_far_ci"]["0.001"] is None
    assert figures["tar_at_far_reason"]["0.001"].startswith("60 pairs of different people cannot show")
    assert set(figures["tar_at_far_reason"]) == {"0.001", "0.0001"}


def test_folds_are_judged_apart() -> None:
    pairs = make_pairs(200, folds=10)
    figures = verification_figures(Comparisons(pairs, draw_scores(pairs)))
    assert figures["protocol"] == "10 folds, threshold of the others"
    low, high = figures["accuracy_ci"]
    assert low <= figures["accuracy"] <= high
    assert 0 < figures["accuracy_std"] < 0.1


def test_nobody_is_found() -> None:
    pairs = make_pairs(5)
    figures = verification_figures(compare(pairs, lambda _: None))
    assert (figures["accuracy"], figures["undetected_pairs"], figures["eer"]) == (0, 10, None)
    assert figures["accuracy_ci"] == (0, 0)
    assert figures["roc"] == []


def unit(degrees: float) -> np.ndarray:
    return np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))], np.float32)


def test_the_wrong_face_is_told_from_a_face_that_is_hard() -> None:
    pairs = [Pair(1, f"p{n}/p{n}_0001.jpg", f"p{n}/p{n}_0002.jpg", same=True) for n in range(5)]
    pairs += [Pair(1, "p0/p0_0001.jpg", "p1/p1_0001.jpg", same=False)]
    angles = {
        # Another face in the second photo is the person's: taken wrongly.
        "p0": (0, 90, (), (5,)),
        # Nobody else there, and somebody else there who is no better.
        "p1": (100, 170, (), ()),
        "p2": (0, 90, (), (80,)),
        # Just below the threshold, and another view of the same face just above it: no other person.
        "p3": (0, 62, (), (59,)),
        # Both photos show both people, a different one was taken in each; the pair of the others fits as well.
        "p4": (0, 90, (90,), (0,)),
    }
    chosen, others = {}, {}
    for name, (a, b, more_a, more_b) in angles.items():
        for number, main, more in ((1, a, more_a), (2, b, more_b)):
            path = f"{name}/{name}_000{number}.jpg"
            chosen[path], others[path] = unit(main), [unit(angle) for angle in more]
    comparisons = compare(pairs, chosen.__getitem__)
    wrong = find_wrong_faces(comparisons, 0.5, chosen.__getitem__, others.__getitem__)
    assert [pair.path_a[:2] for pair in wrong] == ["p0", "p4"]


def test_a_face_that_was_not_found_is_not_a_wrong_one() -> None:
    pair = Pair(1, "a/a_0001.jpg", "a/a_0002.jpg", same=True)
    comparisons = compare([pair], {"a/a_0001.jpg": unit(0), "a/a_0002.jpg": None}.__getitem__)
    assert find_wrong_faces(comparisons, 0.5, lambda _: None, lambda _: [unit(0)]) == []
