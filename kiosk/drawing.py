"""Pictures that explain a result: two aligned faces side by side, boxes and decisions in a photo. OpenCV only.

OpenCV's fonts know ASCII alone: subject ids are ASCII by rule, names are never drawn.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from kiosk.biometrics import Face, FaceReport, Image, Verdict
from kiosk.errors import OutputError, PermissionDeniedError, UsageError
from kiosk.evidence import advise, describe_quality, explain_outcome, gather_evidence
from kiosk.files import write_private
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
# A sheet larger than this is no longer looked at, only carried about.
_SHEET_PX = 6000
# The panel beside a photo, at scale 1: that of a photo 1000 px long.
_PANEL_PX = 520
_LINE_PX = 24
_LINE_CHARACTERS = 58
_CANDIDATES_SHOWN = 3
_FEW_FACES = 6


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
    for i, report in enumerate(reports):
        x, y, w, h = report.face.box.rounded()
        colour = _COLOURS[report.decision.verdict]
        cv2.rectangle(canvas, (x, y), (x + w, y + h), colour, thickness)
        number = f"{i + 1}: " if len(reports) > 1 else ""
        # In a crowd long labels hide faces.
        words = (
            describe(report) if len(reports) <= _FEW_FACES else report.decision.subject_id or report.decision.verdict
        )
        _label(canvas, number + words, (x, y, h), colour, scale)
    return canvas


def draw_boxes(image: Image, faces: Sequence[Face]) -> Image:
    """A copy of the picture with every face's box, and how many pixels lie between its eyes; nobody is named."""
    canvas = image.copy()
    scale = max(max(image.shape[:2]) / 1000, 0.4)
    for face in faces:
        x, y, w, h = face.box.rounded()
        cv2.rectangle(canvas, (x, y), (x + w, y + h), _GREEN, max(round(2 * scale), 1))
        if face.landmarks is not None:
            eyes_px = float(np.linalg.norm(face.landmarks[1] - face.landmarks[0]))
            _label(canvas, f"{eyes_px:.0f} px", (x, y, h), _GREEN, scale)
    return canvas


def explain_faces(image: Image, reports: Sequence[FaceReport]) -> Image:
    """The photo with its faces drawn, and beside it (below, when they are many) what each decision rests on."""
    drawn = draw_faces(image, reports)
    if not reports:
        return drawn
    # Below 0.7 OpenCV's strokes run into each other.
    scale = max(max(image.shape[:2]) / 1000, 0.7)
    panels = [_panel(i + 1 if len(reports) > 1 else None, report, scale) for i, report in enumerate(reports)]
    height, width = max(panel.shape[0] for panel in panels), panels[0].shape[1]
    rows_beside = max(image.shape[0] // height, 1)
    if len(panels) <= 2 * rows_beside:
        return _joined([drawn, _grid(panels, rows_beside)], axis=1)
    # As many columns as the photo is wide, or as make the panels about square together.
    columns = max(image.shape[1] // width, math.ceil(math.sqrt(len(panels) * height / width)))
    return _joined([drawn, _grid(panels, math.ceil(len(panels) / columns))], axis=0)


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
    """Several pictures on one sheet, row by row, each as large as the sheet allows; a single one stays as it is."""
    if len(images) == 1:
        return images[0]
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width = min(max(image.shape[1] for image in images), _SHEET_PX // columns)
    height = min(max(image.shape[0] for image in images), _SHEET_PX // rows)
    sheet: Image = np.full((rows * height, columns * width, 3), _PAPER, np.uint8)
    for i, image in enumerate(images):
        small = _fit(image, width - _GAP_PX, height - _GAP_PX)
        top, left = i // columns * height, i % columns * width
        sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sheet


def check_plot_path(path: Path | None, option: str = "--plot") -> None:
    """Refuse a picture that could not be written, before any work is done.

    Raises:
        UsageError: no image format OpenCV writes.
        OutputError: the folder is not there.
        PermissionDeniedError: it may not be entered.
    """
    if path is None:
        return
    if path.suffix.lower() not in {".png", ".jpg", ".jpeg"}:
        raise UsageError(f"{option} {path}: the name must end in .png or .jpg")
    try:
        path.lstat()
    except PermissionError as error:
        message = f"{path}: this user may not enter that folder; choose another one, as in /tmp/{path.name}"
        raise PermissionDeniedError(message) from error
    except OSError:
        pass
    if not path.parent.is_dir():
        raise OutputError(f"{path}: cannot be written: no folder {path.parent}")


def write_image(path: Path, image: Image) -> None:
    """Encode by the name's ending and write, for nobody but the owner to read: faces, and whose they are.

    Raises:
        OutputError: the file cannot be written.
    """
    _, data = cv2.imencode(path.suffix.lower(), image)
    try:
        write_private(path, data.tobytes())
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


def _panel(number: int | None, report: FaceReport, scale: float) -> Image:
    """One face's figures, and its reason in words."""
    lines = list(_panel_lines(number, report))
    height, width = round((len(lines) + 1) * _LINE_PX * scale), round(_PANEL_PX * scale)
    canvas: Image = np.full((height, width, 3), _PAPER, np.uint8)
    colour = _COLOURS[report.decision.verdict]
    cv2.rectangle(canvas, (0, 0), (max(round(5 * scale), 2), height), colour, cv2.FILLED)
    for i, line in enumerate(lines):
        at = round(14 * scale), round((i + 1) * _LINE_PX * scale)
        size, ink = (0.5, _INK) if i else (0.6, colour)
        cv2.putText(canvas, line, at, _FONT, size * scale, ink, max(round(scale), 1), cv2.LINE_AA)
    return canvas


def _panel_lines(number: int | None, report: FaceReport) -> Iterator[str]:
    decision = report.decision
    evidence = gather_evidence(decision)
    why = decision.subject_id or decision.reason.replace("_", " ")
    yield f"{'' if number is None else f'{number}: '}{decision.verdict}{'' if why == decision.verdict else f': {why}'}"
    for candidate in decision.candidates[:_CANDIDATES_SHOWN]:
        yield f"  {candidate.score:.3f}  {_shortened(candidate.subject_id)}"
    had = "none" if decision.margin is None else f"{decision.margin:.3f}"
    needed = "" if decision.margin_needed is None else f", {decision.margin_needed:.3f} needed"
    yield f"threshold {decision.threshold:.3f}; margin {had}{needed}"
    if evidence.quality is not None:
        yield from _wrapped(", ".join(describe_quality(evidence.quality)))
    yield from _wrapped(explain_outcome(evidence))
    advice = None if decision.verdict is Verdict.IDENTIFIED else advise(evidence)
    if advice is not None:
        yield from _wrapped(f"what to do: {advice}")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _LINE_CHARACTERS)


def _shortened(subject_id: str) -> str:
    return subject_id if len(subject_id) <= 44 else subject_id[:41] + "..."


def _grid(panels: Sequence[Image], rows: int) -> Image:
    """Panels of one width, column by column, each at the height of the highest."""
    height = max(panel.shape[0] for panel in panels)
    padded = [_padded(panel, height, panel.shape[1]) for panel in panels]
    columns = [padded[i : i + rows] for i in range(0, len(padded), rows)]
    return _joined([_joined(column, axis=0) for column in columns], axis=1)


def _joined(images: Sequence[Image], *, axis: int) -> Image:
    """Images in a row (axis 1) or a column (axis 0), the smaller ones padded with paper."""
    across = max(image.shape[1 - axis] for image in images)
    padded = [
        _padded(image, across, image.shape[1]) if axis else _padded(image, image.shape[0], across) for image in images
    ]
    return np.concatenate(padded, axis=axis)


def _padded(image: Image, height: int, width: int) -> Image:
    canvas: Image = np.full((height, width, 3), _PAPER, np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    return canvas


def _text(canvas: Image, text: str, at: tuple[int, int], colour: Colour, size: float) -> None:
    cv2.putText(canvas, text, at, _FONT, size, colour, 1 if size < 0.6 else 2, cv2.LINE_AA)


def _fit(image: Image, width: int, height: int) -> Image:
    factor = min(width / image.shape[1], height / image.shape[0])
    size = max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR).astype(np.uint8)
