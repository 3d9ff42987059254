"""Bundles with detectors as the kiosk would run them, and what each makes of the same photos, side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

from kiosk.align import central_face
from kiosk.biometrics import Embedding, Face, Image
from kiosk.bundle import Bundle
from kiosk.detector import BlazeFaceDetector, HaarDetector, PhotoDetector, YuNetDetector, same_face
from kiosk.embedder import TfliteEmbedder
from kiosk.errors import InputError, UsageError
from kiosk.photo import read_photo
from kiosk.ports import Detector

DetectorName = Literal["blazeface", "haar", "yunet"]

ALIGNMENTS: dict[DetectorName, str | None] = {"blazeface": None, "haar": "haar-square-v1", "yunet": None}
"""The crop that goes with each detector; None: the bundle's own."""

FACE_RULE = "central_face: largest box area minus twice the squared distance from the photo's centre"
"""Which of several faces a photo is of (kiosk/align.py), the same for every detector and in every command."""

# Two boxes this much alike show one face twice (Haar nests them); it is not "another face".
_SAME_FACE_IOU = 0.2

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A bundle behind a detector."""

    bundle: Bundle
    detector_name: DetectorName
    detector: Detector
    embedder: TfliteEmbedder


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a pipeline made of one photo. ``embedding`` is the main face's, None where no face was found."""

    embedding: Embedding | None
    faces: int
    readable: bool = True


@dataclass(slots=True)
class Sightings:
    """All photos through one pipeline, with the milliseconds of each stage a photo."""

    pipeline: Pipeline
    by_path: dict[Path, Sighting] = field(default_factory=dict)
    detect_ms: list[float] = field(default_factory=list)
    align_ms: list[float] = field(default_factory=list)
    embed_ms: list[float] = field(default_factory=list)

    def embedding(self, path: Path) -> Embedding | None:
        return self.by_path[path].embedding

    def medians_ms(self) -> dict[str, float | None]:
        """Median milliseconds a photo of detection, alignment and embedding (standardization included)."""
        stages = {"detect_ms": self.detect_ms, "align_ms": self.align_ms, "embed_ms": self.embed_ms}
        return {name: round(statistics.median(times), 3) if times else None for name, times in stages.items()}


def open_pipelines(
    bundles: Sequence[Bundle], detectors: Sequence[DetectorName], *, yunet: Path | None = None, threads: int = 2
) -> list[Pipeline]:
    """Every bundle behind every detector; pipelines with the same detector share it.

    Raises:
        ModelError: a bundle or the YuNet file cannot be used.
        UsageError: YuNet without its file.
    """
    loaded = {name: _load_detector(name, yunet) for name in detectors}
    return [
        Pipeline(bundle, name, detector, TfliteEmbedder(bundle, threads=threads, alignment=ALIGNMENTS[name]))
        for bundle in bundles
        for name, detector in loaded.items()
    ]


def _load_detector(name: DetectorName, yunet: Path | None) -> Detector:
    match name:
        case "haar":
            return HaarDetector()
        case "yunet":
            if yunet is None:
                raise UsageError("--detector yunet needs its network: --yunet face_detection_yunet_2023mar.onnx")
            return YuNetDetector(yunet)
        case _:
            # As for every single photo in the kiosk.
            return PhotoDetector(BlazeFaceDetector(threads=1))


def watch_photos(
    pipelines: Sequence[Pipeline], paths: Iterable[Path], *, say: Callable[[str], None] = lambda _: None
) -> list[Sightings]:
    """Put each distinct photo through all pipelines, with a progress bar on stderr; unreadable ones are told to
    ``say`` and counted.

    The pipelines take turns photo by photo, each photo beginning with another one: whatever slows the machine for a
    while slows all of them.

    Raises:
        InputError: a photo is missing, or none can be read.
        ModelError: a bundle returned no usable embedding.
    """
    from tqdm import tqdm

    distinct = sorted(set(paths))
    missing = next((path for path in distinct if not path.is_file()), None)
    if missing is not None:
        raise InputError(f"{missing}: no such photo; --images wants the folder that holds NAME/NAME_0001.jpg")
    results = [Sightings(pipeline) for pipeline in pipelines]
    unreadable: list[InputError] = []
    title = pipelines[0].embedder.model_id if len(pipelines) == 1 else f"{len(pipelines)} pipelines"
    for number, path in enumerate(tqdm(distinct, desc=title, unit="photo", mininterval=1)):
        try:
            image = read_photo(path)
        except InputError as error:
            unreadable.append(error)
            for result in results:
                result.by_path[path] = Sighting(None, 0, readable=False)
            continue
        first = number % len(results)
        _watch(path, image, [*results[first:], *results[:first]])
    if unreadable and len(unreadable) == len(distinct):
        raise unreadable[0]
    for problem in unreadable:
        say(f"counted as a photo without a face: {problem}")
    return results


def _watch(path: Path, image: Image, results: Sequence[Sightings]) -> None:
    detected: dict[DetectorName, tuple[list[Face], float]] = {}
    for result in results:
        pipeline = result.pipeline
        name = pipeline.detector_name
        if name not in detected:
            detected[name] = _timed(pipeline.detector.detect, image)
        faces, milliseconds = detected[name]
        result.detect_ms.append(milliseconds)
        embedding = None
        if faces:
            face = central_face(faces, image.shape[1], image.shape[0])
            _, align_ms = _timed(pipeline.embedder.crop, image, face)
            # As photos are embedded everywhere, aligning included: that share is taken off.
            embedding, milliseconds = _timed(pipeline.embedder.embed, image, face)
            result.align_ms.append(align_ms)
            result.embed_ms.append(max(milliseconds - align_ms, 0.0))
        result.by_path[path] = Sighting(embedding, len(faces))


def _timed(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> tuple[T, float]:
    """The result, and how many milliseconds it took."""
    started = time.perf_counter()
    done = work(*arguments, **options)
    return done, (time.perf_counter() - started) * 1000


def embed_other_faces(pipeline: Pipeline, path: Path) -> list[Embedding]:
    """Embeddings of the faces of a photo that are not the one it is taken to be of."""
    image = read_photo(path)
    faces = pipeline.detector.detect(image)
    if len(faces) < 2:
        return []
    main = central_face(faces, image.shape[1], image.shape[0])
    others = [face for face in faces if face is not main and not same_face(face, main, min_iou=_SAME_FACE_IOU)]
    return [pipeline.embedder.embed(image, face) for face in others]
