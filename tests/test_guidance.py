"""Guided enrollment, with scripted faces: what a person is told, and which frames are taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from kiosk.biometrics import Box, Embedding, Face, Frame, Image, ModelId, Quality, Reason
from kiosk.guidance import Guidance, Guide, Hint, Pose

HERE = Box(220, 140, 160, 160)
GOOD = Quality(size_px=160, sharpness=50, brightness=120, yaw=0.0, pitch=0.25, eye_distance_px=70)
ME, OTHER = np.eye(2, 64, dtype=np.float32)
FRAME_S = 0.1
SAME_FACE, SAME_PICTURE = 0.6, 0.95

POSES = {
    Pose.FRONT: (0.0, 0.25),
    Pose.LEFT: (0.3, 0.25),
    Pose.RIGHT: (-0.3, 0.25),
    Pose.UP: (0.0, 0.45),
    Pose.DOWN: (0.0, 0.05),
}


def view(number: int, person: Embedding = ME) -> Embedding:
    """A picture of a person that resembles the others of the same by 0.81."""
    own = np.zeros(64, np.float32)
    own[10 + number] = math.sqrt(0.19)
    embedding: Embedding = np.float32(0.9) * person + own
    return embedding


class Scene:
    """Detector, gate, embedder and PAD in one: who stands before the camera, and how."""

    model_id = ModelId("m@000001")
    threshold = 0.5

    def __init__(self) -> None:
        self.boxes: Sequence[Box] = [HERE]
        self.quality = GOOD
        self.embedding = view(0)
        self.live = 0.9
        self.embedded = 0
        self.judged = 0

    def detect(self, image: Image) -> list[Face]:  # noqa: ARG002
        return [Face(box, 0.9) for box in self.boxes]

    def refine(self, image: Image, face: Face) -> Face:  # noqa: ARG002
        return face

    def assess(self, image: Image, face: Face) -> Quality:  # noqa: ARG002
        return self.quality

    def embed(self, image: Image, face: Face) -> Embedding:  # noqa: ARG002
        self.embedded += 1
        return self.embedding

    def embed_frame(self, image: Image, face: Face, *, mirrored: bool) -> Embedding:  # noqa: ARG002
        pytest.fail("a sample is embedded as good as can be had, not as a frame at the door is")

    def score(self, image: Image, face: Face) -> float:  # noqa: ARG002
        self.judged += 1
        return self.live

    def pose(self, pose: Pose, number: int | None = None) -> None:
        yaw, pitch = POSES[pose]
        self.quality = replace(GOOD, yaw=yaw, pitch=pitch)
        self.embedding = view(list(Pose).index(pose) if number is None else number)


class Sitting:
    """A guide, and the frames it looks at."""

    def __init__(self, scene: Scene, samples: int = 5, *, pad: bool = False) -> None:
        self.scene = scene
        self.guide = Guide(
            detector=scene,
            embedder=scene,
            gate=scene,
            same_face_score=SAME_FACE,
            same_picture_score=SAME_PICTURE,
            pad=scene if pad else None,
            samples=samples,
        )
        self._image: Image = np.zeros((480, 640, 3), np.uint8)
        self._index = 0

    def look(self) -> Guidance:
        self._index += 1
        return self.guide.look(Frame(self._image, self._index * FRAME_S, self._index))

    def keep(self, seconds: float) -> list[Guidance]:
        return [self.look() for _ in range(round(seconds / FRAME_S))]

    def take(self, pose: Pose, number: int | None = None) -> Guidance:
        """Show a pose until it is taken."""
        self.scene.pose(pose, number)
        return next(step for step in self.keep(2) if step.taken is not None)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_the_five_poses_are_asked_for_one_after_another(scene: Scene) -> None:
    sitting = Sitting(scene)
    asked = []
    for pose in Pose:
        step = sitting.take(pose)
        assert step.taken is not None
        assert step.taken.pose is pose
        assert step.taken.quality == scene.quality
        asked.append(step.hint)
    # From the side first back to the front.
    assert asked == [Hint.TURN_LEFT, Hint.TURN_RIGHT, Hint.LOOK_HERE, Hint.CHIN_DOWN, Hint.DONE]
    assert step.complete
    assert step.wanted is None
    assert step.done == tuple(Pose)
    assert [sample.pose for sample in sitting.guide.samples] == list(Pose)
    # What happens before the camera afterwards changes nothing.
    scene.boxes = []
    assert sitting.look().hint is Hint.DONE
    assert len(sitting.guide.samples) == 5


def test_a_pose_out_of_turn_is_taken_too(scene: Scene) -> None:
    sitting = Sitting(scene, 3)
    sitting.take(Pose.FRONT)
    step = sitting.take(Pose.RIGHT)
    assert (step.hint, step.wanted, step.missing) == (Hint.TURN_LEFT, Pose.LEFT, (Pose.LEFT,))
    assert sitting.take(Pose.LEFT).complete


def test_the_first_sample_is_from_the_front(scene: Scene) -> None:
    sitting = Sitting(scene)
    scene.pose(Pose.LEFT)
    steps = sitting.keep(2)
    assert {step.hint for step in steps} == {Hint.LOOK_HERE}
    assert scene.embedded == 0


def test_poses_are_measured_from_the_first_sample(scene: Scene) -> None:
    """A camera beside or above the person: nobody's face is at zero."""
    sitting = Sitting(scene)
    scene.pose(Pose.FRONT)
    scene.quality = replace(GOOD, yaw=0.12, pitch=0.45)
    sitting.keep(1)
    assert len(sitting.guide.samples) == 1
    scene.embedding = view(1)
    scene.quality = replace(GOOD, yaw=0.3, pitch=0.45)
    assert {step.hint for step in sitting.keep(1)} == {Hint.TURN_LEFT}
    scene.quality = replace(GOOD, yaw=0.12, pitch=0.32)
    steps = sitting.keep(1)
    assert [step.taken.pose for step in steps if step.taken is not None] == [Pose.DOWN]


def test_nothing_is_taken_before_the_face_has_been_held_still(scene: Scene) -> None:
    sitting = Sitting(scene)
    steps = sitting.keep(0.4)
    assert {step.hint for step in steps} == {Hint.HOLD_STILL}
    assert scene.embedded == 0
    assert sitting.look().taken is not None


def test_whoever_moves_is_told_to_hold_still(scene: Scene) -> None:
    sitting = Sitting(scene)
    for step in range(20):
        scene.boxes = [replace(HERE, x=HERE.x + 40 * (step % 2))]
        assert sitting.look().hint is Hint.HOLD_STILL
    for step in range(20):
        scene.quality = replace(GOOD, yaw=0.1 * (step % 2))
        assert sitting.look().hint is Hint.HOLD_STILL
    assert scene.embedded == 0


@pytest.mark.parametrize(
    ("boxes", "hint"),
    [
        ([], Hint.STAND_HERE),
        ([HERE, replace(HERE, x=400, w=80, h=80)], Hint.ONE_PERSON),
        ([Box(100, 60, 380, 380)], Hint.STEP_BACK),
        ([replace(HERE, x=-40)], Hint.MOVE_TO_MIDDLE),
        ([replace(HERE, y=400)], Hint.MOVE_TO_MIDDLE),
    ],
)
def test_what_is_wrong_with_the_place(scene: Scene, boxes: Sequence[Box], hint: Hint) -> None:
    sitting = Sitting(scene)
    scene.boxes = boxes
    assert {step.hint for step in sitting.keep(1)} == {hint}
    assert sitting.guide.samples == ()


def test_a_bystander_in_the_background_is_no_second_person(scene: Scene) -> None:
    sitting = Sitting(scene)
    scene.boxes = [replace(HERE, x=500, y=20, w=60, h=60), HERE]
    step = next(step for step in sitting.keep(1) if step.taken is not None)
    assert step.face is not None
    assert step.face.box == HERE


@pytest.mark.parametrize(
    ("failure", "hint"),
    [
        (Reason.TOO_SMALL, Hint.COME_CLOSER),
        (Reason.BLURRED, Hint.SHARPER),
        (Reason.TOO_DARK, Hint.MORE_LIGHT),
        (Reason.TOO_BRIGHT, Hint.LESS_LIGHT),
        (Reason.LOW_CONTRAST, Hint.NO_BACKLIGHT),
        (Reason.TURNED, Hint.LOOK_HERE),
        (Reason.UNCLEAR, Hint.UNCOVER),
    ],
)
def test_what_is_wrong_with_the_picture(scene: Scene, failure: Reason, hint: Hint) -> None:
    sitting = Sitting(scene)
    scene.quality = replace(GOOD, failure=failure)
    assert {step.hint for step in sitting.keep(1)} == {hint}
    assert scene.embedded == 0


def test_whoever_turns_too_far_is_told_to_turn_back(scene: Scene) -> None:
    sitting = Sitting(scene)
    sitting.take(Pose.FRONT)
    scene.quality = replace(GOOD, yaw=0.7, failure=Reason.TURNED)
    assert sitting.look().hint is Hint.TURN_BACK


def test_the_chin_is_lifted_from_the_front(scene: Scene) -> None:
    sitting = Sitting(scene)
    for pose in (Pose.FRONT, Pose.LEFT, Pose.RIGHT):
        sitting.take(pose)
    assert sitting.look().hint is Hint.LOOK_HERE
    scene.pose(Pose.FRONT)
    assert sitting.look().hint is Hint.CHIN_UP


def test_a_near_copy_is_not_taken(scene: Scene) -> None:
    sitting = Sitting(scene)
    sitting.take(Pose.FRONT)
    scene.pose(Pose.LEFT, number=0)
    steps = sitting.keep(2)
    assert steps[-1].hint is Hint.FURTHER
    assert len(sitting.guide.samples) == 1
    # One that costs that much is not made of every frame.
    assert scene.embedded <= 5
    scene.embedding = view(1)
    assert any(step.taken for step in sitting.keep(1))


def test_a_network_that_minds_no_turned_head_keeps_nobody_waiting(scene: Scene) -> None:
    sitting = Sitting(scene)
    sitting.take(Pose.FRONT)
    scene.pose(Pose.LEFT, number=0)
    steps = sitting.keep(4)
    taken = [number for number, step in enumerate(steps) if step.taken is not None]
    assert len(taken) == 1
    assert taken[0] * FRAME_S >= 3


def test_a_second_picture_of_the_same_pose_must_differ(scene: Scene) -> None:
    sitting = Sitting(scene, 6)
    for pose in Pose:
        sitting.take(pose)
    scene.pose(Pose.FRONT)
    assert sitting.keep(8)[-1].hint is Hint.FURTHER
    assert sitting.take(Pose.FRONT, number=20).complete


def test_another_person_in_between_is_not_taken(scene: Scene) -> None:
    sitting = Sitting(scene)
    sitting.take(Pose.FRONT)
    scene.pose(Pose.LEFT)
    scene.embedding = view(1, OTHER)
    assert sitting.keep(6)[-1].hint is Hint.SAME_PERSON
    assert len(sitting.guide.samples) == 1


def test_a_picture_of_a_face_is_to_be_taken_away(scene: Scene) -> None:
    sitting = Sitting(scene, pad=True)
    scene.live = 0.3
    assert sitting.keep(2)[-1].hint is Hint.NO_PHOTO
    assert scene.embedded == 0
    assert scene.judged <= 5
    scene.live = 0.9
    step = next(step for step in sitting.keep(1) if step.taken is not None)
    assert step.taken is not None
    assert step.taken.pad is not None
    assert step.taken.pad.score == 0.9
    assert step.taken.pad.passed


def test_without_pose_the_difference_of_the_pictures_decides(scene: Scene) -> None:
    """The Haar cascades find no nose."""
    sitting = Sitting(scene, 3)
    scene.quality = replace(GOOD, yaw=None, pitch=None)
    assert any(step.taken for step in sitting.keep(1))
    assert sitting.keep(6)[-1].hint is Hint.FURTHER
    for number in (1, 2):
        scene.embedding = view(number)
        sitting.keep(1)
    assert len(sitting.guide.samples) == 3


@pytest.mark.parametrize("samples", [0, 11])
def test_as_many_samples_as_make_sense(scene: Scene, samples: int) -> None:
    with pytest.raises(ValueError, match="1 to 10"):
        Sitting(scene, samples)


def test_every_hint_has_words() -> None:
    texts = [hint.text for hint in Hint]
    assert len(set(texts)) == len(texts)
    # On one line of a terminal, beside what is done.
    assert max(map(len, texts)) <= 70
