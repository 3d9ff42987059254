import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiosk.biometrics import Embedding, ModelId, SubjectId, Template
from kiosk.gallery import Gallery, Readiness, fuse

MODEL = ModelId("m@000001")


def unit(*values: float) -> Embedding:
    vector = np.array(values, np.float32)
    return vector / np.linalg.norm(vector)


def template(subject: str, embedding: Embedding, model: ModelId = MODEL) -> Template:
    return Template(SubjectId(subject), model, embedding)


def test_empty_gallery_has_no_candidates() -> None:
    assert Gallery(MODEL, []).search(unit(1, 0)) == ()


def test_best_subject_first_and_scores_are_cosines() -> None:
    gallery = Gallery(MODEL, [template("a", unit(1, 0)), template("b", unit(0, 1))])
    first, second = gallery.search(unit(3, 4))
    assert (first.subject_id, second.subject_id) == ("b", "a")
    assert (first.score, second.score) == (pytest.approx(0.8), pytest.approx(0.6))
    assert gallery.score(SubjectId("a"), unit(3, 4)) == pytest.approx(0.6)


def test_a_subjects_templates_are_fused_to_one_candidate() -> None:
    gallery = Gallery(MODEL, [template("a", unit(1, 0)), template("a", unit(0, 1))])
    (only,) = gallery.search(unit(1, 1))
    assert only.score == pytest.approx(1.0)
    assert (len(gallery), gallery.template_count) == (1, 2)


def test_an_updated_gallery_is_the_one_that_would_be_built_anew() -> None:
    rng = np.random.default_rng(0)
    templates: list[Template] = []
    grown = Gallery(MODEL, [])
    for subject in "abcabad":
        templates += [template(subject, unit(*rng.normal(size=8))) for _ in range(2)]
        before = grown.matrix.copy()
        own = [one.embedding for one in templates if one.subject_id == subject]
        grown, old = grown.updated(SubjectId(subject), own), grown
        built = Gallery(MODEL, templates)
        assert (grown.subjects, grown.template_counts) == (built.subjects, built.template_counts)
        assert np.array_equal(grown.matrix, built.matrix)
        assert np.array_equal(old.matrix, before)


def test_templates_of_another_model_are_never_compared() -> None:
    gallery = Gallery(MODEL, [template("a", unit(1, 0)), template("b", unit(1, 0, 0), ModelId("other@000002"))])
    assert [c.subject_id for c in gallery.search(unit(1, 0))] == ["a"]
    assert gallery.foreign == 1


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_search_equals_sorting_everything(subjects: int, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors = [unit(*random.normal(size=8)) for _ in range(subjects)]
    probe = unit(*random.normal(size=8))
    found = Gallery(MODEL, [template(f"s{i}", v) for i, v in enumerate(vectors)]).search(probe, k)
    expected = sorted((float(v @ probe) for v in vectors), reverse=True)[:k]
    assert [c.score for c in found] == pytest.approx(expected, abs=1e-5)


def test_restricted_leaves_out_who_is_gone_or_lapsed() -> None:
    gallery = Gallery(MODEL, [template(s, unit(1, i)) for i, s in enumerate("aabcd")])
    rest = gallery.restricted({SubjectId(s) for s in "abd"}, lapsed=frozenset({SubjectId("b")}))
    assert rest.subjects == ["a", "d"]
    assert (len(rest), rest.template_count, rest.subjects_by_templates) == (2, 3, {1: 1, 2: 1})
    assert rest.score(SubjectId("d"), unit(1, 4)) == pytest.approx(1.0)
    assert [c.subject_id for c in rest.search(unit(1, 2))] == ["d", "a"]
    assert rest.lapsed == {"b"}
    assert len(gallery) == 4


def test_fuse_weighs() -> None:
    assert fuse([unit(1, 0), unit(0, 1)], [1.0, 0.0]) == pytest.approx(unit(1, 0))


def test_readiness_tells_the_recognized_from_those_with_other_models_templates_only() -> None:
    old, older = ModelId("old@000002"), ModelId("old@000001")
    readiness = Readiness.of(
        MODEL,
        {
            SubjectId("both"): {MODEL: 1, old: 3},
            SubjectId("new"): {MODEL: 2},
            SubjectId("none"): {},
            SubjectId("old"): {old: 2, older: 1},
        },
    )
    assert (readiness.recognized, readiness.unrecognized) == (("both", "new"), ("old",))
    assert (readiness.stranded, readiness.kept) == ({old: 2, older: 1}, {old: 3})
