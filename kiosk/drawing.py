"""Pictures that explain a result: two aligned faces side by side, boxes and decisions in a photo. OpenCV only.

OpenCV's fonts know ASCII alone: subject ids are ASCII by rule, names are never drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kiosk.biometrics import FaceReport, Image, Verdict
from kiosk.errors import OutputError, UsageError
from kiosk.opencv import cv2

Colour = tuple[int, int, int]

_GREEN: Colour = (80, 175, 30)
_RED: Colour = (60, 60, 220)
_AMBER: Colour = (0, 150, 230)
_INK: Colour = (40, 40, 40)
_PAPER = 250
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_COLOURS = {Verdict.IDENTIFIED: _GREEN, Verdict.UNKNOWN: _RED, Verdict.REJECTED: _AMBER}
_FACE_PX = 320
_GAP_PX = 16
_CELL_PX = (640, 480)


def draw_verification(crops: tuple[Image, Image], *, distance: float, threshold: float, same: bool) -> Image:
    """Both aligned faces, and the distance against the threshold as a scale from 0 to 1 (BGR)."""
    width, height = 2 * _FACE_PX + 3 * _GAP_PX, _FACE_PX + 150
    canvas: Image = np.full((height, width, 3), _PAPER, np.uint8)
    for i, crop in enumerate(crops):
        left = _GAP_PX + i * (_FACE_PX + _GAP_PX)
        canvas[_GAP_PX : _GAP_PX + _FACE_PX, left : left + _FACE_PX] = cv2.resize(
            crop, (_FACE_PX, _FACE_PX), interpolation=cv2.INTER_CUBIC
        )
    colour = _GREEN if same else _RED
    top = _FACE_PX + 3 * _GAP_PX
    verdict = "same person" if same else "different people"
    _text(canvas, f"{verdict}: distance {distance:.3f}, threshold {threshold:.3f}", (_GAP_PX, top), colour, 0.7)
    _draw_scale(canvas, top + 2 * _GAP_PX, distance, threshold, colour)
    return canvas


def draw_faces(image: Image, reports: Sequence[FaceReport]) -> Image:
    """A copy of the photo with every face's box, subject id, score and decision."""
    canvas = image.copy()
    # Text and lines readable whatever the photo's size: measured against its longer side.
    scale = max(max(image.shape[:2]) / 1000, 0.4)
    thickness = max(round(2 * scale), 1)
    for report in reports:
        x, y, w, h = report.face.box.rounded()
        colour = _COLOURS[report.decision.verdict]
        cv2.rectangle(canvas, (x, y), (x + w, y + h), colour, thickness)
        _label(canvas, describe(report), (x, y, h), colour, scale)
    return canvas


def describe(report: FaceReport) -> str:
    """A face's decision in a few ASCII words: id and score, or why there is none."""
    decision = report.decision
    score = "" if decision.score is None else f" {decision.score:.2f}"
    if decision.verdict is Verdict.IDENTIFIED:
        return f"{decision.subject_id}{score}"
    if decision.candidates:
        return f"{decision.reason} ({decision.candidates[0].subject_id}{score})"
    return decision.reason.replace("_", " ")


def contact_sheet(images: Sequence[Image]) -> Image:
    """Several pictures on one sheet, row by row; a single one stays as it is."""
    if len(images) == 1:
        return images[0]
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = _CELL_PX
    sheet: Image = np.full((rows * height, columns * width, 3), _PAPER, np.uint8)
    for i, image in enumerate(images):
        small = _fit(image, width - _GAP_PX, height - _GAP_PX)
        top, left = i // columns * height, i % columns * width
        sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sheet


def check_plot_path(path: Path | None) -> None:
    """Refuse a plot that could not be written, before any work is done.

    Raises:
        UsageError: no image format OpenCV writes.
        OutputError: the folder is not there.
    """
    if path is None:
        return
    if path.suffix.lower() not in {".png", ".jpg", ".jpeg"}:
        raise UsageError(f"--plot {path}: the name must end in .png or .jpg")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: cannot be written: no folder {path.parent}")


def write_image(path: Path, image: Image) -> None:
    """Encode by the name's ending and write.

    Raises:
        OutputError: the file cannot be written.
    """
    _, data = cv2.imencode(path.suffix.lower(), image)
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}; choose another place") from error


def _draw_scale(canvas: Image, y: int, distance: float, threshold: float, colour: Colour) -> None:
    left, right = _GAP_PX, int(canvas.shape[1]) - _GAP_PX

    def at(value: float) -> int:
        return round(left + (right - left) * min(max(value, 0.0), 1.0))

    cv2.line(canvas, (left, y), (right, y), _INK, 1, cv2.LINE_AA)
    cv2.line(canvas, (at(threshold), y - 10), (at(threshold), y + 10), _INK, 2, cv2.LINE_AA)
    cv2.circle(canvas, (at(distance), y), 7, colour, cv2.FILLED, cv2.LINE_AA)
    for value in (0.0, 1.0):
        _text(canvas, f"{value:.0f}", (at(value) - (10 if value else 0), y + 26), _INK, 0.45)
    _text(canvas, "threshold", (min(at(threshold), right - 70), y + 26), _INK, 0.45)


def _label(canvas: Image, text: str, place: tuple[int, int, int], colour: Colour, scale: float) -> None:
    """White text on the box's colour: above the box, or inside it at the picture's upper edge."""
    x, y, h = place
    thickness = max(round(1.5 * scale), 1)
    (width, height), baseline = cv2.getTextSize(text, _FONT, 0.7 * scale, thickness)
    x = max(min(x, canvas.shape[1] - width), 0)
    bottom = y if y > height + 2 * baseline else min(y + h, canvas.shape[0])
    cv2.rectangle(canvas, (x, bottom - height - 2 * baseline), (x + width, bottom), colour, cv2.FILLED)
    cv2.putText(canvas, text, (x, bottom - baseline), _FONT, 0.7 * scale, (255, 255, 255), thickness, cv2.LINE_AA)


def _text(canvas: Image, text: str, at: tuple[int, int], colour: Colour, size: float) -> None:
    cv2.putText(canvas, text, at, _FONT, size, colour, 1 if size < 0.6 else 2, cv2.LINE_AA)


def _fit(image: Image, width: int, height: int) -> Image:
    factor = min(width / image.shape[1], height / image.shape[0])
    size = max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR).astype(np.uint8)
