"""The comparison of two machines notices what it is there for. (What it compares is made by `just arm64`.)"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from comparison import Observation, compare

# No library's version changes any of it.
pytestmark = pytest.mark.stories

BUNDLE = "dlib-resnet29-int8"
PHOTO = "a.jpg"


def observation() -> Observation:
    """One photo with one face, on a machine that has made each step from the other's input, too."""
    generator = np.random.default_rng(1)
    embedding = generator.normal(size=128).astype(np.float32)
    embedding /= np.linalg.norm(embedding)
    face = np.array([[10.0, 20, 100, 100, 0.9, 30, 50, 70, 50, 50, 70, 50, 90, 15, 55, 90, 55]])
    steps = {
        "faces": face,
        "quality": generator.uniform(size=8),
        f"crop/{BUNDLE}": generator.integers(0, 255, (15, 15, 3), np.uint8),
        f"embedding/{BUNDLE}": embedding,
    }
    arrays = {f"{PHOTO}/image": generator.integers(0, 255, (9, 9, 3), np.uint8), f"{PHOTO}/face": face}
    arrays |= {f"{PHOTO}/{stage}{key}": value for key, value in steps.items() for stage in ("", "given/")}
    matched = {"decision": "identified", "reason": "match", "subject_id": "obama", "score": 0.9}
    document = {
        "machine": {"processor": "aarch64", "runtime": "ai-edge-litert 2.3.0"},
        "xnnpack_parts": {"blazeface": 1, BUNDLE: 5},
        "photos": [PHOTO],
        "identify": [{"photo": PHOTO, "faces": [matched]}],
        "verify": {"same": True, "score": 0.9},
        "said": [],
        "events": [
            {"event_type": "check_in", "subject": {"id": "obama"}, "match": {"score": 0.9, "frames": 3}},
            {"event_type": "unknown", "reason": "unknown", "score": 0.3},
        ],
    }
    return Observation(arrays, document)


def test_what_is_the_same_passes() -> None:
    figures = compare(observation(), observation())
    assert figures["problems"] == []
    assert max(row["worst"] for rows in figures["differences"].values() for row in rows.values()) < 1e-6


def moved(key: str, amount: float) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(arrays: dict[str, Any], _: dict[str, Any]) -> None:
        arrays[key] = (arrays[key] + amount).astype(arrays[key].dtype)

    return change


def changed(*path: str | int, to: object) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(_: dict[str, Any], document: dict[str, Any]) -> None:
        *way, last = path
        for step in way:
            document = document[step]
        document[last] = to

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (moved(f"{PHOTO}/faces", 3.0), "in a chain: box"),
        (moved(f"{PHOTO}/given/faces", 3.0), "each step from the same input: landmark"),
        (moved(f"{PHOTO}/given/crop/{BUNDLE}", 100), f"each step from the same input: crop of {BUNDLE}"),
        (moved(f"{PHOTO}/embedding/{BUNDLE}", 0.1), f"in a chain: cosine of {BUNDLE}"),
        (moved(f"{PHOTO}/embedding/{BUNDLE}", np.nan), f"in a chain: cosine of {BUNDLE}"),
        (moved(f"{PHOTO}/quality", 2.0), "in a chain: sharpness"),
        (moved(f"{PHOTO}/image", 1), "in a chain: pixels"),
        (lambda arrays, _: arrays.pop(f"{PHOTO}/given/embedding/{BUNDLE}"), f"cosine of {BUNDLE}"),
        (lambda arrays, _: arrays.update({f"{PHOTO}/faces": np.zeros((0, 17))}), "in a chain: box"),
        (changed("identify", 0, "faces", 0, "subject_id", to="biden"), "a.jpg: subject_id is biden there, obama here"),
        (changed("identify", 0, "faces", 0, "decision", to="unknown"), "a.jpg: decision is unknown there"),
        (changed("identify", 0, "faces", 0, "score", to=0.8), "commands: score"),
        (changed("identify", 0, "faces", 0, "score", to=None), "commands: score"),
        (changed("identify", 0, "faces", to=[]), "identify: 0 faces there, 1 here"),
        (changed("verify", "same", to=False), "verify: same is False there"),
        (changed("said", to=["UserWarning: x"]), "on stderr, there only: UserWarning: x"),
        (changed("events", to=[]), "run: 0 events there, 2 here"),
        (changed("events", 0, "subject", to={"id": "biden"}), "run: subject is {'id': 'biden'} there"),
        (changed("events", 0, "match", "score", to=0.8), "commands: score"),
        (changed("events", 0, "match", "frames", to=4), "run: frames is 4 there"),
        (changed("events", 1, "score", to=0.4), "commands: score"),
        (changed("xnnpack_parts", BUNDLE, to=0), f"aarch64: {BUNDLE} runs without XNNPACK"),
        (changed("photos", to=["b.jpg"]), "not the same photos"),
    ],
)
def test_what_is_not_is_told(change: Callable[[dict[str, Any], dict[str, Any]], None], told: str) -> None:
    here, there = observation(), observation()
    document = copy.deepcopy(there.document)
    arrays = dict(there.arrays)
    change(arrays, document)
    problems = compare(here, Observation(arrays, document))["problems"]
    assert any(told in problem for problem in problems), problems


def test_without_xnnpack_the_old_runtime_may_differ_by_more() -> None:
    """Integer kernels of tflite-runtime that are others on each processor, but not LiteRT's, which are the same."""
    here, there = observation(), observation()
    key = f"{PHOTO}/given/embedding/{BUNDLE}"
    embedding = there.arrays[key] + np.float32(0.002) * (np.arange(128) % 2)
    arrays = {**there.arrays, key: (embedding / np.linalg.norm(embedding)).astype(np.float32)}
    assert compare(here, Observation(arrays, there.document))["problems"] != []
    for document in (here.document, there.document):
        document["machine"]["runtime"] = "tflite-runtime 2.14.0"
        document["xnnpack_parts"][BUNDLE] = 0
    assert compare(here, Observation(arrays, there.document))["problems"] == []


def test_a_comparison_of_nothing_is_none() -> None:
    """Neither photos without a face nor a clip without a check-in say that two machines agree."""
    empty = observation()
    for key in [key for key in empty.arrays if "embedding" in key]:
        del empty.arrays[key]  # type: ignore[attr-defined]
    empty.document["events"] = []
    problems = compare(empty, empty)["problems"]
    assert "run: nobody was checked in" in problems
    assert "in a chain: no embedding was compared" in problems
