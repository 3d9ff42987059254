"""What poor pictures of a face cost, and whether the quality gate's measures tell them: the data behind its limits.

    python benchmarks/quality.py FOLDER BUNDLE... --json quality.json --plot docs/images/quality.png

FOLDER holds one folder per person (LFW's layout). Of a sample of people with two photos or more the first photo is the
template. The second is the probe, as it is and spoiled in steps: seen from farther away, out of focus, moved, noisy,
dark, bright, without contrast, tilted, partly covered; always the whole photo, in which the face is then looked for
anew. Blur and size are relative to the distance of the eyes, as the gate's measures are.

Beside these, all photos of everybody with two or more, as they are: they bring the poses. There every pair of one
person's photos counts, by the worse of the two.

Every score is judged at the bundle's score for FMR 1e-3. Told per step and per bin of each measure: the share of own
templates missed (``fnmr``), of other people's matched (``fmr``), and of other people's photos that are as poor
(``fmr_alike``: what happens when a poor photo is enrolled). Then error against discard: the FNMR of what remains when
the share that a measure ranks worst is left out. The plot needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from convert.photos import main_face
from kiosk.biometrics import Embedding, Face, Image
from kiosk.bundle import Bundle, read_bundle
from kiosk.detector import BlazeFaceDetector
from kiosk.embedder import TfliteEmbedder
from kiosk.opencv import cv2
from kiosk.photo import photos_below, read_photo
from kiosk.quality import ENROLLMENT_GATE, PROBE_GATE, measure

SEED = 1
PHOTOS_EACH = 10
DISCARDED = np.linspace(0, 0.5, 51)

Values = NDArray[np.float64]
Spoil = Callable[[Image, Face, Any, int], Image]
Step = float | str
Pixels = cv2.typing.MatLike

GATES = {
    "probe": PROBE_GATE,
    "enrollment": ENROLLMENT_GATE,
    # To see what the last limit adds to the others.
    "probe_but_score": replace(PROBE_GATE, min_detector_score=0),
}

# Kind of spoiling: its steps. Lengths in eye distances, sizes in pixels between the eyes, noise in grey levels.
STEPS: dict[str, tuple[Step, ...]] = {
    "none": (0,),
    "size": (32, 24, 20, 16, 14, 12, 10, 8),
    "focus": (0.02, 0.04, 0.06, 0.08, 0.1, 0.13, 0.16),
    "motion": (0.1, 0.2, 0.3, 0.4, 0.55, 0.7),
    "noise": (5, 10, 20, 30),
    "focus_noise": (0.06, 0.1, 0.13),
    "motion_noise": (0.2, 0.4, 0.55),
    "dark": (0.5, 0.3, 0.2, 0.15, 0.1, 0.06),
    "bright": (1.5, 2, 2.5, 3, 4),
    "contrast": (0.5, 0.3, 0.2, 0.15, 0.12, 0.08),
    "tilt": (15, 30, 45, 60),
    "covered": ("mask", "glasses", "half", "mouth", "cap"),
}
BLUR = ("none", "size", "focus", "motion", "noise", "focus_noise", "motion_noise")
LIGHT = ("none", "dark", "contrast", "bright")
# Measure: the kinds that change it, and edges of its bins.
BINS: dict[str, tuple[tuple[str, ...], Sequence[float]]] = {
    "eye_distance_px": (("none", "size"), (7, 9, 11, 13, 15, 18, 22, 28, 36, 60)),
    "sharpness": (BLUR, (0, 20, 24, 28, 32, 34, 36, 38, 40, 44, 48, 52, 100)),
    "contrast": (("none", "dark", "contrast"), (0, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30, 128)),
    "clipped": (("none", "bright"), (0, 0.01, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.01)),
    "brightness": (("none", "dark", "bright"), (0, 10, 15, 20, 25, 30, 40, 80, 120, 160, 200, 220, 230, 240, 256)),
    "detector_score": (tuple(STEPS), (0.5, 0.6, 0.65, 0.7, 0.73, 0.76, 0.8, 0.82, 0.84, 0.88, 0.92, 1)),
}
POSE_BINS: dict[str, tuple[bool, Sequence[float]]] = {
    # Whether the worse of two photos is the one with the larger absolute value; edges.
    "yaw": (True, (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 2)),
    "pitch": (True, (0, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 1)),
    "roll": (True, (0, 3, 6, 10, 15, 20, 40)),
    "detector_score": (False, (0.5, 0.8, 0.82, 0.84, 0.86, 0.88, 0.9, 0.92, 0.95, 1)),
    "sharpness": (False, (0, 36, 40, 42, 44, 46, 50, 55, 100)),
    "eye_distance_px": (False, (0, 30, 35, 38, 40, 42, 44, 46, 60)),
    "contrast": (False, (0, 20, 25, 30, 35, 40, 45, 128)),
    "asymmetry": (True, (0, 0.6, 0.8, 1.0, 1.2, 3)),
    "ear_offset": (True, (0, 0.2, 0.4, 0.6, 0.8, 3)),
}
# What each measure is compared with in the curves; ranked so that low is bad.
CURVES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "size, blur and noise": (BLUR, ("sharpness", "laplacian", "eye_distance_px", "detector_score")),
    "light": (LIGHT, ("contrast", "clipped", "brightness", "detector_score")),
    "covered": (("none", "covered"), ("detector_score", "asymmetry", "ear_offset", "sharpness")),
    "everything": (tuple(STEPS), ("detector_score", "sharpness", "contrast", "eye_distance_px")),
}


@dataclass(frozen=True, slots=True)
class Probe:
    """A face with its measures and its embedding by each bundle."""

    person: int
    kind: str
    step: Step
    values: dict[str, float]
    passes: dict[str, bool]
    embeddings: tuple[Embedding, ...]


@dataclass(frozen=True, slots=True)
class Examiner:
    """Finds the face of a photo, measures and embeds it."""

    detector: BlazeFaceDetector
    embedders: Sequence[TfliteEmbedder]

    def find(self, image: Image) -> Face | None:
        return main_face(image, self.detector)

    def probe(self, image: Image, person: int, kind: str, step: Step) -> Probe | None:
        face = self.find(image)
        if face is None:
            return None
        quality = measure(image, face)
        values = {name: value for name, value in asdict(quality).items() if isinstance(value, float)}
        values |= other_measures(image, face)
        passes = {name: gate.failure(quality) is None for name, gate in GATES.items()}
        embeddings = tuple(self._embed(embedder, image, face, kind) for embedder in self.embedders)
        return Probe(person, kind, step, values, passes, embeddings)

    @staticmethod
    def _embed(embedder: TfliteEmbedder, image: Image, face: Face, kind: str) -> Embedding:
        """As at enrollment, or as one frame at the door."""
        if kind == "photo":
            return embedder.embed(image, face)
        return embedder.embed_frame(image, face, mirrored=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--people", type=int, default=350, help="whose photos are spoiled")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    bundles = [read_bundle(path) for path in arguments.bundles]
    examiner = Examiner(BlazeFaceDetector(), [TfliteEmbedder(bundle, threads=1) for bundle in bundles])
    people = people_in(arguments.folder)
    natural = examine_natural(examiner, people)
    chosen = sorted(np.random.default_rng(SEED).permutation(len(people))[: arguments.people])
    spoiled, lost = examine_spoiled(examiner, [people[i] for i in chosen])
    figures = {
        "people": len(chosen),
        "people_unspoiled": len(people),
        "limits": {"probe": asdict(PROBE_GATE), "enrollment": asdict(ENROLLMENT_GATE)},
        "ms_per_face": time_measures(examiner, people),
        "bundles": [
            judge(bundle, number, spoiled=spoiled, lost=lost, natural=natural) for number, bundle in enumerate(bundles)
        ],
    }
    arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if arguments.plot:
        draw_curves(figures, arguments.plot)


# Pictures


def people_in(folder: Path) -> list[list[Path]]:
    """The photos of each person who has two or more."""
    people: dict[Path, list[Path]] = defaultdict(list)
    for path in photos_below(folder):
        people[path.parent].append(path)
    return [photos for photos in people.values() if len(photos) > 1]


def examine_natural(examiner: Examiner, people: list[list[Path]]) -> list[Probe]:
    found = (
        examiner.probe(read_photo(path), person, "photo", 0)
        for person, photos in enumerate(tqdm(people, desc="photos as they are", mininterval=5))
        for path in photos[:PHOTOS_EACH]
    )
    return [probe for probe in found if probe is not None]


def examine_spoiled(examiner: Examiner, people: list[list[Path]]) -> tuple[list[Probe], dict[tuple[str, Step], int]]:
    """Templates (kind "photo") and probes; and how many faces were not found, per step."""
    probes: list[Probe] = []
    lost: dict[tuple[str, Step], int] = defaultdict(int)
    for person, photos in enumerate(tqdm(people, desc="photos spoiled", mininterval=5)):
        template = examiner.probe(read_photo(photos[0]), person, "photo", 0)
        image = read_photo(photos[1])
        face = examiner.find(image)
        if template is None or face is None:
            continue
        probes.append(template)
        for kind, steps in STEPS.items():
            for step in steps:
                probe = examiner.probe(SPOILS[kind](image, face, step, person), person, kind, step)
                if probe is None:
                    lost[kind, step] += 1
                else:
                    probes.append(probe)
    return probes, lost


def other_measures(image: Image, face: Face) -> dict[str, float]:
    """What was tried and left: the variance of the Laplacian of the box at 112 px; roll in degrees; the mean difference
    of the face's halves, in standard deviations; how far the ears' midpoint lies off the eyes', in eye distances.
    """
    x, y, w, h = face.box.rounded()
    grey = cv2.cvtColor(image[max(y, 0) : y + h, max(x, 0) : x + w], cv2.COLOR_BGR2GRAY)
    box = cv2.resize(grey, (112, 112), interpolation=cv2.INTER_AREA).astype(np.float32)
    left, right, *_ = points = places(face)
    eyes = right - left
    return {
        "laplacian": float(cv2.Laplacian(box, cv2.CV_32F).var()),
        "roll": float(np.degrees(np.arctan2(eyes[1], eyes[0]))),
        "asymmetry": float(np.abs(box[:, :56] - box[:, :55:-1]).mean() / max(box.std(), 1e-6)),
        "ear_offset": float((points[4:].mean(axis=0) - points[:2].mean(axis=0)) @ eyes / (eyes @ eyes)),
    }


def time_measures(examiner: Examiner, people: list[list[Path]]) -> float:
    """Median milliseconds of the gate's measures, on one core."""
    times = []
    for photos in people[:100]:
        image = read_photo(photos[0])
        face = examiner.find(image)
        if face is not None:
            started_s = time.perf_counter()
            measure(image, face)
            times.append((time.perf_counter() - started_s) * 1000)
    return round(median(times), 3)


# Spoiling


def eye_distance(face: Face) -> float:
    left, right, *_ = places(face)
    return float(np.linalg.norm(right - left))


def places(face: Face) -> Values:
    """BlazeFace's six landmarks."""
    return np.asarray(face.landmarks, np.float64)


def see_from_afar(image: Image, face: Face, eyes_px: float, _: int) -> Image:
    """The whole photo smaller, as a camera's stream compresses it. (The detector's second look sees no more of a
    small face in a large frame than it sees here.)
    """
    scale = min(eyes_px / eye_distance(face), 1)
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return as_image(cv2.imdecode(data, cv2.IMREAD_COLOR))


def defocus(image: Image, face: Face, sigma: float, _: int) -> Image:
    return as_image(cv2.GaussianBlur(image, (0, 0), sigma * eye_distance(face)))


def move(image: Image, face: Face, length: float, person: int) -> Image:
    """Smeared along a straight line, in another direction for each person."""
    pixels = max(length * eye_distance(face), 1.0)
    side = 2 * int(np.ceil(pixels / 2)) + 1
    # The golden angle: directions spread evenly, however many people there are.
    angle = person * np.pi * (3 - np.sqrt(5))
    reach = np.array([np.cos(angle), np.sin(angle)]) * pixels / 2
    kernel = np.zeros((side, side), np.float32)
    for x, y in side // 2 + np.outer(np.linspace(-1, 1, 200), reach):
        column, row = min(int(x), side - 2), min(int(y), side - 2)
        right, down = x - column, y - row
        kernel[row : row + 2, column : column + 2] += np.outer([1 - down, down], [1 - right, right])
    smeared = cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)
    return as_image(smeared)


def add_noise(image: Pixels, sigma: float, person: int) -> Image:
    grain = np.random.default_rng(person).normal(0, sigma, image.shape)
    return as_image(np.clip(np.asarray(image, np.float32) + grain, 0, 255))


def relight(image: Image, gain: float, middle: float, person: int) -> Image:
    """Contrast about a grey level, with the sensor's noise where the signal is weak."""
    changed = (image.astype(np.float32) - middle) * gain + middle
    return add_noise(changed, 3 if gain < 1 else 0, person)


def tilt(image: Image, _: Face, degrees: float, person: int) -> Image:
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees if person % 2 else -degrees, 1)
    return as_image(cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REPLICATE))


def cover(image: Image, face: Face, what: str, _: int) -> Image:
    """A patch of one colour over a part of the face (crude, but so is a mask)."""
    left, right, _nose, mouth, *_ears = places(face)
    eyes, d, box = (left + right) / 2, eye_distance(face), face.box
    x0, y0, x1, y1 = {
        "mask": (box.x, eyes[1] + 0.45 * d, box.x + box.w, box.y + box.h + 10),
        "glasses": (left[0] - 0.5 * d, eyes[1] - 0.3 * d, right[0] + 0.5 * d, eyes[1] + 0.3 * d),
        "half": (box.x - 5, box.y - 10, eyes[0], box.y + box.h + 5),
        "mouth": (mouth[0] - 0.6 * d, mouth[1] - 0.35 * d, mouth[0] + 0.6 * d, mouth[1] + 0.4 * d),
        "cap": (box.x - 5, box.y - 40, box.x + box.w + 5, eyes[1] - 0.2 * d),
    }[what]
    colour = {"mask": (230, 220, 200), "glasses": (20, 20, 20), "cap": (60, 40, 40)}.get(what, (110, 130, 170))
    covered = image.copy()
    cv2.rectangle(covered, (int(x0), int(y0)), (int(x1), int(y1)), colour, cv2.FILLED)
    return covered


def as_image(pixels: Pixels | None) -> Image:
    return np.asarray(pixels, np.uint8)


SPOILS: dict[str, Spoil] = {
    "none": lambda image, _face, _step, _person: image,
    "size": see_from_afar,
    "focus": defocus,
    "motion": move,
    "noise": lambda image, _face, sigma, person: add_noise(image, sigma, person),
    "focus_noise": lambda image, face, sigma, person: add_noise(defocus(image, face, sigma, person), 12, person),
    "motion_noise": lambda image, face, length, person: add_noise(move(image, face, length, person), 12, person),
    "dark": lambda image, _face, gain, person: relight(image, gain, 0, person),
    "bright": lambda image, _face, gain, person: relight(image, gain, 0, person),
    "contrast": lambda image, _face, gain, person: relight(image, gain, 128, person),
    "tilt": tilt,
    "covered": cover,
}


# Figures


class Scores:
    """Scores of probes against everybody's template by one bundle, and what they amount to at a threshold."""

    def __init__(self, probes: list[Probe], templates: list[Probe], number: int, threshold: float) -> None:
        self.probes = probes
        row_of = {template.person: row for row, template in enumerate(templates)}
        self._embeddings = np.stack([probe.embeddings[number] for probe in probes])
        self._persons = np.array([probe.person for probe in probes])
        scores = self._embeddings @ np.stack([template.embeddings[number] for template in templates]).T
        own = np.arange(len(probes)), np.array([row_of[probe.person] for probe in probes])
        self.missed = scores[own] < threshold
        scores[own] = np.nan
        self._matched = np.nanmean(np.where(np.isnan(scores), np.nan, scores >= threshold), axis=1)
        self._impostors = np.nanmean(scores, axis=1)
        self._threshold = threshold

    def values(self, name: str) -> Values:
        return np.array([probe.values[name] for probe in self.probes])

    def of_kinds(self, kinds: Iterable[str]) -> NDArray[np.bool_]:
        wanted = set(kinds)
        return np.array([probe.kind in wanted for probe in self.probes])

    def rates(self, chosen: NDArray[np.bool_]) -> dict[str, float]:
        return {
            "n": int(chosen.sum()),
            "fnmr": _rounded(self.missed[chosen].mean()),
            "fmr": _rounded(self._matched[chosen].mean(), 6),
            "fmr_alike": _rounded(self._alike(chosen), 6),
            "impostor_mean": _rounded(self._impostors[chosen].mean()),
        }

    def _alike(self, chosen: NDArray[np.bool_]) -> float:
        rows, persons = self._embeddings[chosen], self._persons[chosen]
        others = persons[:, None] != persons[None]
        return float((rows @ rows.T >= self._threshold)[others].mean()) if others.any() else float("nan")


def judge(
    bundle: Bundle, number: int, *, spoiled: list[Probe], lost: dict[tuple[str, Step], int], natural: list[Probe]
) -> dict[str, Any]:
    threshold = bundle.verification_threshold()
    templates = [probe for probe in spoiled if probe.kind == "photo"]
    scores = Scores([probe for probe in spoiled if probe.kind != "photo"], templates, number, threshold)
    return {
        "model": bundle.model_id,
        "score": threshold,
        "steps": [step_figures(scores, kind, step, lost) for kind, steps in STEPS.items() for step in steps],
        "bins": {name: bin_figures(scores, name, *about) for name, about in BINS.items()},
        "after_gate": {
            "detector_score": bin_figures(
                scores,
                "detector_score",
                *BINS["detector_score"],
                only=np.array([probe.passes["probe_but_score"] for probe in scores.probes]),
            )
        },
        "gates": {gate: gate_figures(scores, gate) for gate in GATES},
        "discard": {title: discard_figures(scores, *about) for title, about in CURVES.items()},
        "unspoiled": natural_figures(natural, number, threshold),
    }


def step_figures(scores: Scores, kind: str, step: Step, lost: dict[tuple[str, Step], int]) -> dict[str, Any]:
    chosen = np.array([(probe.kind, probe.step) == (kind, step) for probe in scores.probes])
    found = [probe for probe, taken in zip(scores.probes, chosen, strict=True) if taken]
    figures: dict[str, Any] = {"kind": kind, "step": step, "not_found": lost[kind, step]}
    if found:
        figures |= scores.rates(chosen)
        figures["median"] = {name: _rounded(np.median(scores.values(name)[chosen])) for name in found[0].values}
        figures["passed"] = {
            gate: _rounded(np.mean([probe.passes[gate] for probe in found])) for gate in found[0].passes
        }
    return figures


def bin_figures(
    scores: Scores,
    name: str,
    kinds: Iterable[str],
    edges: Sequence[float],
    only: NDArray[np.bool_] | None = None,
) -> list[dict[str, float]]:
    values, kept = scores.values(name), scores.of_kinds(kinds)
    if only is not None:
        kept &= only
    bins = []
    for low, high in pairwise(edges):
        chosen = kept & (values >= low) & (values < high)
        if chosen.any():
            bins.append({"low": low, "high": high, **scores.rates(chosen)})
    return bins


def gate_figures(scores: Scores, gate: str) -> dict[str, float]:
    passed = np.array([probe.passes[gate] for probe in scores.probes])
    return {
        "passed": _rounded(passed.mean()),
        "fnmr_passed": _rounded(scores.missed[passed].mean()),
        "fnmr_rejected": _rounded(scores.missed[~passed].mean()),
    }


def discard_figures(scores: Scores, kinds: Iterable[str], names: Iterable[str]) -> dict[str, Any]:
    chosen = scores.of_kinds(kinds)
    missed = scores.missed[chosen]
    curves: dict[str, list[float]] = {}
    for name in names:
        order = np.argsort(_goodness(name, scores.values(name)[chosen]), kind="stable")
        curves[name] = error_against_discard(missed[order])
    return {"ideal": error_against_discard(np.sort(missed)[::-1]), **curves}


def error_against_discard(missed: NDArray[np.bool_]) -> list[float]:
    """FNMR of what is left when the first, second, … hundredth of these (worst first) is discarded, up to half."""
    return [_rounded(missed[int(share * len(missed)) :].mean()) for share in DISCARDED]


def _goodness(name: str, values: Values) -> Values:
    match name:
        case "clipped" | "asymmetry" | "ear_offset":
            return -np.abs(values)
        case "brightness":
            return -np.abs(values - np.median(values))
    return values


def natural_figures(probes: list[Probe], number: int, threshold: float) -> dict[str, Any]:
    """Pairs of one person's unspoiled photos, binned by the worse of the two."""
    by_person: dict[int, list[int]] = defaultdict(list)
    for row, probe in enumerate(probes):
        by_person[probe.person].append(row)
    pairs = np.array([pair for rows in by_person.values() for pair in combinations(rows, 2)])
    embeddings = np.stack([probe.embeddings[number] for probe in probes])
    missed = (embeddings[pairs[:, 0]] * embeddings[pairs[:, 1]]).sum(axis=1) < threshold
    passed = np.array([probe.passes["enrollment"] for probe in probes])
    both = passed[pairs].all(axis=1)
    return {
        "photos": len(probes),
        "pairs": len(pairs),
        "fnmr": _rounded(missed.mean()),
        "passed": {gate: _rounded(np.mean([probe.passes[gate] for probe in probes])) for gate in probes[0].passes},
        "enrollment": {"fnmr_both_pass": _rounded(missed[both].mean()), "fnmr_others": _rounded(missed[~both].mean())},
        "bins": {
            name: pair_bins(np.array([probe.values[name] for probe in probes])[pairs], missed, *about)
            for name, about in POSE_BINS.items()
        },
    }


def pair_bins(
    values: Values, missed: NDArray[np.bool_], largest_is_worst: bool, edges: Sequence[float]
) -> list[dict[str, float]]:
    worse = np.abs(values).max(axis=1) if largest_is_worst else values.min(axis=1)
    bins = []
    for low, high in pairwise(edges):
        chosen = (worse >= low) & (worse < high)
        if chosen.any():
            bins.append({"low": low, "high": high, "n": int(chosen.sum()), "fnmr": _rounded(missed[chosen].mean())})
    return bins


def _rounded(value: float | np.floating[Any], digits: int = 4) -> float:
    return round(float(value), digits)


# The picture


def draw_curves(figures: dict[str, Any], path: Path) -> None:
    """Error against discard, one column a family of faults, one row a bundle."""
    from matplotlib.figure import Figure

    bundles = figures["bundles"]
    figure = Figure(figsize=(4 * len(CURVES), 3.4 * len(bundles)), layout="constrained")
    axes = figure.subplots(len(bundles), len(CURVES), squeeze=False)
    for row, bundle in zip(axes, bundles, strict=True):
        for axis, (title, curves) in zip(row, bundle["discard"].items(), strict=True):
            for name, curve in curves.items():
                style = {"color": "0.6", "linestyle": "--"} if name == "ideal" else {}
                axis.plot(DISCARDED * 100, np.array(curve) * 100, label=LABELS[name], **style)
            axis.set_title(f"{bundle['model'].partition('@')[0]}: {title}", fontsize=10)
            axis.set_xlabel("discarded, worst first, %")
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)
        row[0].set_ylabel("FNMR of the rest at FMR 1e-3, %")
    figure.savefig(path, dpi=80)


LABELS = {
    "ideal": "ideal",
    "sharpness": "sharpness",
    "laplacian": "variance of the Laplacian",
    "eye_distance_px": "eye distance",
    "detector_score": "detector score",
    "contrast": "contrast",
    "clipped": "clipped share",
    "brightness": "brightness",
    "asymmetry": "asymmetry",
    "ear_offset": "ears' offset",
}


if __name__ == "__main__":
    main()
