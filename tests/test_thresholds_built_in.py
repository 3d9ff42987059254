"""The built-in bundle's own table of strangers' scores, and the crowd against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiosk.biometrics import Embedding, ModelId, SubjectId, Template
from kiosk.bundle import BUILT_IN, BUILT_IN_BUNDLE, read_bundle
from kiosk.decision import DecisionRule
from kiosk.gallery import SEARCH_DEPTH, Gallery
from kiosk.thresholds import Scores, SearchScores, StrangerScores, take_off_crowd

MODEL = ModelId("m@1")
TABLE = read_bundle(BUILT_IN / BUILT_IN_BUNDLE).search_scores()
KINDS = sorted({row.templates for row in TABLE.galleries})


def measured(subjects: int, templates: int) -> StrangerScores:
    (row,) = (row for row in TABLE.galleries if (row.subjects, row.templates) == (subjects, templates))
    return row


@pytest.mark.parametrize("row", TABLE.galleries, ids=lambda row: f"{row.subjects}x{row.templates}")
def test_every_measured_point_is_read_as_it_stands(row: StrangerScores) -> None:
    gallery = {row.templates: row.subjects}
    for fpir, score in zip(TABLE.fpirs, row.scores, strict=True):
        assert TABLE.fpir(gallery, score) == pytest.approx(fpir, rel=1e-6)
        assert TABLE.threshold(gallery, fpir) == pytest.approx(score, abs=1.1e-4)


@pytest.mark.parametrize("templates", KINDS)
@pytest.mark.parametrize(("below", "above"), [(2, 5), (50, 100), (200, 500)])
def test_between_two_sizes_by_the_logarithm_of_the_size(templates: int, below: int, above: int) -> None:
    subjects = round(math.sqrt(below * above))
    weight = math.log(subjects / below) / math.log(above / below)
    for index, fpir in enumerate(TABLE.fpirs):
        low, high = (measured(size, templates).scores[index] for size in (below, above))
        wanted = low + weight * (high - low)
        assert TABLE.threshold({templates: subjects}, fpir) == pytest.approx(wanted, abs=1.1e-4)


def test_beyond_the_table() -> None:
    row = measured(100, 1)
    # Above the highest rate and below the lowest the last slope goes on; no rate is above 1.
    assert TABLE.threshold({1: 100}, 1e-4) > row.scores[-1] > row.scores[0] > TABLE.threshold({1: 100}, 0.9)
    assert TABLE.fpir({1: 100}, -2.0) == 1
    assert 0 < TABLE.fpir({1: 100}, 0.9) < 1e-12
    # More templates than were measured count as the most that was.
    assert TABLE.threshold({50: 100}, 0.01) == TABLE.threshold({KINDS[-1]: 100}, 0.01)


@pytest.mark.parametrize("templates", KINDS)
@pytest.mark.parametrize("fpir", [0.5, 0.1, 0.01, 1e-3, 1e-5])
def test_far_beyond_the_largest_gallery_the_measured_slopes_cross_and_nothing_breaks(
    templates: int, fpir: float
) -> None:
    found = [TABLE.threshold({templates: subjects}, fpir) for subjects in (1000, 2000, 10**4, 10**5, 10**6)]
    assert found == sorted(found)
    assert found[-1] < found[0] + 0.1
    rates = [TABLE.fpir({templates: 10**5}, score) for score in np.linspace(-2, 1, 301)]
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[-1] >= 0) == (1, True)


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(st.integers(1, 5), st.integers(1, 300), min_size=2),
    st.floats(1e-4, 0.4),
)
def test_a_mixed_gallery_lies_between_the_pure_ones_of_its_size(gallery: dict[int, int], fpir: float) -> None:
    subjects = sum(gallery.values())
    pure = [TABLE.threshold({templates: subjects}, fpir) for templates in gallery]
    assert min(pure) - 2e-4 <= TABLE.threshold(gallery, fpir) <= max(pure) + 2e-4


def plainly_taken_off(row: list[float], size: int, weight: float) -> list[float]:
    """What the documentation says, word for word."""
    left = [score for score in row if math.isfinite(score)]
    found = []
    for index, score in enumerate(row):
        others = sorted((s for i, s in enumerate(row) if i != index and math.isfinite(s)), reverse=True)
        others = others[: min(size, len(left) - 1)]
        crowd = sum(others) / len(others) if others and math.isfinite(score) else 0.0
        found.append(score - weight * crowd)
    return found


@settings(deadline=None)
@given(
    subjects=st.integers(1, 9),
    left_out=st.integers(0, 2),
    size=st.integers(0, 10),
    weight=st.floats(0, 1),
    seed=st.integers(0, 10**6),
)
def test_the_crowd_as_a_plain_loop_finds_it(subjects: int, left_out: int, size: int, weight: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    # One decimal: ties are everywhere.
    similarities: Scores = random.uniform(-1, 1, (5, subjects)).round(1)
    for row in similarities:
        row[random.choice(subjects, min(left_out, subjects), replace=False)] = -np.inf
    before = similarities.copy()
    adjusted = take_off_crowd(similarities, size, weight)
    assert np.array_equal(similarities, before)
    for row, found in zip(similarities.tolist(), adjusted.tolist(), strict=True):
        assert found == pytest.approx(plainly_taken_off(row, size, weight))


@pytest.mark.parametrize("shape", [(0, 5), (0, 0), (3, 1)])
def test_nothing_is_taken_off_where_there_is_no_crowd(shape: tuple[int, int]) -> None:
    similarities = np.full(shape, 0.7)
    assert np.array_equal(take_off_crowd(similarities, 5, 0.5), similarities)
    assert np.array_equal(take_off_crowd(np.ones((2, 3)), 0, 0.5), np.ones((2, 3)))


def unit_rows(random: np.random.Generator, rows: int, dim: int) -> list[Embedding]:
    values = random.normal(size=(rows, dim)).astype(np.float32)
    return list(values / np.linalg.norm(values, axis=1, keepdims=True))


@pytest.mark.parametrize("subjects", [1, 2, 5, 6, 7, 200])
def test_a_search_at_the_door_compares_as_the_bundles_strangers_did(subjects: int) -> None:
    random = np.random.default_rng(subjects)
    faces, probes = unit_rows(random, subjects, 32), unit_rows(random, 50, 32)
    gallery = Gallery(MODEL, [Template(SubjectId(f"s{n}"), MODEL, face) for n, face in enumerate(faces)])
    adjusted = TABLE.take_off_crowd(np.stack(probes).astype(np.float64) @ gallery.matrix.T.astype(np.float64))
    threshold = float(np.median(adjusted.max(axis=1)))
    rule = DecisionRule(threshold, 0.0, TABLE.crowd_size, TABLE.crowd_weight)
    decisions = [rule.decide(gallery.search(probe)) for probe in probes]
    for decision, row in zip(decisions, adjusted, strict=True):
        assert decision.score is not None
        first = gallery.subjects.index(decision.candidates[0].subject_id)
        assert first == row.argmax()
        assert decision.score - (decision.threshold - threshold) == pytest.approx(row[first], abs=1e-5)
    identified = sum(decision.subject_id is not None for decision in decisions)
    assert identified == pytest.approx(len(probes) / 2, abs=1)


def test_a_search_is_deep_enough_for_the_crowd() -> None:
    assert TABLE.crowd_size < SEARCH_DEPTH


def test_a_table_with_one_gallery_is_read_for_every_other() -> None:
    one = SearchScores(
        crowd_size=0,
        crowd_weight=0,
        fpirs=(0.1, 0.01),
        galleries=(StrangerScores(subjects=10, templates=1, scores=(0.5, 0.6)),),
        measured_on="nobody",
    )
    for gallery in ({1: 1}, {1: 1000}, {7: 20}, {}):
        assert one.threshold(gallery, 0.01) == pytest.approx(0.6, abs=1e-4)
