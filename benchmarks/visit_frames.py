"""Visits to a camera as seen by the recognizer: what its detector, gate and embedder said of every frame, kept on disk.

Synthetic visits are drawn from photos: a person walks up for two seconds and then stands there. Real ones are video
clips. Each frame is looked at once, with the real parts; `Playback` then stands in for the three of them, so that
the real recognizer can go through the same visit again and again, with other galleries, rules and settings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import math
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import kiosk
from convert.photos import main_face
from kiosk.biometrics import Box, Embedding, Face, Image, ModelId, Quality, Reason
from kiosk.bundle import Bundle, read_bundle
from kiosk.clip import Person, cut_out
from kiosk.detector import BlazeFaceDetector, PhotoDetector
from kiosk.embedder import TfliteEmbedder
from kiosk.opencv import cv2
from kiosk.photo import read_photo
from kiosk.quality import QualityGate

KIOSK = Path(kiosk.__file__).parent
FRAME_PX = (640, 480)
WALK_S, LONG_S = 2.0, 10.0
WALK_FPS, STAY_FPS = 15, 2
# So long a person with several photos is shown by each in turn.
HOLD_S = 0.7
VIDEO_FPS = 15
# Width of the face box where the person comes into view, and where they stop.
FAR_PX, NEAR_PX = (58.0, 72.0), (100.0, 150.0)
KERNEL_PX = 9
BATCH = 250
ROOM = np.repeat(
    np.linspace(190, 130, FRAME_PX[1], dtype=np.float32)[:, None, None] * np.array([0.95, 1, 1.02], np.float32),
    FRAME_PX[0],
    axis=1,
)


Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Shown:
    """Photos of one person that a visit is drawn from, and how long it lasts."""

    name: str
    photos: tuple[Path, ...]
    length_s: float = WALK_S


@dataclass(frozen=True, slots=True, eq=False)
class SeenFace:
    """``embedding`` is None where the quality gate turned the face away."""

    face: Face
    quality: Quality
    embedding: Embedding | None


@dataclass(frozen=True, slots=True)
class SeenFrame:
    time_s: float
    faces: tuple[SeenFace, ...]


@dataclass(frozen=True, slots=True)
class Visit:
    """Time runs from the visit's first frame."""

    name: str
    frames: tuple[SeenFrame, ...]

    def part(self, start_s: float, length_s: float) -> Visit:
        frames = (f for f in self.frames if start_s <= f.time_s < start_s + length_s)
        return Visit(self.name, tuple(SeenFrame(f.time_s - start_s, f.faces) for f in frames))


class Playback:
    """Detector, quality gate and embedder in one: says again what the real ones said of ``frame``."""

    def __init__(self, model_id: ModelId) -> None:
        self.model_id = model_id
        self.frame = SeenFrame(0.0, ())
        self.embedded = 0

    def detect(self, image: Image) -> list[Face]:  # noqa: ARG002
        return [seen.face for seen in self.frame.faces]

    def assess(self, image: Image, face: Face) -> Quality:  # noqa: ARG002
        return self._seen(face).quality

    def embed(self, image: Image, face: Face) -> Embedding:  # noqa: ARG002
        raise ValueError("visits are made of frames, not of photos")

    def refine(self, image: Image, face: Face) -> Face:  # noqa: ARG002
        return face

    def embed_frame(self, image: Image, face: Face, *, mirrored: bool) -> Embedding:  # noqa: ARG002
        self.embedded += 1
        embedding = self._seen(face).embedding
        if embedding is None:
            raise ValueError("a face that the gate turned away was never embedded")
        return embedding

    def _seen(self, face: Face) -> SeenFace:
        return next(seen for seen in self.frame.faces if seen.face is face)


class Looker:
    """The real detector, gate and embedder, as the kiosk puts them together."""

    def __init__(self, bundle: Bundle) -> None:
        self.detector = BlazeFaceDetector()
        self.gate = QualityGate()
        self.embedder = TfliteEmbedder(bundle, threads=1)
        self._photo_detector = PhotoDetector(self.detector)
        self._embedded = 0

    def look(self, image: Image, time_s: float) -> SeenFrame:
        faces = []
        for face in self.detector.detect(image):
            quality = self.gate.assess(image, face)
            embedding = None
            if quality.failure is None:
                # Every second one mirrored, as the recognizer does it in a track.
                embedding = self.embedder.embed_frame(image, face, mirrored=self._embedded % 2 == 1)
                self._embedded += 1
            faces.append(SeenFace(face, quality, embedding))
        return SeenFrame(time_s, tuple(faces))

    def embed_photo(self, path: Path) -> Embedding | None:
        """The template an enrollment would take from a photo."""
        image = read_photo(path)
        face = main_face(image, self._photo_detector)
        return None if face is None else self.embedder.embed(image, face)

    def walk(self, shown: Shown) -> Visit:
        """A visit drawn from photos; the same photos give the same visit. Photos without a face show nobody."""
        photos = [read_photo(path) for path in shown.photos]
        faces = [main_face(photo, self.detector) for photo in photos]
        people = [Person(photo, face.box) for photo, face in zip(photos, faces, strict=True) if face is not None]
        frames = draw_walk(people, np.random.default_rng(_seed(shown.name)), shown.length_s) if people else ()
        return Visit(shown.name, tuple(self.look(image, time_s) for image, time_s in frames))

    def watch(self, path: Path) -> Visit:
        """A video clip as a visit, thinned out to ``VIDEO_FPS``."""
        video = cv2.VideoCapture(str(path))
        fps = video.get(cv2.CAP_PROP_FPS)
        frames: list[SeenFrame] = []
        number = 0
        while True:
            read, image = video.read()
            if not read:
                return Visit(path.name, tuple(frames))
            if number / fps >= len(frames) / VIDEO_FPS - 1e-6:
                frames.append(self.look(np.asarray(image, np.uint8), number / fps))
            number += 1


def draw_walk(people: Sequence[Person], random: np.random.Generator, length_s: float) -> Iterator[tuple[Image, float]]:
    """BGR frames with their time: growing for ``WALK_S``, then standing with small movements.

    Every frame has its own place between pixels, turn, light, motion blur, sensor noise and JPEG quality. What one
    photo cannot give is another expression or a head really turned: its frames are as alike as a visit's can be.
    Several photos of one person, shown in turn, are as different as a visit's frames can be.
    """
    far, near = random.uniform(*FAR_PX), random.uniform(*NEAR_PX)
    start, goal = random.uniform((0.3, 0.4), (0.7, 0.5)), random.uniform((0.4, 0.42), (0.6, 0.5))
    light, noise, quality = random.uniform(0.7, 1.2), random.uniform(2, 6), random.integers(60, 92)
    grain = random.normal(0, noise, (FRAME_PX[1] * 2, FRAME_PX[0] * 2, 3)).astype(np.float32)
    sways = [_sway(random) for _ in range(6)]
    for time_s in walk_times(length_s):
        x, y, turn, squeeze, size, glow = (sway(time_s) for sway in sways)
        person = people[int(time_s / HOLD_S) % len(people)]
        cutting, face_at = cut_out(person)
        walked = min(time_s / WALK_S, 1.0)
        width = (far + (near - far) * walked**1.5) * (1 + 0.03 * size)
        place = (start + (goal - start) * walked) * FRAME_PX + (6 * x, 4 * y)
        scale = width / person.face.w * np.array([1 + 0.04 * squeeze, 1.0])
        frame = ROOM.copy()
        streak = _streak(random.gamma(2.0, 1.0 if walked < 1 else 0.5), random.uniform(0, math.pi))
        _paint(frame, cutting, _placement(face_at, place, scale, 4 * turn), light * (1 + 0.1 * glow), streak)
        left, top = random.integers(0, FRAME_PX)
        frame += grain[top : top + FRAME_PX[1], left : left + FRAME_PX[0]]
        yield _compress(np.clip(frame, 0, 255).astype(np.uint8), int(quality)), time_s


def walk_times(length_s: float) -> list[float]:
    walking = [i / WALK_FPS for i in range(round(WALK_S * WALK_FPS))]
    return walking + [WALK_S + i / STAY_FPS for i in range(round((length_s - WALK_S) * STAY_FPS))]


def _sway(random: np.random.Generator) -> Callable[[float], float]:
    """A slow, irregular to and fro about 0, within −1…1."""
    rates, phases = random.uniform(0.1, 0.9, 3), random.uniform(0, 2 * math.pi, 3)
    return lambda t: float(np.sin(2 * math.pi * rates * t + phases).mean())


def _placement(
    point: tuple[float, float], place: NDArray[np.float64], scale: NDArray[np.float64], turn_deg: float
) -> NDArray[np.float64]:
    """The 2 × 3 matrix that scales and turns about a point and carries it to its place."""
    cos, sin = math.cos(math.radians(turn_deg)), math.sin(math.radians(turn_deg))
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.diag(scale)
    return np.column_stack([matrix, place - matrix @ point])


def _paint(
    frame: NDArray[np.float32],
    cutting: NDArray[np.float32],
    matrix: NDArray[np.float64],
    light: float,
    streak: NDArray[np.float32],
) -> None:
    height, width = cutting.shape[:2]
    corners = matrix @ np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
    left, top = np.clip(np.floor(corners.min(axis=1)), 0, FRAME_PX).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(axis=1)), 0, FRAME_PX).astype(int)
    moved = matrix - np.array([[0, 0, left], [0, 0, top]])
    patch = cv2.warpAffine(cutting, moved, (int(right - left), int(bottom - top)))
    patch = cv2.filter2D(patch, -1, streak)
    place = frame[top:bottom, left:right]
    place += (patch[..., :3] * np.float32(light) - place) * patch[..., 3:]


def _streak(length_px: float, angle: float) -> NDArray[np.float32]:
    """The kernel of a straight movement during the exposure."""
    kernel = np.zeros((KERNEL_PX, KERNEL_PX), np.float32)
    for along in np.linspace(-0.5, 0.5, 33) * min(length_px, KERNEL_PX - 2.0):
        x, y = KERNEL_PX // 2 + along * math.cos(angle), KERNEL_PX // 2 + along * math.sin(angle)
        column, row = int(x), int(y)
        across, down = x - column, y - row
        kernel[row : row + 2, column : column + 2] += np.outer([1 - down, down], [1 - across, across])
    return kernel / kernel.sum()


def _compress(image: Image, quality: int) -> Image:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


_looker: Looker


def _start(bundle_folder: Path) -> None:
    global _looker  # noqa: PLW0603 - one interpreter a worker process
    cv2.setNumThreads(1)
    _looker = Looker(read_bundle(bundle_folder))


def _walk(shown: Shown) -> Visit:
    return _looker.walk(shown)


def _watch(path: Path) -> Visit:
    return _looker.watch(path)


def _embed_photo(path: Path) -> Embedding | None:
    return _looker.embed_photo(path)


class Cache:
    """What was seen, in a folder; anew for another bundle, and after a change to the code that looks."""

    def __init__(self, folder: Path, bundle: Bundle, *, jobs: int) -> None:
        modules = ("align", "detector", "embedder", "preprocessing", "quality", "clip")
        code = b"".join((KIOSK / f"{name}.py").read_bytes() for name in modules) + inspect.getsource(draw_walk).encode()
        self._bundle = bundle
        self._folder = folder / f"{bundle.manifest.name}-{hashlib.sha256(code).hexdigest()[:8]}"
        self._jobs = jobs

    def photos(self, paths: Sequence[Path]) -> list[Embedding | None]:
        return self._map("templates", _embed_photo, paths, _photos_to_arrays, _photos_from_arrays)

    def walks(self, what: str, shown: Sequence[Shown]) -> list[Visit]:
        """In batches, so that a run that is cut off has not been in vain."""
        visits: list[Visit] = []
        for start in range(0, len(shown), BATCH):
            batch = shown[start : start + BATCH]
            visits += self._map(what, _walk, batch, _visits_to_arrays, _visits_from_arrays)
        return visits

    def clips(self, paths: Sequence[Path]) -> list[Visit]:
        return self._map("clips", _watch, paths, _visits_to_arrays, _visits_from_arrays)

    def _map(
        self,
        what: str,
        look: Callable[[Any], Any],
        wanted: Sequence[Any],
        pack: Callable[[list[Any]], dict[str, NDArray[Any]]],
        unpack: Callable[[Arrays], list[Any]],
    ) -> list[Any]:
        file = self._folder / f"{what}-{hashlib.sha256(repr(wanted).encode()).hexdigest()[:8]}.npz"
        if not file.exists():
            with multiprocessing.Pool(self._jobs, _start, (self._bundle.folder,)) as pool:
                seen = list(tqdm(pool.imap(look, wanted), what, total=len(wanted), smoothing=0))
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(file, **pack(seen))  # type: ignore[arg-type]
        with np.load(file) as arrays:
            return unpack(arrays)


def _photos_to_arrays(embeddings: list[Embedding | None]) -> dict[str, NDArray[Any]]:
    found = [e for e in embeddings if e is not None]
    return {"found": np.array([e is not None for e in embeddings]), "embeddings": np.stack(found)}


def _photos_from_arrays(arrays: Arrays) -> list[Embedding | None]:
    rows = iter(arrays["embeddings"])
    return [next(rows) if found else None for found in arrays["found"]]


def _visits_to_arrays(visits: list[Visit]) -> dict[str, NDArray[Any]]:
    """Numbers of all embedded faces as one array; the rest, small, as JSON."""
    faces = [seen for visit in visits for frame in visit.frames for seen in frame.faces]
    document = [
        {"name": visit.name, "frames": [[frame.time_s, list(map(_describe, frame.faces))] for frame in visit.frames]}
        for visit in visits
    ]
    return {
        "document": np.array(json.dumps(document)),
        "embeddings": np.stack([seen.embedding for seen in faces if seen.embedding is not None]),
    }


def _describe(seen: SeenFace) -> dict[str, Any]:
    face = seen.face
    return {
        "box": dataclasses.astuple(face.box),
        "score": face.score,
        "landmarks": None if face.landmarks is None else face.landmarks.tolist(),
        "quality": dataclasses.asdict(seen.quality),
    }


def _visits_from_arrays(arrays: Arrays) -> list[Visit]:
    embeddings = iter(arrays["embeddings"])

    def face(row: dict[str, Any]) -> SeenFace:
        landmarks = None if row["landmarks"] is None else np.array(row["landmarks"], np.float32)
        failure = row["quality"].pop("failure")
        quality = Quality(**row["quality"], failure=failure and Reason(failure))
        return SeenFace(
            Face(Box(*row["box"]), row["score"], landmarks), quality, None if failure else next(embeddings)
        )  # fmt: skip

    return [
        Visit(v["name"], tuple(SeenFrame(time_s, tuple(map(face, faces))) for time_s, faces in v["frames"]))
        for v in json.loads(str(arrays["document"]))
    ]
