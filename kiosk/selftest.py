"""Known answers: what a model must make of the kiosk's own sample photos before anybody is recognized with it.

Whether a model runs says nothing about whether it recognizes: another's weights, a wrong preprocessing or a runtime
that computes wrongly on this processor give vectors, too. So the photos that come with the kiosk are taken through
detector, alignment and network as anybody's are, and what comes out is compared: with each other, at the bundle's own
threshold, and with what the same photos gave where the bundle was built. It finds what is broken, not what is a little
worse.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kiosk.align import central_face
from kiosk.biometrics import Embedding, Face, Image
from kiosk.bundle import Bundle, KnownAnswer
from kiosk.detector import BlazeFaceDetector, PhotoDetector
from kiosk.embedder import TfliteEmbedder
from kiosk.errors import KioskError, ModelError
from kiosk.pad import KnownScore, PadBundle, TflitePad
from kiosk.photo import load_photo
from kiosk.tflite import Runtime

SAMPLES = Path(__file__).parent / "data" / "samples"
PEOPLE: Mapping[str, tuple[str, ...]] = {
    "obama": ("obama.jpg", "obama2.jpg", "obama3.jpg"),
    "biden": ("biden.jpg", "biden_portrait.jpg"),
    "collins": ("collins.jpg",),
}
"""Who is on which sample photo."""

MAX_ANSWER_S = 5.0
"""Median time of one photo's embedding; who walks past a slower model is never recognized."""

# An answer may be off the recorded one by this share of the distance that divides people: other processors and runtimes
# round otherwise (measured: docs/updates.md), another model is off by the whole of it and more.
_OFF_SHARE = 0.05
_OFF_UNMEASURED = 0.01
_OFF_LENGTH = 1e-3
# Of a pad network's score, 0-1.
_OFF_SCORE = 0.15
_NOT_ALIVE = "biden_portrait.jpg"
"""The photo whose negative both networks take for an attack (scores below 0.1)."""
_AGAIN = "build or install the bundle again"


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample photo, and the face it is of."""

    name: str
    sha256: str
    image: Image
    face: Face


def find_samples(runtime: Runtime = "auto") -> list[Sample]:
    """The sample photos, with the face the kiosk's own detector finds in each.

    Raises:
        ModelError: one is missing or shows no face, which is the kiosk's own fault and no bundle's.
    """
    detector = PhotoDetector(BlazeFaceDetector(runtime=runtime))
    samples = []
    for name in itertools.chain(*PEOPLE.values()):
        try:
            photo = load_photo(SAMPLES / name)
        except KioskError as error:
            raise ModelError(f"self-test: {error}; reinstall the kiosk") from None
        faces = detector.detect(photo.image)
        if not faces:
            raise ModelError(f"self-test: no face is found in the kiosk's own {name}; reinstall the kiosk")
        height, width = photo.image.shape[:2]
        samples.append(Sample(name, photo.sha256, photo.image, central_face(faces, width, height)))
    return samples


def record_answers(bundle: Bundle) -> tuple[KnownAnswer, ...]:
    """What a bundle answers on this machine, for its manifest."""
    embedder = TfliteEmbedder(bundle)
    return tuple(
        KnownAnswer.of(sample.name, sample.sha256, embedder.embed(sample.image, sample.face))
        for sample in find_samples()
    )


def examine_bundle(bundle: Bundle, embedder: TfliteEmbedder, samples: list[Sample]) -> None:
    """Hold what a bundle makes of the sample photos against what it must.

    Raises:
        ModelError: it differs; the message says in what.
    """
    answers: dict[str, Embedding] = {}
    took_s = []
    for sample in samples:
        began_s = time.perf_counter()
        answers[sample.name] = embedder.embed(sample.image, sample.face)
        took_s.append(time.perf_counter() - began_s)
    problem = (
        _odd_vector(bundle, answers)
        or _slow(took_s)
        or _other_answer(bundle, answers, samples)
        or _confusion(bundle, answers)
    )
    if problem is not None:
        raise ModelError(f"{bundle.folder}: the self-test fails: {problem}; {_AGAIN}")


def _odd_vector(bundle: Bundle, answers: Mapping[str, Embedding]) -> str | None:
    wanted = (bundle.manifest.embedding_dim,)
    for name, answer in answers.items():
        length = float(np.linalg.norm(answer))
        if answer.shape != wanted or not abs(length - 1) <= _OFF_LENGTH:
            return f"{name} gives no unit vector of {wanted[0]} numbers (shape {answer.shape}, length {length:.3f})"
    return None


def _slow(took_s: list[float]) -> str | None:
    median_s = statistics.median(took_s)
    if median_s <= MAX_ANSWER_S:
        return None
    return f"a photo takes {median_s:.1f} s on this machine, at most {MAX_ANSWER_S:g} s is of use"


def _other_answer(bundle: Bundle, answers: Mapping[str, Embedding], samples: list[Sample]) -> str | None:
    """Photos that are not the ones the bundle was built with say nothing."""
    least = 1 - _allowed_distance(bundle)
    hashes = {sample.name: sample.sha256 for sample in samples}
    for known in bundle.manifest.known_answers:
        if hashes.get(known.photo) != known.photo_sha256:
            continue
        expected = known.decoded()
        norm = float(np.linalg.norm(expected))
        score = float(answers[known.photo] @ expected) / norm if norm else 0.0
        # Not "below": no comparison with what is not a number may pass.
        if not score >= least:
            return (
                f"{known.photo} gives another answer than where the bundle was built (cosine {score:.4f}, "
                f"{least:.4f} is needed)"
            )
    return None


def _allowed_distance(bundle: Bundle) -> float:
    if not bundle.manifest.thresholds:
        return _OFF_UNMEASURED
    return _OFF_SHARE * (1 - bundle.verification_threshold())


def _confusion(bundle: Bundle, answers: Mapping[str, Embedding]) -> str | None:
    """Who is taken for whom at the bundle's own threshold; by nobody's error rates, whether two of one are nearer."""
    owner = {photo: person for person, photos in PEOPLE.items() for photo in photos}
    scores = {(a, b): float(answers[a] @ answers[b]) for a, b in itertools.combinations(answers, 2)}
    strangers = {pair: score for pair, score in scores.items() if owner[pair[0]] != owner[pair[1]]}
    threshold = bundle.verification_threshold() if bundle.manifest.thresholds else max(strangers.values())
    for (a, b), score in scores.items():
        if owner[a] == owner[b] and not score >= threshold:
            return f"{a} and {b} are taken for two people (score {score:.3f}, threshold {threshold:.3f})"
        if (a, b) in strangers and bundle.manifest.thresholds and not score < threshold:
            return f"{a} and {b} are taken for one person (score {score:.3f}, threshold {threshold:.3f})"
    return None


def record_scores(bundle: PadBundle) -> tuple[KnownScore, ...]:
    """What a pad bundle's networks say to the sample photos on this machine, for its manifest."""
    pad = TflitePad(bundle)
    return tuple(
        KnownScore(
            photo=sample.name, photo_sha256=sample.sha256, negative=negative, scores=_scores(pad, sample, negative)
        )
        for sample, negative in _shown(find_samples())
    )


def examine_pad(bundle: PadBundle, pad: TflitePad, samples: list[Sample]) -> None:
    """Hold the networks' live scores of the sample photos against those recorded when the bundle was built.

    Without such a record whether they are scores at all is all that can be told.

    Raises:
        ModelError: they differ.
    """
    known = {(answer.photo, answer.negative): answer for answer in bundle.manifest.known_scores}
    for sample, negative in _shown(samples):
        found = _scores(pad, sample, negative)
        what = f"{bundle.folder}: the self-test fails: {'the negative of ' if negative else ''}{sample.name} gets"
        if not all(0 <= score <= 1 for score in found):
            raise ModelError(f"{what} no live score; {_AGAIN}")
        answer = known.get((sample.name, negative))
        if answer is None or answer.photo_sha256 != sample.sha256:
            continue
        if not all(abs(a - b) <= _OFF_SCORE for a, b in zip(found, answer.scores, strict=True)):
            raise ModelError(
                f"{what} other live scores than where the bundle was built ({_listed(found)}, not "
                f"{_listed(answer.scores)}); {_AGAIN}"
            )


def _shown(samples: list[Sample]) -> Iterator[tuple[Sample, bool]]:
    """All photos look alive to the networks; a negative does not, and tells apart who calls everything alive."""
    for sample in samples:
        yield sample, False
        if sample.name == _NOT_ALIVE:
            yield sample, True


def _scores(pad: TflitePad, sample: Sample, negative: bool) -> tuple[float, float]:
    image: Image = 255 - sample.image if negative else sample.image
    first, second = (round(score, 4) for score in pad.scores(image, sample.face))
    return first, second


def _listed(scores: tuple[float, float]) -> str:
    return " and ".join(f"{score:.2f}" for score in scores)
