"""A video clip of people passing a camera, drawn from photos: for the demo, and for tests without a camera."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kiosk.biometrics import Box, Image
from kiosk.errors import OutputError
from kiosk.opencv import cv2

Array = NDArray[np.float32]

# Head and shoulders about a face box: width and height in box sides, and where the face's centre lies in it.
_BUST_WIDTH, _BUST_HEIGHT, _FACE_HEIGHT = 2.6, 3.0, 0.42


@dataclass(frozen=True, slots=True)
class Person:
    """A photo, and the box of the face in it."""

    photo: Image
    face: Box


@dataclass(frozen=True, slots=True)
class Walk:
    """How a person moves through a scene; every pair is the value at the start and at the end.

    ``x``, ``y``: the face's centre as a fraction of the frame. ``face_px``: the face's width. ``light``: gain, 1 is
    the photo's own.
    """

    person: Person
    x: tuple[float, float]
    y: tuple[float, float] = (0.45, 0.45)
    face_px: tuple[float, float] = (100.0, 100.0)
    light: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Scene:
    """A stretch of the clip; without walks nobody is there."""

    duration_s: float
    walks: tuple[Walk, ...] = ()


def write_clip(path: Path, scenes: Sequence[Scene], *, fps: int = 10, size: tuple[int, int] = (640, 480)) -> None:
    """Write the scenes as an MJPEG AVI file (``size``: width and height in pixels).

    Raises:
        OutputError: the file cannot be written.
    """
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, size)
    if not writer.isOpened():
        raise OutputError(f"{path}: cannot be written as a video; choose another place")
    try:
        for frame in draw_frames(scenes, fps=fps, size=size):
            writer.write(frame)
    finally:
        writer.release()


def draw_frames(scenes: Sequence[Scene], *, fps: int = 10, size: tuple[int, int] = (640, 480)) -> Iterator[Image]:
    """The clip's frames, BGR."""
    room = _draw_room(size)
    # The same clip every time: a demo that fails once in a hundred runs convinces nobody.
    grain = np.random.default_rng(7)
    for scene in scenes:
        count = round(scene.duration_s * fps)
        for i in range(count):
            frame = room.copy()
            for walk in scene.walks:
                _paint(frame, walk, i / max(count - 1, 1))
            frame += grain.normal(0, 2.0, (size[1], size[0], 1)).astype(np.float32)
            yield np.clip(frame, 0, 255).astype(np.uint8)


def _draw_room(size: tuple[int, int]) -> Array:
    """A plain wall, lighter at the top, over a darker floor."""
    width, height = size
    shade = np.linspace(200, 150, height, dtype=np.float32)
    shade[int(height * 0.85) :] *= 0.6
    return np.repeat(shade[:, None, None] * np.array([0.95, 1.0, 1.02], np.float32), width, axis=1)


def _paint(frame: Array, walk: Walk, t: float) -> None:
    """Blend the person's bust into the frame at time ``t`` (0–1) of the walk."""
    height, width = frame.shape[:2]
    face = walk.person.face
    scale = _between(walk.face_px, t) / face.w
    # A step's swing: nobody glides.
    sway = 0.01 * math.sin(t * 6 * math.pi)
    x, y = (_between(walk.x, t) + sway) * width, (_between(walk.y, t) + sway / 2) * height
    place = np.array([[scale, 0, x - scale * face.centre[0]], [0, scale, y - scale * face.centre[1]]], np.float64)
    # cv2.warpAffine samples single pixels: shrink by area first, or the picture would flicker.
    photo, mask = walk.person.photo, _bust_mask(walk.person)
    if scale < 1:
        photo, mask = (_shrink(picture, scale) for picture in (photo, mask))
        place[:, :2] /= scale
    bust = cv2.warpAffine(photo, place, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(mask, place, (width, height), flags=cv2.INTER_LINEAR)[..., None]
    frame += (bust.astype(np.float32) * np.float32(_between(walk.light, t)) - frame) * alpha


def _bust_mask(person: Person) -> Array:
    """1 on head and shoulders, 0 beyond, soft between; same height and width as the photo."""
    height, width = person.photo.shape[:2]
    face = person.face
    x, y = face.centre
    centre = x, y + face.h * _BUST_HEIGHT * (0.5 - _FACE_HEIGHT)
    rows, columns = np.ogrid[:height, :width]
    # A superellipse: rounder than a rectangle, roomier for the shoulders than an ellipse.
    across = np.abs((columns - centre[0]) / (face.w * _BUST_WIDTH / 2)) ** 4
    down = np.abs((rows - centre[1]) / (face.h * _BUST_HEIGHT / 2)) ** 4
    mask: Array = np.clip((1.0 - (across + down)) / 0.4, 0, 1).astype(np.float32)
    return mask


def _shrink(picture: Array | Image, scale: float) -> Array | Image:
    shrunk: Array | Image = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return shrunk


def _between(ends: tuple[float, float], t: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * t
