"""The self-test: what it finds in bundles that load and run, and that it finds nothing in sound ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from broken_bundles import make_bundle, swap_weights

from kiosk import selftest
from kiosk.bundle import BUILT_IN, BUILT_IN_BUNDLE, Bundle, read_bundle
from kiosk.embedder import TfliteEmbedder
from kiosk.errors import ModelError
from kiosk.selftest import SAMPLES, Sample, examine_bundle, find_samples, record_answers
from kiosk.tflite import Runtime


@pytest.fixture(scope="module")
def found(runtime: Runtime) -> list[Sample]:
    return find_samples(runtime)


def problem(bundle: Bundle, found: list[Sample], runtime: Runtime) -> str:
    with pytest.raises(ModelError) as caught:
        examine_bundle(bundle, TfliteEmbedder(bundle, runtime=runtime), found)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_built_in_bundle_passes_with_the_answers_it_was_built_with(found: list[Sample], runtime: Runtime) -> None:
    bundle = read_bundle(BUILT_IN / BUILT_IN_BUNDLE)
    assert len(bundle.manifest.known_answers) == len(list(SAMPLES.glob("*.jpg"))) == len(found)
    examine_bundle(bundle, TfliteEmbedder(bundle, runtime=runtime), found)
    for recorded, now in zip(bundle.manifest.known_answers, record_answers(bundle), strict=True):
        assert recorded.photo_sha256 == now.photo_sha256
        assert float(recorded.decoded() @ now.decoded()) > 0.999


def test_an_older_bundle_passes_by_its_pairs(found: list[Sample], tmp_path: Path, runtime: Runtime) -> None:
    for name, changes in (("old", {"known_answers": []}), ("unmeasured", {"known_answers": [], "thresholds": []})):
        bundle = make_bundle(tmp_path / name, **changes)
        examine_bundle(bundle, TfliteEmbedder(bundle, runtime=runtime), found)


def test_swapped_weights_are_found(found: list[Sample], tmp_path: Path, runtime: Runtime) -> None:
    make_bundle(tmp_path / "swapped")
    assert "another answer than where the bundle was built" in problem(
        swap_weights(tmp_path / "swapped"), found, runtime
    )


def test_and_without_answers_too(found: list[Sample], tmp_path: Path, runtime: Runtime) -> None:
    make_bundle(tmp_path / "swapped")
    assert "taken for" in problem(swap_weights(tmp_path / "swapped", known_answers=[]), found, runtime)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"preprocessing": "fixed-127.5-128"}, "another answer"),
        ({"alignment": "eyes-box-v1"}, "another answer"),
        ({"alignment": "haar-square-v1", "known_answers": []}, "taken for two people"),
        ({"thresholds": [{"fmr": 0.001, "score": 0.98}]}, "taken for two people"),
        ({"thresholds": [{"fmr": 0.001, "score": 0.6}]}, "taken for one person"),
    ],
)
def test_a_manifest_of_another_model_is_found(
    found: list[Sample], tmp_path: Path, changes: dict[str, object], told: str, runtime: Runtime
) -> None:
    assert told in problem(make_bundle(tmp_path / "wrong", **changes), found, runtime)


def test_a_photo_that_is_not_the_recorded_one_says_nothing(
    found: list[Sample], tmp_path: Path, runtime: Runtime
) -> None:
    answers = [answer.model_dump() for answer in read_bundle(BUILT_IN / BUILT_IN_BUNDLE).manifest.known_answers]
    answers[0]["embedding"], answers[1]["embedding"] = answers[-1]["embedding"], answers[-1]["embedding"]
    wrong = make_bundle(tmp_path / "wrong", known_answers=answers)
    assert "obama.jpg gives another answer" in problem(wrong, found, runtime)
    answers[0]["photo_sha256"] = answers[1]["photo_sha256"] = "0" * 64
    other = make_bundle(tmp_path / "other", known_answers=answers)
    examine_bundle(other, TfliteEmbedder(other, runtime=runtime), found)


def test_a_model_that_is_too_slow_is_of_no_use(
    found: list[Sample], monkeypatch: pytest.MonkeyPatch, runtime: Runtime
) -> None:
    monkeypatch.setattr(selftest, "MAX_ANSWER_S", 1e-6)
    assert "a photo takes" in problem(read_bundle(BUILT_IN / BUILT_IN_BUNDLE), found, runtime)


@pytest.mark.parametrize("embedding", ["AAAA", "AAAAAAA", "not base64!"])
def test_an_answer_that_is_no_embedding_is_one_line(tmp_path: Path, embedding: str) -> None:
    with pytest.raises(ModelError, match="manifest") as caught:
        make_bundle(
            tmp_path / "odd",
            known_answers=[{"photo": "obama.jpg", "photo_sha256": "0" * 64, "embedding": embedding}],
        )
    assert "\n" not in str(caught.value)
