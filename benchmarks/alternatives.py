"""What each choice of the recognition pipeline gives and costs: detector, crop, interpolation, standardization, mirror.

    python benchmarks/alternatives.py BUNDLE IMAGES PAIRS [--jobs N]

BUNDLE is a FaceNet bundle. Every row changes one thing of the first and goes over the same pairs (LFW's layout and
lists); a pair with a face that is not found is an error. MTCNN takes part when it is installed
(`pip install mtcnn==1.0.0`, with TensorFlow). Times are medians of one thread a photo, all rows photo by photo.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from convert.metrics import accuracy_at, best_threshold, equal_error_rate, make_curve, true_accept_rate
from convert.pairs import read_pairs
from kiosk import align
from kiosk.align import central_face
from kiosk.biometrics import Box, Embedding, Face, Image
from kiosk.bundle import read_bundle
from kiosk.detector import BlazeFaceDetector, HaarDetector
from kiosk.embedder import TfliteEmbedder
from kiosk.gallery import fuse
from kiosk.opencv import cv2
from kiosk.photo import read_photo

FAR = 1e-3
# The default's region, in box sides: see kiosk/align.py.
WIDTH, HEIGHT, UP = align._EYES_BOX_REGION  # noqa: SLF001 - what is varied here

Cut = Callable[[Image, Face, int], Image]


def region(
    image: Image, face: Face, size_px: int, *, zoom: float = 1.0, stretch: float = 1.0, level: bool = True
) -> Image:
    """The default crop, larger by ``zoom``, unsqueezed by ``stretch`` < 1, or without turning the eyes level."""
    side = (face.box.w + face.box.h) / 2 * zoom
    turned = face if level else replace(face, landmarks=None)
    matrix = align._region(turned, side * WIDTH / stretch, side * HEIGHT * stretch, side * UP)  # noqa: SLF001
    return align._warp(image, matrix, size_px)  # noqa: SLF001


def landmark_fit(image: Image, face: Face, size_px: int, *, rows: tuple[int, ...]) -> Image:
    """Scale and turn by a similarity fitted to several landmarks instead of box and eyes."""
    seen = face.landmarks[list(rows)].astype(np.float64) if face.landmarks is not None else None
    if seen is None:
        return region(image, face, size_px)
    target, points = PLACES[list(rows)] @ [1, 1j], seen @ [1, 1j]
    centred = target - target.mean()
    a = np.vdot(centred, points - points.mean()) / np.vdot(centred, centred)
    b = points.mean() - a * target.mean()
    turn = np.array([[a.real, -a.imag], [a.imag, a.real]])
    offset = np.array([b.real, b.imag]) + turn @ [-WIDTH / 2, -HEIGHT / 2 - UP]
    return align._warp(image, np.column_stack([turn @ np.diag([WIDTH, HEIGHT]), offset]), size_px)  # noqa: SLF001


# Where BlazeFace's landmarks lie about the box centre of upright faces, in box sides: medians over LFW View 1.
PLACES = np.array(
    [(-0.212, -0.238), (0.209, -0.238), (-0.004, -0.001), (-0.003, 0.214), (-0.433, -0.131), (0.437, -0.130)]
)


def cubic(image: Image, face: Face, size_px: int) -> Image:
    """The default crop sampled bicubically from the photo, without averaging first."""
    side = (face.box.w + face.box.h) / 2
    matrix = align._region(face, side * WIDTH, side * HEIGHT, side * UP)  # noqa: SLF001
    matrix[:, :2] /= size_px
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, matrix, (size_px, size_px), flags=flags), np.uint8)


def mtcnn_margin(image: Image, face: Face, size_px: int, *, margin: int) -> Image:
    """The published way: MTCNN's box with a margin in pixels of the 160 px crop, squeezed to a square."""
    box, share = face.box, margin / 160
    grown = np.array([box.x - box.w * share / 2, box.y - box.h * share / 2, box.w * (1 + share), box.h * (1 + share)])
    return align._warp(image, np.array([[grown[2], 0, grown[0]], [0, grown[3], grown[1]]]), size_px)  # noqa: SLF001


def haar_square(image: Image, face: Face, size_px: int) -> Image:
    return align.align_face(image, face, "haar-square-v1", size_px)


@dataclass(frozen=True)
class Row:
    """One alternative. ``place``: detector whose face it cuts; ``standardization`` as in kiosk/preprocessing.py."""

    what: str
    name: str
    place: str = "blazeface"
    cut: Cut = region
    mirror: bool = False
    standardization: str = "fixed-127.5-128"


ROWS = (
    Row("default", "BlazeFace refined in the mirror, box and eyes, squeezed, mirror averaged", "refined", mirror=True),
    Row("mirror", "one inference instead of two", "refined"),
    Row("detector", "BlazeFace, not refined", "blazeface", mirror=True),
    Row("detector", "BlazeFace, not refined, one inference (a camera frame)", "blazeface"),
    Row("detector", "Haar and eye cascades, square (the notebook)", "haar", haar_square),
    Row("detector", "MTCNN, margin 44 (the published way)", "mtcnn", functools.partial(mtcnn_margin, margin=44)),
    Row("detector", "MTCNN, margin 32", "mtcnn", functools.partial(mtcnn_margin, margin=32)),
    Row("crop", "without turning the eyes level", "refined", functools.partial(region, level=False)),
    Row("crop", "not squeezed (one scale for both sides)", "refined", functools.partial(region, stretch=0.8967)),
    Row("crop", "7 % closer", "refined", functools.partial(region, zoom=0.93)),
    Row("crop", "7 % wider", "refined", functools.partial(region, zoom=1.07)),
    Row("crop", "15 % wider", "refined", functools.partial(region, zoom=1.15)),
    Row("crop", "fitted to eyes and mouth", "refined", functools.partial(landmark_fit, rows=(0, 1, 3))),
    Row("crop", "fitted to eyes, nose, mouth, ears", "refined", functools.partial(landmark_fit, rows=tuple(range(6)))),
    Row("interpolation", "bicubic, no averaging", "refined", cubic),
    Row("standardization", "per-image whitening", "refined", standardization="per-image-whitening"),
)


class Mtcnn:
    """The yardstick: its boxes, by the package of that name."""

    def __init__(self) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from mtcnn import MTCNN

        self._network = MTCNN()

    def detect(self, image: Image) -> list[Face]:
        found = self._network.detect_faces(np.ascontiguousarray(image[..., ::-1]))
        return [Face(Box(*map(float, face["box"])), float(face["confidence"])) for face in found]


class Desk:
    """One worker's detectors and embedders."""

    def __init__(self, folder: Path, rows: tuple[Row, ...]) -> None:
        bundle = read_bundle(folder)
        self.rows = rows
        self.blazeface = BlazeFaceDetector(threads=1)
        self.haar = HaarDetector()
        self.mtcnn = Mtcnn() if any(row.place == "mtcnn" for row in rows) else None
        self.embedder = TfliteEmbedder(bundle, threads=1)

    def look(self, path: Path) -> tuple[list[Embedding | None], dict[str, float], list[float]]:
        """The embedding by each row; milliseconds by detector; milliseconds of crop and inference by row."""
        image = read_photo(path)
        places: dict[str, Face | None] = {}
        spent: dict[str, float] = {}
        for name in dict.fromkeys(row.place for row in self.rows):
            started = time.perf_counter()
            places[name] = self._place(name, image)
            spent[name] = (time.perf_counter() - started) * 1000
        embeddings: list[Embedding | None] = []
        times = []
        for row in self.rows:
            started = time.perf_counter()
            face = places[row.place]
            embeddings.append(None if face is None else self._embed(row, image, face))
            times.append((time.perf_counter() - started) * 1000)
        return embeddings, spent, times

    def _place(self, name: str, image: Image) -> Face | None:
        detector = {"haar": self.haar, "mtcnn": self.mtcnn}.get(name, self.blazeface)
        faces = detector.detect(image) if detector else []
        if not faces:
            return None
        face = central_face(faces, image.shape[1], image.shape[0])
        return self.blazeface.refine(image, face) if name == "refined" else face

    def _embed(self, row: Row, image: Image, face: Face) -> Embedding:
        crop = row.cut(image, face, self.embedder.size_px)
        # The embedder's own standardization is part of its bundle: here it is what is varied.
        self.embedder._preprocessing = row.standardization  # type: ignore[assignment]  # noqa: SLF001
        plain = self.embedder.embed_crop(crop)
        return fuse([plain, self.embedder.embed_crop(np.ascontiguousarray(crop[:, ::-1]))]) if row.mirror else plain


_desk: Desk


def _start(folder: Path, rows: tuple[Row, ...]) -> None:
    global _desk  # noqa: PLW0603 - one a worker process
    cv2.setNumThreads(1)
    _desk = Desk(folder, rows)


def _look(path: Path) -> tuple[list[Embedding | None], dict[str, float], list[float]]:
    return _desk.look(path)


def measure(folder: Path, images: Path, pairs_file: Path, *, jobs: int) -> dict[str, Any]:
    rows = tuple(row for row in ROWS if row.place != "mtcnn" or importlib.util.find_spec("mtcnn"))
    pairs = read_pairs(pairs_file)
    paths = sorted({path for pair in pairs for path in (pair.path_a, pair.path_b)})
    with multiprocessing.get_context("spawn").Pool(jobs, _start, (folder, rows)) as pool:
        seen = list(tqdm(pool.imap(_look, [images / path for path in paths]), "photos", total=len(paths)))
    same = np.array([pair.same for pair in pairs])
    figures = []
    for number, row in enumerate(rows):
        by_path = {path: found[0][number] for path, found in zip(paths, seen, strict=True)}
        scores: NDArray[np.float64] = np.array([_score(by_path[p.path_a], by_path[p.path_b]) for p in pairs])
        curve = make_curve(scores, same)
        figures.append(
            {
                "what": row.what,
                "name": row.name,
                "accuracy": round(accuracy_at(scores, same, best_threshold(curve)), 4),
                "eer": round(equal_error_rate(curve) or 0.0, 5),
                "tar": round(true_accept_rate(curve, FAR) or 0.0, 4),
                "undetected_pairs": curve.undetected,
                "detect_ms": round(statistics.median(found[1][row.place] for found in seen), 2),
                "embed_ms": round(statistics.median(found[2][number] for found in seen), 2),
            }
        )
    return {
        "model": read_bundle(folder).model_id,
        "pairs": len(pairs),
        "photos": len(paths),
        "far": FAR,
        "rows": figures,
    }


def _score(a: Embedding | None, b: Embedding | None) -> float:
    return float("nan") if a is None or b is None else float(a @ b)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    figures = measure(arguments.bundle, arguments.images, arguments.pairs, jobs=arguments.jobs)
    text = json.dumps(figures, indent=1) + "\n"
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
