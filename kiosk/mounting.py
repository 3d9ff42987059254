"""Where and how a camera hangs: what to change until faces before it can be recognized. No I/O.

Each frame is measured; what is told rests on the medians of the last seconds. Faces decide wherever there is one: the
limits are those of the gates (:mod:`kiosk.quality`). Without one a lens can still be turned to its best, and a picture
that is far too dark, or lies on its side, is seen.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import median
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from kiosk.biometrics import Face, Frame, Image, Quality, Reason
from kiosk.ports import Detector
from kiosk.recognition import QualityCheck

T = TypeVar("T")

_WINDOW_S = 3.0
# For so long a lens is turned to and fro; longer, and the best was of another scene.
_BEST_S = 30.0
_WORSE = 0.93
# Points looked at along the picture's shorter side.
_POINTS = 180
_WHITE = 250
# Mean grey levels of whole pictures: by day in a room 90 to 150.
_DARK_PICTURE, _BRIGHT_PICTURE = 40, 215
_MUCH_WHITE = 0.25
# A face this dark in surroundings so much brighter has the light behind it.
_DIM_FACE, _BACKLIGHT = 80, 2.0
# Face box in sides of the picture's shorter one (as at enrollment).
_TOO_CLOSE = 0.75
# BlazeFace finds no smaller ones, however many pixels they have (docs/hardware.md): most from the first figure on, all
# from the second.
_SMALLEST, _SAFELY_FOUND = 0.1, 0.125
# Where the middle of a face should be, in shares of the picture.
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.2, 0.8, 0.15, 0.8
# Pitch of nine in ten photos of people who look at a camera at the height of their eyes (kiosk.guidance), and the yaw
# up to which a look is straight, both in eye distances.
_FROM_ABOVE, _FROM_BELOW = 0.07, 0.44
_STRAIGHT_YAW = 0.18
_TILTED_DEG, _LYING_DEG = 12, 45
_TURNS = (90, 180, 270)
# The detector's score of a face. Of 31 photos upright ones had 0.83 to 0.97, the same upside down no more than 0.82
# where they were found at all, and lying ones showed it by the line of their eyes.
_SURELY_UPRIGHT, _BETTER_BY = 0.85, 0.05
_LEAST_SCORE = 0.8
# Of a pattern that looks like a face one may be found; of a face several are.
_LEAST_HITS = 3
_FEW_FRAMES = 5.0
_SLOW = 0.7


class Topic(StrEnum):
    """What a finding is about, in the order in which it is best mended."""

    PICTURE = "picture"
    ROTATION = "rotation"
    AIM = "aim"
    FOCUS = "focus"
    LIGHT = "light"
    SIZE = "size"
    ANGLE = "angle"
    RATE = "rate"


class Level(StrEnum):
    """How it is; ``OPEN``: only somebody before the camera will tell."""

    GOOD = "good"
    POOR = "poor"
    BAD = "bad"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Finding:
    """One topic: what was measured, and what to do about it (None: nothing)."""

    topic: Topic
    level: Level
    text: str
    action: str | None = None


@dataclass(frozen=True, slots=True)
class PictureLight:
    """Grey levels 0-255 of a picture: their mean, and the share that is white (0-1)."""

    mean: float
    white: float


@dataclass(frozen=True, slots=True)
class _Seen:
    """One frame. ``detail``: of its middle. ``tried``: a turn, degrees clockwise, and the score of the face it made."""

    time_s: float
    index: int
    light: PictureLight
    detail: float
    face: _SeenFace | None
    tried: tuple[int, float] | None


@dataclass(frozen=True, slots=True)
class _SeenFace:
    """``x``, ``y``: its middle in shares of the picture; ``share``: its box in sides of the picture's shorter one."""

    quality: Quality
    score: float
    x: float
    y: float
    share: float
    roll_deg: float | None


class Gate(QualityCheck, Protocol):
    """Limits for faces, as :class:`kiosk.quality.QualityGate` has them."""

    @property
    def min_eye_distance_px(self) -> float: ...

    @property
    def min_sharpness(self) -> float: ...

    def failure(self, quality: Quality) -> Reason | None:
        """The first limit that these measures break."""


class Advisor:
    """Follows a camera's frames, at whatever rate they come.

    ``detector``: for frames that follow each other, ``turned_detector``: for single ones (the same one by default).
    ``gate``: for probes; ``enrollment_gate``: for those who are to be enrolled at this place. ``rotate``: how the
    frames have been turned already, degrees. ``fps``: what was asked of the camera; None: nothing was.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        gate: Gate,
        enrollment_gate: Gate,
        turned_detector: Detector | None = None,
        rotate: int = 0,
        fps: float | None = None,
    ) -> None:
        self._detector = detector
        self._turned_detector = turned_detector or detector
        self._gate = gate
        self._enrollment_gate = enrollment_gate
        self._rotate = rotate
        self._fps = fps
        self._seen: deque[_Seen] = deque()
        self._best_detail = _Best()
        self._best_sharpness = _Best()
        self._tries = 0
        self.frames = 0
        self.frames_with_face = 0

    def look(self, frame: Frame) -> tuple[Finding, ...]:
        """Measure a frame. What is to be said now, in the order of topics."""
        now_s, image = frame.captured_s, frame.image
        face = self._find(image)
        tried = self._try_turned(image) if face is None or face.score < _SURELY_UPRIGHT else None
        self.frames += 1
        self.frames_with_face += face is not None
        self._seen.append(_Seen(now_s, frame.index, measure_light(image), measure_detail(image), face, tried))
        while now_s - self._seen[0].time_s > _WINDOW_S:
            self._seen.popleft()
        return tuple(self._judge(now_s))

    def miss(self, fault: str | None) -> tuple[Finding, ...]:
        """No frame came, for this reason; what was seen before counts no longer."""
        self._seen.clear()
        return (Finding(Topic.PICTURE, Level.BAD, fault or "no picture comes", None),)

    def _find(self, image: Image) -> _SeenFace | None:
        found = _largest_standing(self._detector.detect(image))
        if found is None:
            return None
        face = self._detector.refine(image, found)
        height, width = image.shape[:2]
        x, y = face.box.centre
        side = max(face.box.w, face.box.h)
        return _SeenFace(
            self._gate.assess(image, face),
            found.score,
            x / width,
            y / height,
            side / min(width, height),
            _roll_deg(face),
        )

    def _try_turned(self, image: Image) -> tuple[int, float]:
        """Look for a face in the picture turned by 90, 180 or 270 degrees clockwise, one after the other."""
        turn = _TURNS[self._tries % len(_TURNS)]
        self._tries += 1
        turned = np.ascontiguousarray(np.rot90(image, -turn // 90))
        face = _largest_standing(self._turned_detector.detect(turned))
        return turn, 0.0 if face is None else face.score

    def _judge(self, now_s: float) -> Iterable[Finding]:
        faces = [seen.face for seen in self._seen if seen.face is not None]
        typical = _typical(faces)
        light = PictureLight(_middle(self._seen, lambda s: s.light.mean), _middle(self._seen, lambda s: s.light.white))
        detail = _middle(self._seen, lambda seen: seen.detail)
        best_detail = self._best_detail.of(detail, now_s)
        turn = self._find_turn(0.0 if typical is None else typical.score)
        if turn is not None:
            yield Finding(
                Topic.ROTATION,
                Level.BAD,
                f"faces stand upright only in the picture turned by {turn} degrees",
                f"set camera.rotate to {(self._rotate + turn) % 360} (now {self._rotate})",
            )
        elif typical is None:
            yield _judge_detail(detail, best_detail)
            yield _judge_picture_light(light)
            yield Finding(
                Topic.SIZE,
                Level.OPEN,
                "nobody is seen",
                "have somebody stand where people will stand, looking straight; if somebody does: closer, more light",
            )
        else:
            yield _judge_aim(typical)
            yield self._judge_sharpness(typical.quality, self._best_sharpness.of(typical.quality.sharpness, now_s))
            yield self._judge_face_light(typical.quality, light)
            yield self._judge_size(typical)
            yield self._judge_angle(typical)
        yield from self._judge_rate()

    def _find_turn(self, upright_score: float) -> int | None:
        """By how much the picture must be turned clockwise for faces to stand; None: not at all, or nobody is there."""
        scores = {
            turn: [seen.tried[1] for seen in self._seen if seen.tried and seen.tried[0] == turn] for turn in _TURNS
        }
        middles = {turn: median(tried) for turn, tried in scores.items() if len(tried) >= _LEAST_HITS}
        turn = max(middles, key=lambda turn: middles[turn], default=None)
        if turn is None or middles[turn] < max(_LEAST_SCORE, upright_score + _BETTER_BY):
            return None
        return turn

    def _judge_sharpness(self, quality: Quality, best: float) -> Finding:
        least, to_enroll = self._gate.min_sharpness, self._enrollment_gate.min_sharpness
        text = f"sharpness of the face {quality.sharpness:.0f} (needs {least:.0f}, to enroll {to_enroll:.0f}; "
        text += f"best of late {best:.0f})"
        if quality.sharpness < _WORSE * best:
            level = Level.BAD if quality.sharpness < least else Level.POOR
            return Finding(Topic.FOCUS, level, text, "it was sharper: turn the lens back, stand still")
        if quality.sharpness < to_enroll:
            level = Level.BAD if quality.sharpness < least else Level.POOR
            action = "turn the lens slowly, both ways, until this is highest; clean it; add light if people are blurred"
            return Finding(Topic.FOCUS, level, text, action)
        return Finding(Topic.FOCUS, Level.GOOD, text)

    def _judge_face_light(self, quality: Quality, light: PictureLight) -> Finding:
        text = f"face {quality.brightness:.0f} of 255, whole picture {light.mean:.0f}"
        text += "" if quality.contrast is None else f", contrast of the face {quality.contrast:.0f}"
        failure = _light_failure(self._gate, quality)
        flaw = failure or _light_failure(self._enrollment_gate, quality)
        level = Level.BAD if failure is not None else Level.POOR
        if quality.brightness < _DIM_FACE and light.mean > _BACKLIGHT * quality.brightness:
            action = "the light comes from behind: light the faces, or turn the camera from the window; a Raspberry Pi "
            return Finding(Topic.LIGHT, level, text, action + "camera can be told to (camera.picamera2.ev: 1)")
        if flaw is None:
            return Finding(Topic.LIGHT, Level.GOOD, text)
        return Finding(Topic.LIGHT, level, text, _LIGHT_ACTIONS[flaw])

    def _judge_size(self, face: _SeenFace) -> Finding:
        least, to_enroll = self._gate.min_eye_distance_px, self._enrollment_gate.min_eye_distance_px
        eyes = face.quality.eye_distance_px or 0.0
        text = f"{eyes:.0f} px between the eyes (needs {least:.0f}, to enroll {to_enroll:.0f}); the face is "
        text += f"{face.share:.0%} of the picture's shorter side (found from about {_SMALLEST:.0%} on)"
        larger = "a larger picture (camera.width, camera.height), or come closer"
        if self._gate.failure(replace(face.quality, yaw=None, pitch=None)) is Reason.TOO_SMALL:
            return Finding(Topic.SIZE, Level.BAD, text, larger)
        if eyes < to_enroll:
            return Finding(Topic.SIZE, Level.POOR, text, larger)
        if face.share > _TOO_CLOSE:
            return Finding(Topic.SIZE, Level.POOR, text, "too close: the face fills the picture; step back")
        if face.share < _SAFELY_FOUND:
            nearer = "come closer, or take a lens of a narrower view: a larger picture does not help here"
            return Finding(Topic.SIZE, Level.POOR, text, nearer)
        # Both fall as the distance grows.
        times = min(face.share / _SMALLEST, eyes / max(least, 1.0))
        return Finding(Topic.SIZE, Level.GOOD, f"{text}: will do up to {times:.1f} times as far away")

    def _judge_angle(self, face: _SeenFace) -> Finding:
        yaw, pitch, roll_deg = face.quality.yaw, face.quality.pitch, face.roll_deg
        if yaw is None:
            return Finding(Topic.ANGLE, Level.OPEN, "this detector does not tell it", None)
        text = f"looking straight: yaw {yaw:+.2f}" + ("" if pitch is None else f", pitch {pitch:+.2f}")
        turned = self._gate.failure(face.quality) is Reason.TURNED
        level = Level.BAD if turned else Level.POOR
        if pitch is not None and pitch > _FROM_BELOW:
            return Finding(Topic.ANGLE, level, text, "seen from below: mount the camera higher, at the eyes' height")
        if pitch is not None and pitch < _FROM_ABOVE:
            return Finding(Topic.ANGLE, level, text, "seen from above: mount the camera lower, at the eyes' height")
        if abs(yaw) > _STRAIGHT_YAW:
            side = "right" if yaw > 0 else "left"
            return Finding(
                Topic.ANGLE,
                level,
                text,
                f"people look past the camera, to the picture's {side}: mount it further there",
            )
        if roll_deg is not None and abs(roll_deg) > _TILTED_DEG:
            tilt = f"heads lean by {abs(roll_deg):.0f} degrees: is the camera level?"
            return Finding(Topic.ANGLE, Level.POOR, text, tilt)
        return Finding(Topic.ANGLE, Level.GOOD, text)

    def _judge_rate(self) -> Iterable[Finding]:
        first, last = self._seen[0], self._seen[-1]
        lasted_s = last.time_s - first.time_s
        if lasted_s < _WINDOW_S / 3 or last.index <= first.index:
            return
        rate = (last.index - first.index) / lasted_s
        asked = "" if self._fps is None else f" of {self._fps:g} asked for"
        text = f"{rate:.1f} frames a second{asked}"
        slow = "more light (in the dark every picture takes longer), or a smaller picture; is the machine busy?"
        if rate < _FEW_FRAMES:
            yield Finding(Topic.RATE, Level.BAD, text, slow)
        elif self._fps is not None and rate < _SLOW * self._fps:
            yield Finding(Topic.RATE, Level.POOR, text, slow)
        else:
            yield Finding(Topic.RATE, Level.GOOD, text)


class _Best:
    """The highest of late, each with its time."""

    def __init__(self) -> None:
        self._values: deque[tuple[float, float]] = deque()

    def of(self, value: float, now_s: float) -> float:
        # Only what is lower and older than the newest can never be the best again.
        while self._values and self._values[-1][1] <= value:
            self._values.pop()
        self._values.append((now_s, value))
        while now_s - self._values[0][0] > _BEST_S:
            self._values.popleft()
        return self._values[0][1]


_LIGHT_ACTIONS = {
    Reason.TOO_DARK: "too dark: put light on the faces, from the front",
    Reason.TOO_BRIGHT: "too bright: less light on the faces, or camera.picamera2.ev below 0",
    Reason.LOW_CONTRAST: "pale: clean the lens, and keep the sun and lamps from shining into it",
}


def measure_light(image: Image) -> PictureLight:
    """How bright a BGR picture is as a whole."""
    grey = _sample(image)
    return PictureLight(float(grey.mean()), float((grey >= _WHITE).mean()))


def measure_detail(image: Image) -> float:
    """How much the grey levels of the picture's middle vary between near points, in squares of the mean level, 1/1000.

    It rises and falls with the focus, and depends on the scene: two figures compare only while that stays (the Brenner
    gradient, taken behind a slight smoothing against noise).
    """
    height, width = image.shape[:2]
    middle = image[height // 4 : height - height // 4, width // 4 : width - width // 4, 1].astype(np.float32)
    smooth = (middle[:-1, :-1] + middle[:-1, 1:] + middle[1:, :-1] + middle[1:, 1:]) / 4
    across, down = smooth[:, 2:] - smooth[:, :-2], smooth[2:] - smooth[:-2]
    level = max(float(smooth.mean()), 1.0)
    return 1000 * float(np.mean(across**2) + np.mean(down**2)) / level**2


def _sample(image: Image) -> NDArray[np.float32]:
    step = max(min(image.shape[:2]) // _POINTS, 1)
    weights = np.array([0.114, 0.587, 0.299], np.float32)
    grey: NDArray[np.float32] = image[::step, ::step].astype(np.float32) @ weights
    return grey


def _judge_detail(detail: float, best: float) -> Finding:
    share = detail / best if best > 0 else 1.0
    text = f"detail in the middle of the picture {share:.0%} of the best of late"
    if share < _WORSE:
        return Finding(Topic.FOCUS, Level.POOR, text, "turn the lens back until this is 100 %")
    action = "turn the lens slowly, both ways; whether that is sharp enough shows when somebody stands there"
    return Finding(Topic.FOCUS, Level.OPEN, text, action)


def _judge_picture_light(light: PictureLight) -> Finding:
    text = f"whole picture {light.mean:.0f} of 255, {light.white:.0%} of it white"
    if light.mean < _DARK_PICTURE:
        return Finding(Topic.LIGHT, Level.BAD, text, "too dark: give light; is the lens covered?")
    if light.mean > _BRIGHT_PICTURE:
        return Finding(Topic.LIGHT, Level.BAD, text, "too bright: shade the lens")
    if light.white > _MUCH_WHITE:
        return Finding(
            Topic.LIGHT, Level.POOR, text, "a window or lamp fills much of it: turn the camera from the light"
        )
    return Finding(Topic.LIGHT, Level.OPEN, text)


def _judge_aim(face: _SeenFace) -> Finding:
    text = f"the face is at {face.x:.0%} of the picture's width, {face.y:.0%} of its height"
    for wrong, action in (
        (face.x < _LEFT, "turn the camera to its left: people stand at the picture's left edge"),
        (face.x > _RIGHT, "turn the camera to its right: people stand at the picture's right edge"),
        (face.y < _TOP, "tilt the camera up: heads are at the picture's upper edge"),
        (face.y > _BOTTOM, "tilt the camera down: heads are at the picture's lower edge"),
    ):
        if wrong:
            return Finding(Topic.AIM, Level.POOR, text, action)
    return Finding(Topic.AIM, Level.GOOD, text)


def _light_failure(gate: Gate, quality: Quality) -> Reason | None:
    """What the gate has against the light, whatever else it has."""
    lit = Quality(
        size_px=math.inf,
        sharpness=100.0,
        brightness=quality.brightness,
        contrast=quality.contrast,
        clipped=quality.clipped,
    )
    return gate.failure(lit)


def _largest_standing(faces: Iterable[Face]) -> Face | None:
    standing = [face for face in faces if abs(_roll_deg(face) or 0.0) < _LYING_DEG]
    return max(standing, key=lambda face: face.box.area, default=None)


def _typical(faces: list[_SeenFace]) -> _SeenFace | None:
    """The medians, measure by measure; None without a face."""
    if not faces:
        return None
    qualities = [face.quality for face in faces]
    return _SeenFace(
        Quality(
            size_px=_middle(qualities, lambda q: q.size_px),
            sharpness=_middle(qualities, lambda q: q.sharpness),
            brightness=_middle(qualities, lambda q: q.brightness),
            yaw=_middle_of_known(q.yaw for q in qualities),
            eye_distance_px=_middle_of_known(q.eye_distance_px for q in qualities),
            contrast=_middle_of_known(q.contrast for q in qualities),
            clipped=_middle_of_known(q.clipped for q in qualities),
            pitch=_middle_of_known(q.pitch for q in qualities),
        ),
        _middle(faces, lambda face: face.score),
        _middle(faces, lambda face: face.x),
        _middle(faces, lambda face: face.y),
        _middle(faces, lambda face: face.share),
        _middle_of_known(face.roll_deg for face in faces),
    )


def _middle(items: Iterable[T], value: Callable[[T], float]) -> float:
    return median(value(item) for item in items)


def _middle_of_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _roll_deg(face: Face) -> float | None:
    """By how much the line of the eyes is turned clockwise in the picture."""
    if face.landmarks is None:
        return None
    x, y = (face.landmarks[1] - face.landmarks[0]).tolist()
    return math.degrees(math.atan2(y, x))
