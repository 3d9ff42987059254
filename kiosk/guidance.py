"""Guided enrollment: what to tell a person before the camera, and which frames become templates. No I/O.

What makes templates good is that they differ: three photos of one moment count as one (docs/recognition.md). Within one
sitting it is the turned head that makes pictures differ: a small set of poses is asked for, and near-copies are not
taken. FaceNet, though, hardly minds a turned head: where a person has turned further and the pictures are still alike
to it, the pose is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice

from kiosk.biometrics import Embedding, Face, Frame, PadScore, Quality, Reason
from kiosk.gallery import fuse
from kiosk.ports import Detector, Embedder, Pad
from kiosk.recognition import QualityCheck

MAX_SAMPLES = 10
# Of the largest face: a smaller one is a bystander in the background (as in kiosk.enrollment).
_RIVAL_AREA = 0.2
# Yaw and pitch in eye distances (``Quality``); in LFW's photos a yaw of 0.45 is a head turned by about 35 degrees, and
# pitch lies between 0.07 and 0.44 in nine of ten.
_FRONTAL_YAW = 0.18
_TURNED_BY = 0.2
_TILTED_BY = 0.12
# Face box in sides of the picture's shorter one.
_TOO_CLOSE = 0.75
# Share of the box that may reach beyond the picture.
_OUTSIDE = 0.1
# Between two frames, in face sides and eye distances: more is a movement.
_STILL_SHARE, _STILL_POSE = 0.1, 0.08
_HOLD_S = 0.4
_TRY_AGAIN_S = 0.5
# For so long a picture is asked for that the network, too, takes for another one. Within one sitting that may be too
# much for FaceNet: at a turn by 0.15 to 0.3 it takes 8 of 10 pairs for nearly one picture, dlib's network 2
# (docs/enrollment.md).
_INSIST_S = 3.0
_GAP_S = 1.0


class Pose(StrEnum):
    """How the head is held; left and right are the person's own."""

    FRONT = "front"
    LEFT = "left"
    RIGHT = "right"
    UP = "up"
    DOWN = "down"


class Hint(StrEnum):
    """What the person is told; ``text`` in words."""

    STAND_HERE = "stand_here"
    ONE_PERSON = "one_person"
    STEP_BACK = "step_back"
    MOVE_TO_MIDDLE = "move_to_middle"
    COME_CLOSER = "come_closer"
    MORE_LIGHT = "more_light"
    LESS_LIGHT = "less_light"
    NO_BACKLIGHT = "no_backlight"
    SHARPER = "sharper"
    UNCOVER = "uncover"
    LOOK_HERE = "look_here"
    TURN_LEFT = "turn_left"
    TURN_RIGHT = "turn_right"
    CHIN_UP = "chin_up"
    CHIN_DOWN = "chin_down"
    TURN_BACK = "turn_back"
    FURTHER = "further"
    HOLD_STILL = "hold_still"
    NO_PHOTO = "no_photo"
    SAME_PERSON = "same_person"
    DONE = "done"

    @property
    def text(self) -> str:
        """In words, without a full stop."""
        return _TEXTS[self]


_TEXTS = {
    Hint.STAND_HERE: "nobody is seen: stand before the camera",
    Hint.ONE_PERSON: "only one person, please",
    Hint.STEP_BACK: "step back a little",
    Hint.MOVE_TO_MIDDLE: "move to the middle of the picture",
    Hint.COME_CLOSER: "come closer",
    Hint.MORE_LIGHT: "more light on the face, please",
    Hint.LESS_LIGHT: "less light on the face, please",
    Hint.NO_BACKLIGHT: "the face is pale: clean the lens, have no bright light behind you",
    Hint.SHARPER: "the picture is blurred: hold still; is the lens clean?",
    Hint.UNCOVER: "show the whole face, upright and uncovered",
    Hint.LOOK_HERE: "look straight into the camera",
    Hint.TURN_LEFT: "turn your head a little to your left",
    Hint.TURN_RIGHT: "turn your head a little to your right",
    Hint.CHIN_UP: "lift your chin a little",
    Hint.CHIN_DOWN: "lower your chin a little",
    Hint.TURN_BACK: "that is too far: turn back a little",
    Hint.FURTHER: "too much like a picture before: a little further",
    Hint.HOLD_STILL: "hold still",
    Hint.NO_PHOTO: "this looks like a picture of a face: take it away",
    Hint.SAME_PERSON: "this is not the person who began",
    Hint.DONE: "done, thank you",
}

_ASK = {
    Pose.FRONT: Hint.LOOK_HERE,
    Pose.LEFT: Hint.TURN_LEFT,
    Pose.RIGHT: Hint.TURN_RIGHT,
    Pose.UP: Hint.CHIN_UP,
    Pose.DOWN: Hint.CHIN_DOWN,
}

_FLAWS = {
    Reason.TOO_SMALL: Hint.COME_CLOSER,
    Reason.BLURRED: Hint.SHARPER,
    Reason.TOO_DARK: Hint.MORE_LIGHT,
    Reason.TOO_BRIGHT: Hint.LESS_LIGHT,
    Reason.LOW_CONTRAST: Hint.NO_BACKLIGHT,
    Reason.UNCLEAR: Hint.UNCOVER,
}


@dataclass(frozen=True, slots=True)
class Sample:
    """A frame that was taken. ``pad`` None: not checked for presentation attacks."""

    pose: Pose
    quality: Quality
    embedding: Embedding
    pad: PadScore | None = None


@dataclass(frozen=True, slots=True)
class Guidance:
    """What a frame led to. ``wanted``: the pose that is asked for, None when all are there; ``face``: whose it is."""

    hint: Hint
    wanted: Pose | None
    done: tuple[Pose, ...]
    missing: tuple[Pose, ...]
    face: Face | None = None
    taken: Sample | None = None

    @property
    def complete(self) -> bool:
        return not self.missing


@dataclass(frozen=True, slots=True)
class _Hold:
    """Since when a face has been held still in a pose."""

    pose: Pose
    face: Face
    quality: Quality
    since_s: float
    seen_s: float

    def goes_on(self, pose: Pose, face: Face, quality: Quality, now_s: float) -> bool:
        (x, y), (was_x, was_y), side = face.box.centre, self.face.box.centre, max(face.box.w, 1.0)
        moved = max(abs(x - was_x), abs(y - was_y), abs(face.box.w - self.face.box.w)) / side
        turned = max(_change(quality.yaw, self.quality.yaw), _change(quality.pitch, self.quality.pitch))
        still = moved <= _STILL_SHARE and turned <= _STILL_POSE
        return still and pose is self.pose and 0 <= now_s - self.seen_s <= _GAP_S


class Guide:
    """Leads one person through ``samples`` poses (1 to 10; beyond five they come round again).

    ``gate``: that for enrollment. ``pad``: every sample must pass it; ``live_score``: what it must reach, its own
    threshold by default. ``same_face_score``: below it a face is not the one that began. ``same_picture_score``: from
    it on a frame shows nothing new. Where the detector tells no pose (Haar), only the last keeps the samples apart.
    """

    def __init__(
        self,
        *,
        detector: Detector,
        embedder: Embedder,
        gate: QualityCheck,
        same_face_score: float,
        same_picture_score: float,
        pad: Pad | None = None,
        live_score: float | None = None,
        samples: int = 5,
    ) -> None:
        if not 1 <= samples <= MAX_SAMPLES:
            raise ValueError(f"{samples} samples: 1 to {MAX_SAMPLES}")
        self._detector = detector
        self._embedder = embedder
        self._gate = gate
        self._same_face_score = same_face_score
        self._same_picture_score = same_picture_score
        self._pad = pad
        self._live_score = pad.threshold if pad is not None and live_score is None else live_score
        self._missing = list(islice(cycle(Pose), samples))
        self._samples: list[Sample] = []
        self._hold: _Hold | None = None
        self._refused: Hint | None = None
        self._refused_s = 0.0
        self._alike_since_s: dict[Pose, float] = {}

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What was taken so far, in order."""
        return tuple(self._samples)

    def look(self, frame: Frame) -> Guidance:
        """Judge a frame; now and then one is taken."""
        if not self._missing:
            return self._tell(Hint.DONE)
        faces = sorted(self._detector.detect(frame.image), key=lambda face: -face.box.area)
        problem = _judge_places(faces, *frame.image.shape[:2])
        if problem is not None:
            return self._interrupt(problem, faces[0] if faces else None)
        face = self._detector.refine(frame.image, faces[0])
        quality = self._gate.assess(frame.image, face)
        if quality.failure is not None:
            return self._interrupt(self._mend(quality), face)
        pose = self._recognize_pose(quality)
        if pose is None:
            return self._interrupt(self._ask(quality), face)
        return self._hold_and_take(frame, face, quality, pose)

    def _hold_and_take(self, frame: Frame, face: Face, quality: Quality, pose: Pose) -> Guidance:
        now_s, hold = frame.captured_s, self._hold
        goes_on = hold is not None and hold.goes_on(pose, face, quality, now_s)
        since_s = hold.since_s if hold is not None and goes_on else now_s
        self._hold = _Hold(pose, face, quality, since_s, now_s)
        if now_s - since_s < _HOLD_S:
            return self._tell(Hint.HOLD_STILL, face)
        if self._refused is not None and 0 <= now_s - self._refused_s < _TRY_AGAIN_S:
            return self._tell(self._refused, face)
        sample, self._refused = self._try(frame, face, quality, pose)
        self._refused_s = now_s
        if sample is None:
            return self._tell(self._refused or self._ask(quality), face)
        self._samples.append(sample)
        self._missing.remove(pose)
        self._hold = None
        return self._tell(self._ask(quality) if self._missing else Hint.DONE, face, sample)

    def _try(self, frame: Frame, face: Face, quality: Quality, pose: Pose) -> tuple[Sample | None, Hint | None]:
        """What costs most, and why the frame is not taken."""
        pad = None
        if self._pad is not None and self._live_score is not None:
            pad = PadScore(self._pad.score(frame.image, face), self._live_score)
            if not pad.passed:
                return None, Hint.NO_PHOTO
        embedding = self._embedder.embed(frame.image, face)
        taken = [sample.embedding for sample in self._samples]
        if taken and float(fuse(taken) @ embedding) < self._same_face_score:
            return None, Hint.SAME_PERSON
        alike = any(float(other @ embedding) >= self._same_picture_score for other in taken)
        if alike and not self._has_insisted(pose, quality, frame.captured_s):
            return None, Hint.FURTHER
        return Sample(pose, quality, embedding, pad), None

    def _has_insisted(self, pose: Pose, quality: Quality, now_s: float) -> bool:
        """Whether the person has tried for long enough, in a pose that is surely a new one."""
        measured = quality.yaw is not None and (quality.pitch is not None or pose not in {Pose.UP, Pose.DOWN})
        since_s = self._alike_since_s.setdefault(pose, now_s)
        new = all(sample.pose is not pose for sample in self._samples)
        return measured and new and now_s - since_s >= _INSIST_S

    def _recognize_pose(self, quality: Quality) -> Pose | None:
        """The missing pose that this is. The first sample is from the front: the others are measured from it."""
        if not self._samples:
            return Pose.FRONT if quality.yaw is None or abs(quality.yaw) <= _FRONTAL_YAW else None
        return next((pose for pose in self._missing if self._is_in(pose, quality)), None)

    def _is_in(self, pose: Pose, quality: Quality) -> bool:
        turned, tilted = self._turned(quality), self._tilted(quality)
        match pose:
            case Pose.LEFT:
                return turned is None or turned >= _TURNED_BY
            case Pose.RIGHT:
                return turned is None or turned <= -_TURNED_BY
            case _ if turned is not None and abs(turned) > _TURNED_BY:
                return False
            case Pose.UP:
                return tilted is None or tilted >= _TILTED_BY
            case Pose.DOWN:
                return tilted is None or tilted <= -_TILTED_BY
            case _:
                return tilted is None or abs(tilted) <= _TILTED_BY

    def _turned(self, quality: Quality) -> float | None:
        """From the first sample, to the person's left."""
        first = self._samples[0].quality.yaw if self._samples else 0.0
        return None if quality.yaw is None or first is None else quality.yaw - first

    def _tilted(self, quality: Quality) -> float | None:
        """From the first sample, upwards."""
        first = self._samples[0].quality.pitch if self._samples else None
        return None if quality.pitch is None or first is None else quality.pitch - first

    def _mend(self, quality: Quality) -> Hint:
        """What to do about a face that the gate does not pass."""
        if quality.failure is not Reason.TURNED:
            return _FLAWS.get(quality.failure or Reason.UNCLEAR, Hint.UNCOVER)
        return Hint.LOOK_HERE if self._missing[0] is Pose.FRONT else Hint.TURN_BACK

    def _ask(self, quality: Quality) -> Hint:
        """For the pose that is wanted next; first of all back from the side, where the chin is meant."""
        wanted, turned = self._missing[0], self._turned(quality)
        if wanted in {Pose.UP, Pose.DOWN} and turned is not None and abs(turned) > _TURNED_BY:
            return Hint.LOOK_HERE
        return _ASK[wanted]

    def _interrupt(self, hint: Hint, face: Face | None = None) -> Guidance:
        self._hold = self._refused = None
        return self._tell(hint, face)

    def _tell(self, hint: Hint, face: Face | None = None, taken: Sample | None = None) -> Guidance:
        missing = tuple(self._missing)
        done = tuple(sample.pose for sample in self._samples)
        return Guidance(hint, missing[0] if missing else None, done, missing, face, taken)


def _judge_places(faces: Sequence[Face], height: int, width: int) -> Hint | None:
    """What is wrong with how many faces there are, largest first, and where the largest is; None when all is well."""
    if not faces:
        return Hint.STAND_HERE
    box = faces[0].box
    if any(other.box.area >= box.area * _RIVAL_AREA for other in faces[1:]):
        return Hint.ONE_PERSON
    if max(box.w, box.h) > _TOO_CLOSE * min(width, height):
        return Hint.STEP_BACK
    seen_w = min(box.x + box.w, width) - max(box.x, 0)
    seen_h = min(box.y + box.h, height) - max(box.y, 0)
    if seen_w < box.w * (1 - _OUTSIDE) or seen_h < box.h * (1 - _OUTSIDE):
        return Hint.MOVE_TO_MIDDLE
    return None


def _change(value: float | None, before: float | None) -> float:
    return 0.0 if value is None or before is None else abs(value - before)
