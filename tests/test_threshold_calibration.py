"""Calibration with people of the test's making: faces as alike as those of the table, more alike, less alike, twins."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kiosk.biometrics import Embedding, ModelId, SubjectId, Template
from kiosk.calibration import (
    Calibration,
    StrangerSearches,
    calibrate,
    find_alike,
    own_scores,
    search_strangers,
    search_without_own,
)
from kiosk.errors import InputError
from kiosk.gallery import Gallery
from kiosk.thresholds import SearchScores, StrangerScores, take_off_crowd

MODEL, OTHER = ModelId("m@1"), ModelId("other@1")
DIM = 32
# How much a photo of a person strays from the person.
BLUR = 0.5
NOW = "2026-03-02T08:00:00+00:00"
CROWD_SIZE, CROWD_WEIGHT = 5, 0.5
FPIRS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)

Rows = NDArray[np.float32]


def normalised(rows: NDArray[np.float64]) -> Rows:
    unit: Rows = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
    return unit


def draw_people(seed: int, people: int, photos: int, *, spread: int = DIM) -> Rows:
    """Photos (people, photos, DIM). ``spread``: in so many dimensions people differ; the fewer, the more alike."""
    random = np.random.default_rng(seed)
    faces = np.zeros((people, 1, DIM))
    faces[..., :spread] = random.normal(size=(people, 1, spread))
    faces /= np.linalg.norm(faces, axis=-1, keepdims=True)
    return normalised(faces + BLUR / np.sqrt(DIM) * random.normal(size=(people, photos, DIM)))


def as_templates(photos: Rows, model: ModelId = MODEL) -> list[Template]:
    return [Template(SubjectId(f"p{i}"), model, photo) for i, rows in enumerate(photos) for photo in rows]


def measure_table() -> SearchScores:
    """What a bundle carries, measured in the same way: strangers' searches in galleries of several sizes."""
    rows = []
    for subjects in (20, 100):
        best = []
        for draw in range(20):
            gallery = Gallery(MODEL, as_templates(draw_people(1000 + draw, subjects, 2)))
            strangers = draw_people(2000 + draw, 500, 1)[:, 0].astype(np.float64)
            similarities = strangers @ gallery.matrix.T.astype(np.float64)
            best.append(take_off_crowd(similarities, CROWD_SIZE, CROWD_WEIGHT).max(axis=1))
        scores = np.quantile(np.concatenate(best), 1 - np.array(FPIRS)).tolist()
        rows.append(StrangerScores(subjects=subjects, templates=2, scores=tuple(scores)))
    return SearchScores(
        crowd_size=CROWD_SIZE, crowd_weight=CROWD_WEIGHT, fpirs=FPIRS, galleries=tuple(rows), measured_on="test"
    )


TABLE = measure_table()


def calibrated(photos: Rows) -> tuple[Calibration, Gallery]:
    templates = as_templates(photos)
    gallery = Gallery(MODEL, templates)
    return calibrate(search_without_own(templates, gallery, TABLE), gallery, TABLE, created_at=NOW), gallery


def false_positives(gallery: Gallery, threshold: float, strangers: Rows) -> float:
    similarities = strangers.astype(np.float64) @ gallery.matrix.T.astype(np.float64)
    return float((TABLE.take_off_crowd(similarities).max(axis=1) >= threshold).mean())


@pytest.mark.parametrize("seed", range(3))
def test_people_like_those_of_the_table_move_nothing_that_matters(seed: int) -> None:
    calibration, _ = calibrated(draw_people(seed, 80, 2))
    low, high = calibration.interval
    assert low <= calibration.measured_shift <= high
    # The interval is one of 95 %; that none of these three misses by more than a hundredth is checked with it.
    assert low - 0.01 <= 0 <= high + 0.01
    assert abs(calibration.score_shift) < 0.03
    assert (calibration.subjects, calibration.searches, calibration.people) == (80, 160, 80)
    assert calibration.model == MODEL
    assert calibration.created_at == NOW


def test_people_more_alike_than_the_table_move_the_threshold_up_to_where_it_holds() -> None:
    calibration, gallery = calibrated(draw_people(7, 80, 2, spread=12))
    assert calibration.interval[0] > 0
    assert calibration.score_shift == calibration.measured_shift > 0.05
    strangers = draw_people(8, 4000, 1, spread=12)[:, 0]
    threshold = TABLE.threshold(gallery.subjects_by_templates, 0.05)
    assert false_positives(gallery, threshold, strangers) > 0.1
    assert false_positives(gallery, threshold + calibration.score_shift, strangers) == pytest.approx(0.05, abs=0.03)


def searches_at(shift: float, *, spread: float, seed: int = 3) -> tuple[StrangerSearches, Gallery]:
    """Searches of 40 people whose scores lie around the table's by so much, and differ by ``spread`` from person to
    person.
    """
    random = np.random.default_rng(seed)
    gallery = Gallery(MODEL, as_templates(draw_people(1, 40, 2)))
    rates = random.uniform(0.01, 0.5, size=(40, 5))
    scores = np.array([[TABLE.threshold(gallery.subjects_by_templates, rate) for rate in row] for row in rates])
    scores += shift + random.normal(0, spread, size=(40, 1))
    return StrangerSearches(scores.ravel(), tuple(f"p{i}" for i in range(40) for _ in range(5))), gallery


@pytest.mark.parametrize(
    ("shift", "spread", "kind"), [(-0.3, 0.05, "surely lower"), (-0.2, 0.2, "perhaps lower"), (-0.1, 0.2, "higher")]
)
def test_up_by_what_was_measured_and_down_only_as_far_as_the_whole_interval_goes(
    shift: float, spread: float, kind: str
) -> None:
    searches, gallery = searches_at(shift, spread=spread)
    calibration = calibrate(searches, gallery, TABLE, created_at=NOW)
    high = calibration.interval[1]
    match kind:
        case "surely lower":
            assert calibration.measured_shift < calibration.score_shift == high < 0
        case "perhaps lower":
            assert calibration.measured_shift < calibration.score_shift == 0 < high
        case "higher":
            assert calibration.score_shift == calibration.measured_shift > 0


def test_the_same_searches_give_the_same_figures() -> None:
    photos = draw_people(5, 40, 2)
    assert calibrated(photos)[0] == calibrated(photos)[0]


@pytest.mark.parametrize(
    ("people", "photos", "told"),
    [
        (9, 5, "9 people with 45 photos"),
        (14, 2, "14 people with 28 photos"),
        (1, 40, "1 people with 40 photos"),
        (2, 3, "2 people with 6 photos"),
    ],
)
def test_too_few_to_say_anything(people: int, photos: int, told: str) -> None:
    with pytest.raises(InputError, match=rf"^{told} are too few .* --strangers$") as caught:
        calibrated(draw_people(0, people, photos))
    assert "\n" not in str(caught.value)


def test_just_enough() -> None:
    calibration, _ = calibrated(draw_people(0, 10, 3))
    assert (calibration.people, calibration.searches) == (10, 30)
    # Ten of thirty searches: lower rates would rest on too few.
    assert calibration.rates == (pytest.approx(1 / 3),)


def test_rates_are_the_lowest_that_ten_searches_reach() -> None:
    assert calibrated(draw_people(0, 50, 2))[0].rates == (0.2, 0.1)
    assert calibrated(draw_people(0, 100, 2))[0].rates == (0.2, 0.1, 0.05)
    assert calibrated(draw_people(0, 100, 5))[0].rates == (0.1, 0.05, 0.02)


def test_nobody_finds_themselves() -> None:
    photos = draw_people(2, 30, 3)
    templates = as_templates(photos)
    gallery = Gallery(MODEL, templates)
    searches = search_without_own([*templates, *as_templates(photos[:5], OTHER)], gallery, TABLE)
    assert searches.people == tuple(template.subject_id for template in templates)
    for template, found in zip(templates, searches.scores, strict=True):
        others = Gallery(MODEL, [t for t in templates if t.subject_id != template.subject_id])
        similarities = template.embedding[None].astype(np.float64) @ others.matrix.T.astype(np.float64)
        assert found == pytest.approx(TABLE.take_off_crowd(similarities).max(), abs=1e-6)


@pytest.mark.parametrize("people", [0, 1])
def test_nobody_to_search_among(people: int) -> None:
    templates = as_templates(draw_people(0, 1, 2)[:people])
    gallery = Gallery(MODEL, templates)
    assert search_without_own(templates, gallery, TABLE).people == ()
    assert find_alike(gallery, TABLE, -1.0) == []
    strangers = search_strangers([photo for (photo,) in draw_people(1, 3, 1)], "abc", gallery, TABLE)
    assert len(strangers.scores) == len(strangers.people) == 3 * people


def test_strangers_are_searched_among_all_and_added() -> None:
    templates = as_templates(draw_people(2, 30, 2))
    gallery = Gallery(MODEL, templates)
    strangers: list[Embedding] = [photo for (photo,) in draw_people(9, 4, 1)]
    searches = search_strangers(strangers, ["x", "x", "y", "z"], gallery, TABLE)
    similarities = np.stack(strangers).astype(np.float64) @ gallery.matrix.T.astype(np.float64)
    assert searches.scores == pytest.approx(TABLE.take_off_crowd(similarities).max(axis=1))
    both = search_without_own(templates, gallery, TABLE) + searches
    calibration = calibrate(both, gallery, TABLE, created_at=NOW, stranger_photos=4)
    assert (calibration.people, calibration.searches, calibration.stranger_photos) == (33, 64, 4)
    assert len(search_strangers([], [], gallery, TABLE).scores) == 0


def test_own_photos_against_the_others_of_the_subject() -> None:
    photos = draw_people(4, 12, 3)
    templates = [*as_templates(photos), Template(SubjectId("single"), MODEL, draw_people(5, 1, 1)[0, 0])]
    gallery = Gallery(MODEL, templates)
    scores = own_scores([*templates, *as_templates(photos, OTHER)], gallery, TABLE)
    assert len(scores) == 36  # one photo has no other to compare with
    index = 0
    for person, rows in enumerate(photos):
        for own in range(3):
            rest = [t for t in templates if t.embedding is not templates[person * 3 + own].embedding]
            left = Gallery(MODEL, rest)
            similarities = rows[own][None].astype(np.float64) @ left.matrix.T.astype(np.float64)
            wanted = TABLE.take_off_crowd(similarities)[0, left.subjects.index(SubjectId(f"p{person}"))]
            assert scores[index] == pytest.approx(wanted, abs=1e-6)
            index += 1
    searches = search_without_own(templates, gallery, TABLE)
    assert np.median(scores) > np.quantile(searches.scores, 0.99)


def test_no_second_photo_no_own_score() -> None:
    templates = as_templates(draw_people(4, 12, 1))
    assert own_scores(templates, Gallery(MODEL, templates), TABLE).shape == (0,)


def test_twins_are_named_once_most_alike_first() -> None:
    photos = draw_people(6, 40, 2)
    photos[31] = normalised(photos[3] + 0.02 * draw_people(60, 1, 2)[0])
    photos[20] = normalised(photos[11] + 0.3 * draw_people(61, 1, 2)[0])
    gallery = Gallery(MODEL, as_templates(photos))
    pairs = find_alike(gallery, TABLE, TABLE.threshold(gallery.subjects_by_templates, 1e-4))
    assert [(pair.a, pair.b) for pair in pairs] == [("p3", "p31"), ("p11", "p20")]
    assert pairs[0].score == pytest.approx(float(gallery.matrix[3] @ gallery.matrix[31]))
    assert pairs[0].score > pairs[1].score
