"""Open-set identification against its definitions, computed one search at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.identification import (
    Searches,
    figures_at,
    fuse_rows,
    identification_figures,
    join_searches,
    random_galleries,
    search_gallery,
)
from kiosk.errors import InputError
from kiosk.gallery import fuse

MISSING = np.full(8, np.nan, np.float32)


def unit_rows(random: np.random.Generator, count: int, dimension: int = 8) -> np.ndarray:
    rows = random.normal(size=(count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def make_people(
    count: int, photos: int | list[int], *, seed: int = 0, spread: float = 0.35, dimension: int = 16
) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    numbers = [photos] * count if isinstance(photos, int) else photos
    people = {}
    for index, number in enumerate(numbers):
        centre = unit_rows(random, 1, dimension)
        rows = centre + spread * unit_rows(random, number, dimension)
        people[f"p{index:03d}"] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return people


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 8), st.integers(1, 8))
def test_searches_and_rates_by_definition(seed: int, size: int, mated_count: int, stranger_count: int) -> None:
    random = np.random.default_rng(seed)
    subjects = [f"s{number}" for number in range(size)]
    templates = unit_rows(random, size)
    mated = [(str(random.choice(subjects)), row) for row in unit_rows(random, mated_count)]
    strangers = [(f"x{number}", row) for number, row in enumerate(unit_rows(random, stranger_count))]
    if random.random() < 0.3:
        templates[0] = np.nan
    if random.random() < 0.3:
        mated[0] = (mated[0][0], MISSING)
    if random.random() < 0.3:
        strangers[0] = ("x0", MISSING)
    searches = search_gallery(subjects, templates, mated, strangers)

    def score(name: str, probe: np.ndarray) -> float:
        value = float(templates[subjects.index(name)].astype(float) @ probe.astype(float))
        return -math.inf if math.isnan(value) else value

    for threshold in (-0.5, 0.0, 0.4):
        figures = figures_at(searches, threshold, resamples=2)
        misses = 0
        for name, probe in mated:
            others = [score(other, probe) for other in subjects if other != name]
            own = score(name, probe)
            misses += not (own > max(others, default=-math.inf) and own >= threshold)
        passed = sum(max(score(name, probe) for name in subjects) >= threshold for _, probe in strangers)
        assert figures["fnir"] == pytest.approx(misses / mated_count)
        assert figures["fpir"] == pytest.approx(passed / stranger_count)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["0.01", "0.001", "0.2"]))
def test_fnir_at_fpir_by_trying_every_threshold(seed: int, fpir: str) -> None:
    random = np.random.default_rng(seed)
    # Rounded, so that scores are often equal.
    own, other = random.integers(-9, 10, (2, 30)) / 10
    nearest = random.integers(-9, 10, 500) / 10
    own[0] = nearest[0] = np.nan
    names = np.array([str(number) for number in range(500)])
    searches = Searches(names[:30], own, names[:30], other, names, names, nearest)
    figures = identification_figures(searches, fpirs=[fpir], resamples=2)
    slow = 1.0
    for threshold in np.arange(-1.05, 1.2, 0.1):
        if np.sum(nearest >= threshold) <= float(fpir) * 500:
            slow = min(slow, 1 - np.mean((own > other) & (own >= threshold)))
    assert figures["fnir_at_fpir"][fpir] == pytest.approx(slow)
    at = figures_at(searches, figures["threshold_at_fpir"][fpir], resamples=2)
    assert at["fnir"] == pytest.approx(slow)
    assert at["fpir"] <= float(fpir)


def test_rank_one_counts_every_search() -> None:
    nan = math.nan
    names = np.array(["a", "b", "c", "d"])
    searches = Searches(
        names, np.array([0.9, 0.3, nan, 0.5]), names, np.array([0.1, 0.4, nan, 0.5]), names, names, np.zeros(4)
    )
    # One is first, one second, one has no face, one shares the first place.
    assert searches.first.tolist() == [True, False, False, False]
    assert identification_figures(searches, resamples=2)["rank1_rate"] == 0.25


def test_a_rate_that_the_strangers_cannot_show_is_none_with_the_reason() -> None:
    searches = random_galleries(make_people(60, 3), size=20, rounds=2)
    figures = identification_figures(searches, resamples=10)
    assert figures["stranger_searches"] == 80
    assert figures["fnir_at_fpir"]["0.01"] is not None
    assert figures["fnir_at_fpir"]["0.001"] is None
    assert figures["threshold_at_fpir"]["0.001"] is None
    assert figures["fnir_at_fpir_reason"] == {
        "0.001": "80 searches by strangers cannot show a rate of 0.001: at least 500 are needed"
    }


def test_intervals_come_from_people_not_from_searches() -> None:
    once = random_galleries(make_people(120, 4, spread=0.9), size=60, rounds=2)
    figures = figures_at(once, 0.75)
    for rate in ("fnir", "fpir"):
        low, high = figures[f"{rate}_ci"]
        assert low < figures[rate] < high
    # Ten times the same searches are no more evidence than once.
    assert figures_at(join_searches([once] * 10), 0.75) == figures


def test_fused_rows_are_what_the_kiosk_stores() -> None:
    rows = unit_rows(np.random.default_rng(1), 3)
    assert fuse_rows(rows) == pytest.approx(fuse(list(rows)))
    assert fuse_rows(np.vstack([rows, MISSING])) == pytest.approx(fuse(list(rows)))
    assert np.isnan(fuse_rows(np.stack([MISSING, MISSING]))).all()


def one_hot_people(photos: list[int]) -> dict[str, np.ndarray]:
    """Every photo in a direction of its own: a score above 0 means that one photo is on both sides."""
    axes = np.eye(sum(photos), dtype=np.float32)
    ends = np.cumsum(photos)
    return {f"p{n:02d}": axes[end - count : end] for n, (end, count) in enumerate(zip(ends, photos, strict=True))}


def test_no_photo_is_enrolled_and_searched() -> None:
    searches = random_galleries(one_hot_people([6] * 20), size=8, templates=3, fuse=2, rounds=5)
    assert (searches.own_scores == 0).all()
    assert (searches.nearest_scores == 0).all()


def test_everybody_else_is_a_stranger() -> None:
    searches = random_galleries(make_people(20, 3), size=8, templates=2, rounds=4)
    for part in range(4):
        enrolled = set(searches.mated_people[part * 8 : part * 8 + 8])
        others = set(searches.stranger_people[part * 12 : part * 12 + 12])
        assert len(enrolled) == 8
        assert len(others) == 12
        assert not enrolled & others
        assert set(searches.nearest_people[part * 12 : part * 12 + 12]) <= enrolled
    assert len(set(searches.mated_people)) > 15


def test_who_can_be_searched_is_enrolled_first() -> None:
    people = make_people(0, [1] * 10 + [2] * 10 + [3] * 10)
    searches = random_galleries(people, size=15, templates=2, rounds=3)
    # Ten have three photos; five more only what is enrolled.
    assert len(searches.mated_people) == 30
    assert set(searches.mated_people) == {f"p{number:03d}" for number in range(20, 30)}
    assert len(searches.stranger_people) == 45


def test_strangers_need_as_many_photos_as_a_probe_unless_partial() -> None:
    people = make_people(0, [1] * 10 + [4] * 10)
    whole = random_galleries(people, size=5, templates=2, fuse=2, rounds=1)
    assert len(whole.stranger_people) == 5
    partial = random_galleries(people, size=5, templates=2, fuse=2, rounds=1, partial=True)
    assert len(partial.stranger_people) == 15


def test_too_few_people_have_enough_photos() -> None:
    people = make_people(0, [1] * 10 + [4] * 10)
    with pytest.raises(InputError, match="only 10 of 20 people have that many"):
        random_galleries(people, size=11, templates=2)
    assert len(random_galleries(people, size=12, templates=2, rounds=1, partial=True).mated_people) == 10
    with pytest.raises(InputError, match="only 20 of 20"):
        random_galleries(people, size=21, templates=2, partial=True)
    with pytest.raises(InputError, match="leave 0 of them and 10 strangers"):
        random_galleries(make_people(20, 2), size=10, templates=2)


def test_the_same_seed_gives_the_same_galleries() -> None:
    people = make_people(30, 4)
    first, again, other = (random_galleries(people, size=10, rounds=2, seed=seed) for seed in (1, 1, 2))
    assert (first.own_scores == again.own_scores).all()
    assert (first.mated_people == again.mated_people).all()
    assert (first.mated_people != other.mated_people).any()


def test_a_score_rule_sees_similarities_and_decides_the_scores() -> None:
    people = make_people(30, 4)
    people["p000"][:] = np.nan
    shapes = []

    def standardize(similarities: np.ndarray) -> np.ndarray:
        assert np.isfinite(similarities).all()
        shapes.append(similarities.shape)
        return (similarities - similarities.mean(axis=1, keepdims=True)) / similarities.std(axis=1, keepdims=True)

    plain = random_galleries(people, size=10, rounds=3)
    adjusted = random_galleries(people, size=10, rounds=3, score=standardize)
    assert len(shapes) == 6
    assert {columns for _, columns in shapes} <= {9, 10}
    assert (plain.mated_people == adjusted.mated_people).all()
    found = ~np.isnan(plain.own_scores)
    assert (found == ~np.isnan(adjusted.own_scores)).all()
    assert adjusted.own_scores[found].max() > 1


def test_galleries_of_one_have_no_other() -> None:
    searches = random_galleries(make_people(5, 2), size=1, rounds=2)
    assert np.isneginf(searches.other_scores).all()
    assert searches.first.all()


def test_searches_are_joined_in_order() -> None:
    parts = [random_galleries(make_people(6, 2), size=3, rounds=1, seed=seed) for seed in (1, 2)]
    joined = join_searches(parts)
    assert joined.own_scores.tolist() == [*parts[0].own_scores, *parts[1].own_scores]
    assert joined.nearest_people.tolist() == [*parts[0].nearest_people, *parts[1].nearest_people]
