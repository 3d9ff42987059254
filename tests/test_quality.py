from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kiosk.biometrics import Box, Face, Image, Reason
from kiosk.detector import BlazeFaceDetector
from kiosk.opencv import cv2
from kiosk.quality import QualityGate

SAMPLES = Path(__file__).parent.parent / "kiosk" / "data" / "samples"


@pytest.fixture(scope="module")
def photo() -> tuple[Image, Face]:
    image = np.asarray(cv2.imread(str(SAMPLES / "obama.jpg")), np.uint8)
    return image, BlazeFaceDetector().detect(image)[0]


def test_a_good_photo_passes(photo: tuple[Image, Face]) -> None:
    quality = QualityGate().assess(*photo)
    assert quality.failure is None
    assert quality.size_px == pytest.approx(photo[1].box.w, abs=1)
    assert quality.yaw == pytest.approx(0, abs=0.15)


def test_blur_is_named_and_grows_with_the_blur(photo: tuple[Image, Face]) -> None:
    image, face = photo
    measured = [QualityGate().assess(cv2.GaussianBlur(image, (0, 0), s), face) for s in (1, 3, 6)]  # type: ignore[arg-type]
    assert measured[0].sharpness > measured[1].sharpness > measured[2].sharpness
    assert measured[2].failure is Reason.BLURRED


def test_light_is_named(photo: tuple[Image, Face]) -> None:
    image, face = photo
    assert QualityGate().assess((image * 0.15).astype(np.uint8), face).failure is Reason.TOO_DARK
    assert QualityGate().assess(np.maximum(image, 245), face).failure is Reason.TOO_BRIGHT


def test_size_is_named_first(photo: tuple[Image, Face]) -> None:
    image, face = photo
    small = Face(Box(face.box.x, face.box.y, 40, 40), 0.9, face.landmarks)
    assert QualityGate().assess((image * 0.15).astype(np.uint8), small).failure is Reason.TOO_SMALL


def test_a_head_turned_away_is_named(photo: tuple[Image, Face]) -> None:
    image, face = photo
    assert face.landmarks is not None
    landmarks = face.landmarks.copy()
    landmarks[2] = landmarks[1] + (landmarks[1] - landmarks[0]) * 0.1
    assert QualityGate().assess(image, replace(face, landmarks=landmarks)).failure is Reason.TURNED


@pytest.mark.parametrize("box", [Box(-500, -500, 100, 100), Box(10_000, 0, 100, 100), Box(0, 0, 0, 0)])
def test_a_box_outside_the_image_is_no_error(photo: tuple[Image, Face], box: Box) -> None:
    assert QualityGate().assess(photo[0], Face(box, 0.9)).failure is not None
