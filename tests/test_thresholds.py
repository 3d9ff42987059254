"""Thresholds from what strangers' searches scored: along the table, between its points and beyond."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiosk.biometrics import ModelId, SubjectId, Template
from kiosk.bundle import BUILT_IN, BUILT_IN_BUNDLE, read_bundle
from kiosk.decision import DecisionRule
from kiosk.gallery import Gallery
from kiosk.thresholds import SearchScores, StrangerScores, take_off_crowd

MODEL = ModelId("m@1")


def row(subjects: int, templates: int, *scores: float) -> StrangerScores:
    return StrangerScores(subjects=subjects, templates=templates, scores=scores)


TABLE = SearchScores(
    crowd_size=5,
    crowd_weight=0.5,
    fpirs=(0.1, 0.01, 0.001),
    galleries=(row(10, 1, 0.2, 0.3, 0.4), row(100, 1, 0.3, 0.4, 0.5), row(10, 3, 0.24, 0.34, 0.44)),
    measured_on="nobody",
)


@pytest.mark.parametrize(
    ("gallery", "fpir", "score"),
    [
        ({1: 10}, 0.01, 0.3),
        ({1: 100}, 0.001, 0.5),
        ({1: 10}, 10**-2.5, 0.35),  # half way in the logarithm of the rate
        ({1: 32}, 0.01, 0.3505),  # and of the size
        ({1: 1000}, 0.01, 0.5),  # beyond the largest gallery the slope goes on
        ({1: 3}, 0.01, 0.3),  # below the smallest nobody measured lower ones
        ({1: 10}, 1e-4, 0.5),  # and beyond the lowest rate
        ({2: 10}, 0.01, 0.32),  # templates in between
        ({9: 10}, 0.01, 0.34),  # more templates than were measured
        ({}, 0.01, 0.3),
    ],
)
def test_the_threshold_is_read_off_the_table(gallery: dict[int, int], fpir: float, score: float) -> None:
    assert TABLE.threshold(gallery, fpir) == pytest.approx(score, abs=5e-4)


def test_a_mixed_gallery_lies_between_its_kinds() -> None:
    pure = [TABLE.threshold({templates: 10}, 0.01) for templates in (1, 3)]
    assert pure[0] < TABLE.threshold({1: 5, 3: 5}, 0.01) < pure[1]
    # Its rate is the mean of its kinds' rates.
    rates = [TABLE.fpir({templates: 10}, 0.33) for templates in (1, 3)]
    assert TABLE.fpir({1: 5, 3: 5}, 0.33) == pytest.approx(np.mean(rates))


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 6), st.floats(1e-5, 0.5), st.floats(1e-5, 0.5))
def test_rate_and_threshold_are_each_others_inverse_and_never_rise_together(
    subjects: int, templates: int, a: float, b: float
) -> None:
    table = read_bundle(BUILT_IN / BUILT_IN_BUNDLE).search_scores()
    gallery = {templates: subjects}
    low, high = sorted((a, b))
    assert table.threshold(gallery, low) >= table.threshold(gallery, high) - 2e-4
    score = table.threshold(gallery, a)
    assert table.fpir(gallery, score) <= a * (1 + 1e-6)
    assert table.fpir(gallery, score - 3e-4) >= a * (1 - 1e-6)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 10**6))
def test_the_crowd_is_the_highest_other_scores(subjects: int, size: int, seed: int) -> None:
    similarities = np.random.default_rng(seed).normal(size=(4, subjects)).round(1)
    adjusted = take_off_crowd(similarities, size, 0.5)
    for scores, found in zip(similarities, adjusted, strict=True):
        for own in range(subjects):
            others = np.sort(np.delete(scores, own))[::-1][:size]
            assert found[own] == pytest.approx(scores[own] - 0.5 * (others.mean() if len(others) else 0.0))


def test_a_subject_left_out_is_nobodys_crowd() -> None:
    similarities = np.array([[0.9, -np.inf, 0.5, 0.3], [-np.inf, 0.2, 0.1, 0.0]])
    adjusted = take_off_crowd(similarities, 2, 1.0)
    assert adjusted[0] == pytest.approx([0.9 - 0.4, -np.inf, 0.5 - 0.6, 0.3 - 0.7])
    assert adjusted[1] == pytest.approx([-np.inf, 0.2 - 0.05, 0.1 - 0.1, 0.0 - 0.15])


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(0, 10**6))
def test_the_door_decides_as_was_measured(subjects: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(subjects + 1, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    gallery = Gallery(MODEL, [Template(SubjectId(str(n)), MODEL, row) for n, row in enumerate(rows[:-1])])
    decision = DecisionRule(0.25, 0.0, crowd_size=5, crowd_weight=0.5).decide(gallery.search(rows[-1]))
    measured = take_off_crowd((rows[-1:] @ rows[:-1].T).astype(np.float64), 5, 0.5).max()
    assert decision.score is not None
    assert decision.score - (decision.threshold - 0.25) == pytest.approx(measured, abs=1e-5)
    assert (decision.subject_id is not None) == (decision.score >= decision.threshold)
