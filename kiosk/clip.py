"""A video clip of people passing a camera, drawn from photos: for the demo, and for tests without a camera."""

from __future__ import annotations

import functools
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


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """A photo, and the box of the face in it. Two of them are never equal: pixels are not worth comparing."""

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
    scale = _between(walk.face_px, t) / walk.person.face.w
    cutting, face_at = cut_out(walk.person)
    # Shrunk by area: sampling single pixels would make the picture flicker as it grows.
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    bust = cv2.resize(cutting, None, fx=scale, fy=scale, interpolation=method)
    # A step's swing: nobody glides.
    sway = 0.01 * math.sin(t * 6 * math.pi)
    left = round((_between(walk.x, t) + sway) * width - scale * face_at[0])
    top = round((_between(walk.y, t) + sway / 2) * height - scale * face_at[1])
    right, bottom = min(left + bust.shape[1], width), min(top + bust.shape[0], height)
    if right <= max(left, 0) or bottom <= max(top, 0):
        return  # out of the picture
    seen = bust[max(-top, 0) : bottom - top, max(-left, 0) : right - left]
    place = frame[max(top, 0) : bottom, max(left, 0) : right]
    alpha = seen[..., 3:]
    place += (seen[..., :3] * np.float32(_between(walk.light, t)) - place) * alpha


@functools.lru_cache(maxsize=8)
def cut_out(person: Person) -> tuple[Array, tuple[float, float]]:
    """Head and shoulders as (height, width, 4): colour, and alpha fading to 0 at the rim; the face's centre in it."""
    photo, face = person.photo, person.face
    x, y = face.centre
    width, height = face.w * _BUST_WIDTH, face.h * _BUST_HEIGHT
    left, top = max(round(x - width / 2), 0), max(round(y - height * _FACE_HEIGHT), 0)
    part = photo[top : round(y + height * (1 - _FACE_HEIGHT)), left : round(x + width / 2)].astype(np.float32)
    rows, columns = np.ogrid[: part.shape[0], : part.shape[1]]
    # A superellipse: rounder than a rectangle, roomier for the shoulders than an ellipse.
    across = ((columns - (x - left)) / (width / 2)) ** 4
    down = ((rows - (y - top + height * (0.5 - _FACE_HEIGHT))) / (height / 2)) ** 4
    alpha = np.clip((1.0 - (across + down)) / 0.4, 0, 1).astype(np.float32)
    return np.dstack([part, alpha]), (x - left, y - top)


def _between(ends: tuple[float, float], t: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * t
