"""From a face in a photo to the square crop a network was trained on. Each geometry has a name (an alignment id)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kiosk.biometrics import Box, Face, Image, Landmarks
from kiosk.opencv import cv2

# Width and height of the region, and how far its centre lies above the box centre, in units of the mean box side.
# Measured for BlazeFace boxes and FaceNet 20180402 on LFW View 1 (docs/recognition.md): the network was trained on
# MTCNN boxes squeezed to a square, hence the two different sides.
_EYES_BOX_REGION = (1.19, 1.48, 0.113)

# Where left eye, right eye and mouth centre of a BlazeFace detection fall in dlib's face chip (padding 0.25), as
# fractions of its side: medians over 299 LFW View 1 photos against dlib's own five-point predictor. The nose tip is
# left out: it moves with the pose (spread 0.046, the others 0.02).
_DLIB_CHIP_ROWS = [0, 1, 3]
_DLIB_CHIP_POINTS = np.array([(0.311, 0.316), (0.683, 0.317), (0.493, 0.720)], np.float64)
# The same photos' boxes in the chip: side 0.90, centre 0.026 below the chip's.
_DLIB_CHIP_FROM_BOX = (1 / 0.90, 0.026 / 0.90)


def align_face(image: Image, face: Face, alignment: str, size_px: int) -> Image:
    """Cut the face out of a BGR image as a (size_px, size_px, 3) crop; black where it reaches outside."""
    match alignment:
        case "eyes-box-v1":
            width, height, up = _EYES_BOX_REGION
            side = (face.box.w + face.box.h) / 2
            matrix = _region(face, side * width, side * height, side * up)
        case "haar-square-v1":
            side = max(face.box.w, face.box.h)
            matrix = _region(face, side, side, 0.0)
        case "dlib-chip-v1":
            matrix = _dlib_chip(face)
        case _:
            raise ValueError(f"unknown alignment {alignment!r}")
    return _warp(image, matrix, size_px)


def cut_surroundings(image: Image, box: Box, scale: float, size_px: int) -> Image:
    """Cut a face with what is around it out of a BGR image, as (size_px, size_px, 3): the box ``scale`` times as wide
    and high.

    The geometry that MiniFASNet was trained with: where the image ends, the rectangle is moved inside, and made smaller
    where it does not fit in at all; every pixel is seen, none is black. Bilinear samples of the picture itself, without
    averaging: what a network knows a print or a screen by are details that averaging would take away.
    """
    height, width = image.shape[:2]
    box_width, box_height = max(box.w, 1.0), max(box.h, 1.0)
    scale = min(scale, (width - 1) / box_width, (height - 1) / box_height)
    left, right = _inside(box.centre[0], box_width * scale, width)
    top, bottom = _inside(box.centre[1], box_height * scale, height)
    part = image[top : bottom + 1, left : right + 1]
    return np.asarray(cv2.resize(part, (size_px, size_px), interpolation=cv2.INTER_LINEAR), np.uint8)


def _inside(centre: float, length: float, available: int) -> tuple[int, int]:
    """First and last pixel of a stretch about ``centre``, moved so that it lies in ``available`` pixels."""
    first = min(max(centre - length / 2, 0.0), available - 1 - length)
    return max(int(first), 0), min(int(first + length), available - 1)


def central_face(faces: list[Face], width: int, height: int) -> Face:
    """The face a photo is of: the largest after a penalty for lying off the centre.

    Area minus twice the squared distance of its centre from the image's (the rule of FaceNet's own LFW alignment).
    """

    def merit(face: Face) -> float:
        x, y = face.box.centre
        return face.box.area - 2 * ((x - width / 2) ** 2 + (y - height / 2) ** 2)

    return max(faces, key=merit)


def _region(face: Face, width: float, height: float, up: float) -> NDArray[np.float64]:
    """Map the unit square to a rectangle about the box centre, turned so that the eyes are level."""
    angle = _eye_angle(face.landmarks)
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = face.box.centre
    turn = np.array([[cos, -sin], [sin, cos]])
    matrix = turn @ np.diag([width, height])
    offset = np.array([x, y]) + turn @ np.array([-width / 2, -height / 2 - up])
    return np.column_stack([matrix, offset])


def _eye_angle(landmarks: Landmarks | None) -> float:
    if landmarks is None:
        return 0.0
    dx, dy = landmarks[1] - landmarks[0]
    return math.atan2(float(dy), float(dx))


def _dlib_chip(face: Face) -> NDArray[np.float64]:
    """The similarity that carries the chip's points onto the landmarks with least squared error."""
    if face.landmarks is None:
        side = (face.box.w + face.box.h) / 2
        scale, up = _DLIB_CHIP_FROM_BOX
        return _region(face, side * scale, side * scale, side * up)
    rows = [row for row in _DLIB_CHIP_ROWS if row < len(face.landmarks)]
    points = face.landmarks[rows].astype(np.float64)
    target = _DLIB_CHIP_POINTS[: len(rows)]
    # Points as complex numbers: a similarity is z -> a z + b.
    chip = target[:, 0] + 1j * target[:, 1]
    seen = points[:, 0] + 1j * points[:, 1]
    centred = chip - chip.mean()
    a = np.vdot(centred, seen - seen.mean()) / np.vdot(centred, centred)
    b = seen.mean() - a * chip.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def _warp(image: Image, unit_to_image: NDArray[np.float64], size_px: int) -> Image:
    """Sample the image where the map sends the unit square's size_px × size_px pixel centres."""
    scale = math.sqrt(abs(np.linalg.det(unit_to_image[:, :2]))) / size_px
    matrix = unit_to_image.copy()
    shrink = int(scale)
    if shrink >= 2:
        # One bilinear sample per pixel would skip pixels: average them first, on the part that is needed only.
        image, left, top = _shrink(image, matrix, shrink)
        matrix[:, 2] -= (left, top)
        matrix /= shrink
    matrix[:, :2] /= size_px
    # Pixel i covers [i, i + 1): its centre is at i + 0.5 on both sides.
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    crop = cv2.warpAffine(
        image,
        matrix,
        (size_px, size_px),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
    )
    return np.asarray(crop, np.uint8)


def _shrink(image: Image, unit_to_image: NDArray[np.float64], factor: int) -> tuple[Image, int, int]:
    """The part of the image under the mapped unit square, area-averaged by ``factor``; its left and top edge."""
    corners = unit_to_image[:, :2] @ np.array([[0, 1, 0, 1], [0, 0, 1, 1]]) + unit_to_image[:, 2:]
    height, width = image.shape[:2]
    left, top = np.clip(np.floor(corners.min(axis=1)) - factor, 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(axis=1)) + factor, (left + 1, top + 1), (width, height)).astype(int)
    columns = max((right - left) // factor, 1)
    rows = max((bottom - top) // factor, 1)
    part = image[top : min(top + rows * factor, height), left : min(left + columns * factor, width)]
    small = cv2.resize(part, (int(columns), int(rows)), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8), int(left), int(top)
