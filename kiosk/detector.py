"""Face detectors: a BGR image in, faces in image pixels out, highest score first.

BlazeFace (MediaPipe short-range, TFLite) is the default; Haar cascades with eye cascades are the notebook's way; YuNet
runs where the user gives its network.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiosk.biometrics import Box, Face, Image, Landmarks
from kiosk.errors import ModelError
from kiosk.opencv import cv2
from kiosk.ports import Detector
from kiosk.tflite import Runtime, make_interpreter

BLAZEFACE = Path(__file__).parent / "data" / "models" / "blazeface-short-range.tflite"
_BLAZEFACE_SHA256 = "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8"
_INPUT_PX = 128
# Two anchors a cell at stride 8, six at stride 16 (MediaPipe face_detection_short_range graph: strides 8, 16, 16, 16).
_ANCHOR_GRIDS = ((16, 2), (8, 6))
_MAX_LOGIT = 100.0
_MERGE_IOU = 0.3
# Instead of nothing, to divide by. Not asked of NumPy: with tflite-runtime loaded, ARM takes the smallest numbers for
# zero, and NumPy would warn of that on stderr.
_LEAST_AREA = np.float32(1e-30)
# YuNet is made for faces of 10 to 300 pixels (OpenCV's documentation of FaceDetectorYN).
_YUNET_LONGEST_PX = 640
_YUNET_MIN_SCORE = 0.9
# The second look takes in this many box sides around a face: the proportion of LFW's photos, where landmarks are good.
_SECOND_LOOK = 2.4

# Rows of BlazeFace's landmarks in a mirror image: eyes and ears change places.
_MIRRORED_ROWS = [1, 0, 2, 3, 5, 4]

Array = NDArray[np.float32]


class BlazeFaceDetector:
    """MediaPipe BlazeFace short-range: faces from about 8 % of the longer image side upwards, six landmarks each."""

    def __init__(self, *, min_score: float = 0.5, threads: int = 1, runtime: Runtime = "auto") -> None:
        if hashlib.sha256(BLAZEFACE.read_bytes()).hexdigest() != _BLAZEFACE_SHA256:
            raise ModelError(f"{BLAZEFACE}: damaged (SHA-256 differs); reinstall the kiosk")
        self._interpreter = make_interpreter(BLAZEFACE, threads=threads, runtime=runtime)
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._boxes, self._scores = _outputs_by_width(self._interpreter.get_output_details())
        self._min_score = min_score
        self._anchors = _anchors()
        self._canvas = np.zeros((1, _INPUT_PX, _INPUT_PX, 3), np.float32)

    def detect(self, image: Image) -> list[Face]:
        """All faces of a BGR image, highest score first.

        A face that fills little of the image is only a few input pixels wide: its landmarks are coarse and it may be
        none. A second look, at the part around it, places it well or drops it.
        """
        looked = [self.look_again(image, face) for face in self.look(image)]
        return sorted((face for face in looked if face is not None), key=lambda face: -face.score)

    def refine(self, image: Image, face: Face) -> Face:
        """The face's mean place in the image and in its mirror image: the network's left and right errors cancel."""
        if face.box.w > max(image.shape[:2]) / _SECOND_LOOK:
            left, top, part = 0, 0, image
        else:
            left, top, part = _surroundings(image, face.box)
        width = part.shape[1]
        seen = self.look(np.ascontiguousarray(part[:, ::-1]))
        mirrored = _overlapping_most([_moved(_mirrored(found, width), left, top) for found in seen], face)
        return face if mirrored is None else _mean_face(face, mirrored)

    def look_again(self, image: Image, face: Face) -> Face | None:
        """A face of this very image, placed well; None where there is none. One that fills it is as good as it gets."""
        return face if face.box.w > max(image.shape[:2]) / _SECOND_LOOK else self.look_near(image, face)

    def look_near(self, image: Image, face: Face) -> Face | None:
        """A face about where one was in another image, placed well; None where there is none (any more)."""
        left, top, part = _surroundings(image, face.box)
        seen = [_moved(found, left, top) for found in self.look(part)]
        return _overlapping_most(seen, face)

    def look(self, image: Image) -> list[Face]:
        """All faces of a BGR image, in any order and only roughly in place: one run of the network."""
        scale, left, top = self._letterbox(image)
        self._interpreter.set_tensor(self._input, self._canvas)
        self._interpreter.invoke()
        logits = self._interpreter.get_tensor(self._scores)[0, :, 0]
        # The logit of min_score: comparing logits spares 896 exponentials.
        hits = np.flatnonzero(logits > _logit(self._min_score))
        if not len(hits):
            return []
        scores = 1 / (1 + np.exp(-np.clip(logits[hits], -_MAX_LOGIT, _MAX_LOGIT)))
        raw = self._interpreter.get_tensor(self._boxes)[0, hits]
        return _merge(self._decode(raw, hits, scale, left, top), scores)

    def _decode(self, raw: Array, hits: NDArray[np.intp], scale: float, left: int, top: int) -> Array:
        """Rows of (cx, cy, w, h, six landmark pairs) in image pixels."""
        rows = raw.copy()
        origin = self._anchors[hits] * _INPUT_PX - np.array([left, top], np.float32)
        rows[:, 0:2] += origin
        rows[:, 4:] += np.tile(origin, 6)
        rows /= scale
        return rows

    def _letterbox(self, image: Image) -> tuple[float, int, int]:
        """Fill the input tensor: the image shrunk by area, centred on black, RGB, -1…1.

        Returns the scale, and the left and top edge of the image in the tensor.
        """
        height, width = image.shape[:2]
        scale = _INPUT_PX / max(height, width)
        columns, rows = max(round(width * scale), 1), max(round(height * scale), 1)
        small = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
        left, top = (_INPUT_PX - columns) // 2, (_INPUT_PX - rows) // 2
        self._canvas.fill(-1.0)
        target = self._canvas[0, top : top + rows, left : left + columns]
        np.multiply(small[..., ::-1], np.float32(1 / 127.5), out=target)
        target -= 1.0
        return scale, left, top


class FrameDetector:
    """For the frames of a camera, which are alike: faces half as far again as in the whole frame, at the same cost.

    Each face of the last frame is looked for where it was. New ones are looked for in the whole frame and, by turns, in
    squares as high as the frame (of an upright one as wide), in which a face is larger than in the whole; while
    somebody is followed the whole frame takes its turn, too.
    """

    def __init__(self, detector: BlazeFaceDetector) -> None:
        self._detector = detector
        self._followed: list[Face] = []
        self._size: tuple[int, ...] | None = None
        self._turn = 0

    def detect(self, image: Image) -> list[Face]:
        """All faces of the next frame, highest score first."""
        if image.shape != self._size:
            self._size, self._followed = image.shape, []
        faces: list[Face] = []
        for seen in self._followed:
            _add(faces, self._detector.look_near(image, seen))
        for left, top, part in self._parts(image):
            # Squares also show backs of heads as faces, as the tiles of photos do.
            min_score = 0.0 if part is image else _MIN_EXTRA_SCORE
            for found in self._detector.look(part):
                seen = _moved(found, left, top)
                if not any(same_face(seen, face) for face in faces):
                    _add(faces, self._detector.look_again(image, seen), min_score)
        self._followed = faces
        return sorted(faces, key=lambda face: -face.score)

    def refine(self, image: Image, face: Face) -> Face:
        """As the detector does it for photos."""
        return self._detector.refine(image, face)

    def _parts(self, image: Image) -> list[tuple[int, int, Image]]:
        """What is searched for new faces in this frame, with left and top edge."""
        whole, squares = (0, 0, image), _squares(image)
        self._turn += 1
        if not squares:
            return [whole]
        if not self._followed:
            return [whole, squares[self._turn % len(squares)]]
        return [whole if self._turn % 2 else squares[self._turn // 2 % len(squares)]]


class HaarDetector:
    """The notebook's detector: OpenCV's frontal-face cascade, and its eye cascade for the two eyes."""

    def __init__(self, *, min_size_px: int = 40) -> None:
        folder = Path(str(cv2.__file__)).parent / "data"
        self._faces = _cascade(folder / "haarcascade_frontalface_default.xml")
        self._eyes = _cascade(folder / "haarcascade_eye.xml")
        self._min_size = (min_size_px, min_size_px)

    def detect(self, image: Image) -> list[Face]:
        """All faces of a BGR image, highest score first; ``landmarks`` (two eyes) only where both were seen.

        The cascade's level weight is unbounded; it is squashed to 0-1 so that it orders faces, no more.
        """
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        boxes, _, weights = self._faces.detectMultiScale3(
            grey, scaleFactor=1.1, minNeighbors=5, minSize=self._min_size, outputRejectLevels=True
        )
        found = [
            Face(Box(*map(float, box)), float(1 / (1 + np.exp(-weight))), self._find_eyes(grey, box))
            for box, weight in zip(boxes, weights, strict=True)
        ]
        return sorted(found, key=lambda face: -face.score)

    def refine(self, image: Image, face: Face) -> Face:  # noqa: ARG002 - nothing to add to what the cascades found
        return face

    def _find_eyes(self, grey: cv2.typing.MatLike, box: Sequence[int]) -> Landmarks | None:
        x, y, w, h = map(int, box)
        # Eyes lie in the upper 60 % of the cascade's box; below, the eye cascade finds nostrils and mouth corners.
        upper = grey[y : y + int(h * 0.6), x : x + w]
        eyes = self._eyes.detectMultiScale(upper, scaleFactor=1.1, minNeighbors=5, minSize=(w // 10, w // 10))
        centres = sorted((ex + ew / 2, ey + eh / 2) for ex, ey, ew, eh in eyes)
        left = [eye for eye in centres if eye[0] < w / 2]
        right = [eye for eye in centres if eye[0] >= w / 2]
        if not left or not right:
            return None
        return np.array([left[0], right[-1]], np.float32) + np.array([x, y], np.float32)


class YuNetDetector:
    """OpenCV's YuNet (``cv2.FaceDetectorYN``), from a network file that the user gives: four landmarks a face.

    **Not measured.** The file (``face_detection_yunet_2023mar.onnx`` of OpenCV Zoo) was not at hand where this was
    written: it follows OpenCV's documentation, and was never run with the real network.

    Raises:
        ModelError: the file is missing, or not YuNet.
    """

    def __init__(self, model: Path, *, min_score: float = _YUNET_MIN_SCORE) -> None:
        if not model.is_file():
            raise ModelError(f"{model}: no such file; download face_detection_yunet_2023mar.onnx from OpenCV Zoo")
        self._model = model
        try:
            self._network = cv2.FaceDetectorYN.create(str(model), "", (320, 320), min_score)
        except cv2.error:
            raise self._unusable() from None
        # Another network loads, too, and only running it shows that it is not YuNet.
        self.detect(np.zeros((320, 320, 3), np.uint8))

    def detect(self, image: Image) -> list[Face]:
        """All faces of a BGR image, highest score first.

        Raises:
            ModelError: the network has not YuNet's outputs.
        """
        height, width = image.shape[:2]
        scale = min(_YUNET_LONGEST_PX / max(height, width), 1.0)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        small = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        try:
            self._network.setInputSize(size)
            _, rows = self._network.detect(small)
        except cv2.error:
            raise self._unusable() from None
        return decode_yunet(rows, (size[0] / width, size[1] / height))

    def refine(self, image: Image, face: Face) -> Face:  # noqa: ARG002 - not measured, so taken as it is
        return face

    def _unusable(self) -> ModelError:
        return ModelError(f"{self._model}: not a YuNet network; download face_detection_yunet_2023mar.onnx again")


def decode_yunet(rows: NDArray[Any] | None, scale: tuple[float, float] = (1.0, 1.0)) -> list[Face]:
    """Faces from the rows of ``FaceDetectorYN.detect`` (n, 15), None without any; highest score first.

    A row is the box (x, y, w, h); right eye, left eye, nose tip, right and left corner of the mouth, as the person has
    them: the right eye is on the image's left; and the score. The landmarks come out as those of every detector: eye
    on the image's left, the other eye, nose tip, mouth centre. ``scale``: columns and rows of the image the network
    saw per column and row of the original one.
    """
    if rows is None:
        return []
    faces = []
    for row in np.asarray(rows, np.float32):
        x, y, w, h = (float(value) for value in row[:4] / np.array([*scale, *scale], np.float32))
        left, right, nose, *mouth = row[4:14].reshape(5, 2) / np.array(scale, np.float32)
        landmarks = np.stack([left, right, nose, np.mean(mouth, axis=0)]).astype(np.float32)
        faces.append(Face(Box(x, y, w, h), min(max(float(row[14]), 0.0), 1.0), landmarks))
    return sorted(faces, key=lambda face: -face.score)


def _cascade(path: Path) -> cv2.CascadeClassifier:
    cascade = cv2.CascadeClassifier(str(path))
    if cascade.empty():
        raise ModelError(f"{path}: cascade missing; install opencv-python-headless>=4.10,<5")
    return cascade


def _anchors() -> Array:
    """Anchor centres, shape (896, 2), as fractions of the input side."""
    rows = []
    for cells, per_cell in _ANCHOR_GRIDS:
        y, x = np.divmod(np.arange(cells * cells), cells)
        centres = (np.stack([x, y], axis=1) + 0.5) / cells
        rows.append(np.repeat(centres, per_cell, axis=0))
    return np.concatenate(rows).astype(np.float32)


def _outputs_by_width(details: list[dict[str, Any]]) -> tuple[int, int]:
    """Tensor indices of (boxes, scores): runtimes need not agree on the order of the outputs."""
    by_width = {int(detail["shape"][-1]): int(detail["index"]) for detail in details}
    return by_width[16], by_width[1]


def _logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def _merge(rows: Array, scores: Array) -> list[Face]:
    """Weighted non-maximum suppression: overlapping detections become their score-weighted mean.

    ``rows``: (n, 16) of (cx, cy, w, h, six landmark pairs).
    """
    order = np.argsort(-scores)
    rows, scores = rows[order], scores[order]
    faces: list[Face] = []
    while len(rows):
        overlapping = _iou_with_first(rows) > _MERGE_IOU
        overlapping[0] = True
        weights = scores[overlapping, None]
        cx, cy, w, h, *points = (rows[overlapping] * weights).sum(axis=0) / weights.sum()
        box = Box(float(cx - w / 2), float(cy - h / 2), float(w), float(h))
        faces.append(Face(box, float(scores[0]), np.array(points, np.float32).reshape(6, 2)))
        rows, scores = rows[~overlapping], scores[~overlapping]
    return faces


def _iou_with_first(rows: Array) -> Array:
    low, high = rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2
    shared = np.prod(np.clip(np.minimum(high, high[0]) - np.maximum(low, low[0]), 0, None), axis=1)
    areas = np.prod(high - low, axis=1)
    overlap: Array = shared / np.maximum(areas + areas[0] - shared, _LEAST_AREA)
    return overlap


# Tiles of a whole, a half and a quarter of the longer side: faces from about 2 % of it upwards. Neighbours overlap by
# a quarter, so a face a tile can show well is never cut by both.
_LEVELS = (1, 2, 4)
_TILE_OVERLAP = 0.25
# Below this relation of the sides nothing is gained by squares.
_SQUARISH = 1.2
# Of the longer side: faces this wide are always found (docs/hardware.md).
_SHOWN_WELL = 0.125
# Beside faces found at a coarser level, tiles also show ties and hands as faces: up to 0.67 on portraits.
_MIN_EXTRA_SCORE = 0.75


class PhotoDetector:
    """For single photos, where small faces and their exact place matter more than milliseconds.

    The image whole, then in ever smaller tiles; every face that is found is refined.

    ``exhaustive`` searches every level and merges (all faces of a group photo); otherwise the first level that shows a
    face ends the search (the one face of a portrait).
    """

    def __init__(self, detector: Detector, *, exhaustive: bool = False) -> None:
        self._detector = detector
        self._exhaustive = exhaustive

    def detect(self, image: Image) -> list[Face]:
        """All faces of a BGR image, highest score first."""
        faces: list[Face] = []
        for level in _LEVELS:
            min_score = _MIN_EXTRA_SCORE if faces else 0.0
            for left, top, tile in _tiles(image, level):
                found = (_moved(face, left, top) for face in self._detector.detect(tile) if face.score >= min_score)
                for face in found:
                    if not any(same_face(face, other) for other in faces):
                        faces.append(face)
            if faces and not self._exhaustive:
                break
        return sorted((self._detector.refine(image, face) for face in faces), key=lambda face: -face.score)

    def refine(self, image: Image, face: Face) -> Face:  # noqa: ARG002 - every face already is
        return face


def _tiles(image: Image, level: int) -> Iterator[tuple[int, int, Image]]:
    """Square tiles with their left and top edge; at level 1 the image itself."""
    height, width = image.shape[:2]
    if level == 1:
        yield 0, 0, image
        return
    side = max(height, width) // level
    if side < _INPUT_PX:
        return
    for top in _offsets(height, side):
        for left in _offsets(width, side):
            yield left, top, image[top : top + side, left : left + side]


def _squares(image: Image) -> list[tuple[int, int, Image]]:
    """The image in squares of its shorter side, with left and top edge; none where it is nearly one.

    They overlap by as much as a face needs that the whole image shows well: a cut through a larger one does no harm.
    """
    height, width = image.shape[:2]
    side, length = min(height, width), max(height, width)
    if side < _INPUT_PX or side * _SQUARISH > length:
        return []
    # A panorama may be so low that a whole square would be shared.
    overlap = min(length * _SHOWN_WELL, side / 2)
    count = math.ceil((length - overlap) / (side - overlap))
    offsets = [round(i * (length - side) / (count - 1)) for i in range(count)]
    if width > height:
        return [(left, 0, image[:, left : left + side]) for left in offsets]
    return [(0, top, image[top : top + side]) for top in offsets]


def _add(faces: list[Face], face: Face | None, min_score: float = 0.0) -> None:
    """One more face, unless it is among them."""
    if face is not None and face.score >= min_score and not any(same_face(face, other) for other in faces):
        faces.append(face)


def _offsets(length: int, side: int) -> list[int]:
    if length <= side:
        return [0]
    count = math.ceil((length - side * _TILE_OVERLAP) / (side * (1 - _TILE_OVERLAP)))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def _surroundings(image: Image, box: Box) -> tuple[int, int, Image]:
    """The square around a face for the second look, as far as the image reaches, with its left and top edge."""
    half = box.w * _SECOND_LOOK / 2
    x, y = box.centre
    left, top = max(int(x - half), 0), max(int(y - half), 0)
    return left, top, image[top : int(y + half) + 1, left : int(x + half) + 1]


def _overlapping_most(found: list[Face], face: Face) -> Face | None:
    overlapping = [other for other in found if other.box.iou(face.box) > _MERGE_IOU]
    return max(overlapping, key=lambda other: other.box.iou(face.box), default=None)


def _mirrored(face: Face, width: int) -> Face:
    """A face of the mirror image in the image's own coordinates: left and right change places."""
    box = Box(width - face.box.x - face.box.w, face.box.y, face.box.w, face.box.h)
    if face.landmarks is None:
        return Face(box, face.score)
    points = face.landmarks[_MIRRORED_ROWS]
    points[:, 0] = width - points[:, 0]
    return Face(box, face.score, points)


def _mean_face(a: Face, b: Face) -> Face:
    x, y, w, h = ((p + q) / 2 for p, q in zip(astuple(a.box), astuple(b.box), strict=True))
    landmarks = None
    if a.landmarks is not None and b.landmarks is not None:
        landmarks = ((a.landmarks + b.landmarks) / 2).astype(np.float32)
    return Face(Box(x, y, w, h), a.score, landmarks)


def _moved(face: Face, left: int, top: int) -> Face:
    box = Box(face.box.x + left, face.box.y + top, face.box.w, face.box.h)
    landmarks = None if face.landmarks is None else face.landmarks + np.array([left, top], np.float32)
    return Face(box, face.score, landmarks)


def same_face(face: Face, other: Face, *, min_iou: float = _MERGE_IOU) -> bool:
    """Overlapping by more than ``min_iou``, or one centred inside the other: tiles cut boxes differently."""
    if face.box.iou(other.box) > min_iou:
        return True
    small, large = sorted((face.box, other.box), key=lambda box: box.area)
    x, y = small.centre
    return large.x < x < large.x + large.w and large.y < y < large.y + large.h
