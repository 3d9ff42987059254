from pathlib import Path

import numpy as np
import pytest

from kiosk.align import align_face, central_face
from kiosk.biometrics import Box, Face
from kiosk.detector import BlazeFaceDetector
from kiosk.opencv import cv2

SAMPLES = Path(__file__).parent.parent / "kiosk" / "data" / "samples"


def dots(points: list[tuple[float, float]], size: int = 400) -> np.ndarray:
    image = np.zeros((size, size, 3), np.uint8)
    for x, y in points:
        cv2.circle(image, (round(x), round(y)), 5, (255, 255, 255), -1)
    return image


def bright_centres(crop: np.ndarray) -> list[tuple[float, float]]:
    _, _, _, centres = cv2.connectedComponentsWithStats((crop[..., 0] > 100).astype(np.uint8))
    return sorted((float(x), float(y)) for x, y in centres[1:])


def test_eyes_box_maps_the_documented_region() -> None:
    # Mean side 100, so the region is 119 x 148 centred 11.3 above (200, 200): its corners land on the crop's.
    face = Face(Box(150, 150, 100, 100), 1.0, np.array([(180, 180), (220, 180)], np.float32))
    marks = [(200 - 59.5 * 0.8, 188.7 - 74 * 0.8), (200 + 59.5 * 0.8, 188.7 + 74 * 0.8)]
    (left, top), (right, bottom) = bright_centres(align_face(dots(marks), face, "eyes-box-v1", 160))
    assert (left, top) == pytest.approx((16, 16), abs=1.5)
    assert (right, bottom) == pytest.approx((144, 144), abs=1.5)


@pytest.mark.parametrize("degrees", [-30, -10, 20, 45])
@pytest.mark.parametrize("alignment", ["eyes-box-v1", "dlib-chip-v1"])
def test_a_tilted_head_gives_the_same_crop(alignment: str, degrees: float) -> None:
    image = cv2.imread(str(SAMPLES / "obama.jpg"))
    (face, *_) = BlazeFaceDetector().detect(image)
    turn = cv2.getRotationMatrix2D(face.box.centre, degrees, 1.0)
    tilted = cv2.warpAffine(image, turn, image.shape[1::-1])
    marks = np.asarray(face.landmarks) @ turn[:, :2].T + turn[:, 2]
    tilted_face = Face(face.box, face.score, marks.astype(np.float32))
    upright_crop = align_face(image, face, alignment, 160).astype(float)
    tilted_crop = align_face(tilted, tilted_face, alignment, 160).astype(float)
    middle = slice(30, 130)
    assert np.abs(upright_crop - tilted_crop)[middle, middle].mean() < 6


def test_dlib_chip_puts_eyes_and_mouth_where_dlib_expects_them() -> None:
    points = np.array([(160, 150), (240, 150), (200, 190), (200, 237)], np.float32)
    face = Face(Box(130, 110, 140, 140), 1.0, points)
    crop = align_face(dots([(160, 150), (240, 150), (200, 237)]), face, "dlib-chip-v1", 150)
    left, mouth, right = bright_centres(crop)
    assert left == pytest.approx((0.311 * 150, 0.316 * 150), abs=2.5)
    assert right == pytest.approx((0.683 * 150, 0.317 * 150), abs=2.5)
    assert mouth == pytest.approx((0.493 * 150, 0.72 * 150), abs=2.5)


def test_black_outside_the_image_and_never_an_error() -> None:
    white = np.full((50, 50, 3), 255, np.uint8)
    for box in [Box(-40, -40, 60, 60), Box(45, 45, 300, 300), Box(-500, -500, 20, 20), Box(10, 10, 0.5, 0.5)]:
        for alignment in ["eyes-box-v1", "haar-square-v1", "dlib-chip-v1"]:
            crop = align_face(white, Face(box, 1.0), alignment, 160)
            assert crop.shape == (160, 160, 3)
            assert crop.dtype == np.uint8
    assert align_face(white, Face(Box(-500, -500, 20, 20), 1.0), "eyes-box-v1", 160).max() == 0


def test_a_large_face_is_averaged_not_skipped_through() -> None:
    checkers = np.indices((1600, 1600)).sum(axis=0) % 2 * 255
    image = np.repeat(checkers[..., None], 3, axis=2).astype(np.uint8)
    crop = align_face(image, Face(Box(200, 200, 1200, 1200), 1.0), "haar-square-v1", 160)
    assert crop[40:120, 40:120].std() < 5


def test_the_central_large_face_is_the_photos_subject() -> None:
    centre, corner = Face(Box(90, 90, 60, 60), 0.6), Face(Box(0, 0, 70, 70), 0.9)
    assert central_face([corner, centre], 250, 250) is centre
