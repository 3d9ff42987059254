"""Two machines' observations side by side: what differs, by how much, and whether that is more than it may."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from observation import MEASURES

Arrays = Mapping[str, NDArray[Any]]

LIMITS = {
    "pixels": (0.0, 0.0),
    "box": (1e-3, 1e-3),
    "landmark": (1e-3, 1e-3),
    "detector_score": (1e-3, 1e-3),
    "crop": (16.0, 0.0),
    "size_px": (0.1, 1e-6),
    "eye_distance_px": (0.1, 1e-6),
    "sharpness": (0.1, 1e-3),
    "brightness": (0.1, 1e-3),
    "contrast": (0.1, 1e-3),
    "clipped": (0.005, 1e-6),
    "yaw": (1e-3, 1e-6),
    "pitch": (1e-3, 1e-6),
    "cosine float32": (1e-4, 1e-5),
    "cosine int8": (2e-3, 1e-5),
    "cosine int8 without XNNPACK": (2e-3, 1e-3),
}
"""The most that may differ, in the units of :func:`compare`: where each machine goes on with what it has made of the
step before, and where both begin a step with the same. Where from: docs/arm64.md."""

SCORE_LIMIT = 0.01
"""For the scores of decisions and events."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measure over all photos; ``worst`` is not a number where something was not found on both machines."""

    name: str
    count: int
    median: float
    worst: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.count > 0 and self.worst <= self.limit


@dataclass(frozen=True, slots=True)
class Observation:
    """What one machine has written."""

    arrays: Arrays
    document: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Observation:
        with np.load(path.with_suffix(".npz")) as arrays:
            return cls(dict(arrays), json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))


def compare(here: Observation, there: Observation) -> dict[str, Any]:
    """The document that is published; ``problems`` is empty where all agrees.

    Boxes differ in box widths, landmarks in eye distances, pixels and crops in grey levels, embeddings in 1 − cosine.
    """
    photos = here.document["photos"]
    chain = measure_steps(here, there)
    alone = measure_steps(here, there, given=True)
    scores, problems = _decisions(here.document, there.document)
    rows = {"in a chain": chain, "each step from the same input": alone, "commands": [scores]}
    for title in ("in a chain", "each step from the same input"):
        if not any(row.name.startswith("cosine") for row in rows[title]):
            problems.append(f"{title}: no embedding was compared")
    for title, measured in rows.items():
        problems += [
            f"{title}: {row.name}: {row.worst:.4g}, at most {row.limit:g}" for row in measured if not row.passed
        ]
    problems += _slow(here) + _slow(there)
    if here.document["photos"] != there.document["photos"]:
        problems.append("not the same photos")
    return {
        "here": here.document["machine"],
        "there": there.document["machine"],
        "photos": len(photos),
        "differences": {
            title: {row.name: {k: v for k, v in asdict(row).items() if k != "name"} for row in measured}
            for title, measured in rows.items()
        },
        "xnnpack_parts": there.document["xnnpack_parts"],
        "decisions": sum(len(image["faces"]) for image in there.document["identify"]),
        "events": [_essence(event) for event in there.document["events"]],
        "events_here": [_essence(event) for event in here.document["events"]],
        "problems": problems,
    }


def _essence(event: dict[str, Any]) -> dict[str, Any]:
    """An event without what is new each time."""
    return {key: event[key] for key in ("event_type", "subject", "reason", "score", "match") if key in event}


def _slow(observation: Observation) -> list[str]:
    """LiteRT gives every network to XNNPACK: where it does not, another code has been compared."""
    if not observation.document["machine"]["runtime"].startswith("ai-edge-litert"):
        return []
    parts = observation.document["xnnpack_parts"]
    processor = observation.document["machine"]["processor"]
    return [f"{processor}: {name} runs without XNNPACK" for name, count in parts.items() if not count]


def measure_steps(here: Observation, there: Observation, *, given: bool = False) -> list[Row]:
    """One row a measure. ``given``: of what the other machine has made of our input."""
    stage = "given/" if given else ""
    found: dict[str, list[float]] = {}
    for name in sorted(here.arrays):
        photo, key = name.split("/", maxsplit=1)
        ours, theirs = here.arrays[name], there.arrays.get(f"{photo}/{stage}{key}")
        step, _, bundle = key.partition("/")
        if step in {"given", "face"} or (given and step == "image"):
            continue
        for measure, value in _differences(step, bundle, ours, theirs).items():
            found.setdefault(measure, []).append(value)
    fast = {bundle for bundle, parts in there.document["xnnpack_parts"].items() if parts}
    return [
        Row(name, len(values), float(np.median(values)), float(np.max(values)), LIMITS[_kind(name, fast)][given])
        for name, values in found.items()
    ]


def _kind(name: str, fast: set[str]) -> str:
    """What a measure's limit is found by."""
    kind, _, bundle = name.partition(" of ")
    if kind != "cosine":
        return kind
    if bundle.endswith("float32"):
        return "cosine float32"
    return "cosine int8" if bundle in fast else "cosine int8 without XNNPACK"


def _differences(step: str, bundle: str, ours: NDArray[Any], theirs: NDArray[Any] | None) -> dict[str, float]:
    same = theirs is not None and theirs.shape == ours.shape
    match step:
        case "image":
            return {"pixels": _most(ours, theirs) if same else np.nan}
        case "crop":
            return {f"crop of {bundle}": _most(ours, theirs) if same else np.nan}
        case "embedding":
            return {f"cosine of {bundle}": 1 - float(ours @ theirs) if same else np.nan}
        case "quality":
            return {name: float(np.abs(ours - theirs)[i]) if same else np.nan for i, name in enumerate(MEASURES)}
        case _:
            return _faces(ours, theirs) if same else {"box": np.nan, "landmark": np.nan, "detector_score": np.nan}


def _most(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    return float(np.abs(ours.astype(np.int16) - theirs.astype(np.int16)).max(initial=0))


def _faces(ours: NDArray[Any], theirs: NDArray[Any]) -> dict[str, float]:
    if not len(ours):
        return {}
    apart = np.abs(ours - theirs)
    eyes = np.linalg.norm(ours[:, 7:9] - ours[:, 5:7], axis=1)
    return {
        "box": float((apart[:, :4].max(axis=1) / ours[:, 2]).max()),
        "landmark": float((np.linalg.norm((ours - theirs)[:, 5:].reshape(-1, 6, 2), axis=2).max(axis=1) / eyes).max()),
        "detector_score": float(apart[:, 4].max()),
    }


def _decisions(here: dict[str, Any], there: dict[str, Any]) -> tuple[Row, list[str]]:
    """The scores' differences, and where decisions or events are others."""
    scores: list[float] = []
    problems: list[str] = []
    ours = [(image["photo"], face) for image in here["identify"] for face in image["faces"]]
    theirs = [(image["photo"], face) for image in there["identify"] for face in image["faces"]]
    if len(ours) != len(theirs):
        problems.append(f"identify: {len(theirs)} faces there, {len(ours)} here")
    for (photo, a), (_, b) in zip(ours, theirs, strict=False):
        problems += _unlike(photo, a, b, "decision", "reason", "subject_id")
        scores += _apart(a["score"], b["score"])
    problems += _unlike("verify", here["verify"], there["verify"], "same")
    problems += [f"on stderr, there only: {line}" for line in there["said"] if line not in here["said"]]
    scores += _apart(here["verify"]["score"], there["verify"]["score"])
    if len(here["events"]) != len(there["events"]):
        problems.append(f"run: {len(there['events'])} events there, {len(here['events'])} here")
    for a, b in zip(here["events"], there["events"], strict=False):
        problems += _unlike("run", a, b, "event_type", "subject", "reason")
        a, b = a.get("match", a), b.get("match", b)  # noqa: PLW2901 - what has the score
        problems += _unlike("run", a, b, "frames", "gallery_size", "model")
        scores += _apart(a["score"], b["score"])
    if not any(event["event_type"] == "check_in" for event in there["events"]):
        problems.append("run: nobody was checked in")
    return Row("score", len(scores), float(np.median(scores)), float(np.max(scores)), SCORE_LIMIT), problems


def _apart(a: float | None, b: float | None) -> list[float]:
    if a is None and b is None:
        return []
    return [abs(a - b) if a is not None and b is not None else np.nan]


def _unlike(where: str, ours: dict[str, Any], theirs: dict[str, Any], *fields: str) -> list[str]:
    return [
        f"{where}: {field} is {theirs.get(field)} there, {ours.get(field)} here"
        for field in fields
        if ours.get(field) != theirs.get(field)
    ]
