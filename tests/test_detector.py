from pathlib import Path

import numpy as np
import pytest

from kiosk import detector
from kiosk.biometrics import Image
from kiosk.detector import BlazeFaceDetector, HaarDetector, PhotoDetector
from kiosk.errors import ModelError
from kiosk.opencv import cv2

SAMPLES = sorted((Path(__file__).parent.parent / "kiosk" / "data" / "samples").glob("*.jpg"))


def read(name: str) -> Image:
    return cv2.imread(str(SAMPLES[0].parent / name))  # type: ignore[return-value]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_blazeface_finds_exactly_the_one_face(path: Path) -> None:
    (face,) = BlazeFaceDetector().detect(cv2.imread(str(path)))
    assert face.landmarks is not None
    left, right, nose, mouth, *_ = face.landmarks
    assert left[0] < nose[0] < right[0]
    assert max(left[1], right[1]) < nose[1] < mouth[1]
    assert face.box.x < left[0] < right[0] < face.box.x + face.box.w


def test_landmarks_are_in_image_pixels() -> None:
    # Eye positions read off the photo by hand.
    (face,) = BlazeFaceDetector().detect(read("collins.jpg"))
    assert face.landmarks is not None
    assert face.landmarks[0] == pytest.approx((201, 100), abs=4)
    assert face.landmarks[1] == pytest.approx((248, 102), abs=4)


@pytest.mark.parametrize("pad", [(0, 400), (400, 0)], ids=["wide", "tall"])
def test_letterbox_moves_nothing(pad: tuple[int, int]) -> None:
    image = read("obama.jpg")
    rows, columns = pad
    padded = cv2.copyMakeBorder(image, 0, rows, 0, columns, cv2.BORDER_CONSTANT)
    (plain,), (moved,) = BlazeFaceDetector().detect(image), BlazeFaceDetector().detect(padded)
    assert plain.box.iou(moved.box) > 0.85
    assert np.abs(plain.landmarks - moved.landmarks)[:4].max() < 0.05 * plain.box.w


def test_all_faces_of_an_image_best_first() -> None:
    one, two = read("obama.jpg"), read("biden.jpg")
    both = np.hstack([one[:576], cv2.resize(two, (576, 576))])
    faces = BlazeFaceDetector().detect(both)
    assert len(faces) == 2
    assert faces[0].score >= faces[1].score
    assert {face.box.centre[0] > 576 for face in faces} == {True, False}


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 4000, 3), (4000, 1, 3), (480, 640, 3)])
def test_no_face_in_nothing(shape: tuple[int, int, int]) -> None:
    assert BlazeFaceDetector().detect(np.zeros(shape, np.uint8)) == []
    assert PhotoDetector(BlazeFaceDetector(), exhaustive=True).detect(np.zeros(shape, np.uint8)) == []


def test_tiles_find_a_face_too_small_for_the_whole() -> None:
    canvas = np.full((2000, 2400, 3), 90, np.uint8)
    small = cv2.resize(read("biden_portrait.jpg"), (190, 190), interpolation=cv2.INTER_AREA)
    canvas[1200:1390, 1500:1690] = small
    assert BlazeFaceDetector().detect(canvas) == []
    (face,) = PhotoDetector(BlazeFaceDetector()).detect(canvas)
    assert face.box.centre == pytest.approx((1500 + 103, 1200 + 83), abs=15)


def test_exhaustive_also_finds_the_small_face_beside_the_large_one() -> None:
    canvas = cv2.copyMakeBorder(cv2.resize(read("obama.jpg"), (1152, 1440)), 0, 0, 0, 1000, cv2.BORDER_CONSTANT)
    canvas[200:425, 1700:1925] = cv2.resize(read("biden_portrait.jpg"), (225, 225), interpolation=cv2.INTER_AREA)
    detector_ = BlazeFaceDetector()
    assert len(PhotoDetector(detector_).detect(canvas)) == 1
    assert len(PhotoDetector(detector_, exhaustive=True).detect(canvas)) == 2


def test_haar_finds_the_notebooks_faces_and_eyes() -> None:
    (face, *_) = HaarDetector().detect(read("collins.jpg"))
    assert face.landmarks is not None
    assert face.landmarks[0] == pytest.approx((201, 100), abs=4)
    assert face.landmarks[1] == pytest.approx((248, 102), abs=4)


def test_a_damaged_model_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "blazeface.tflite"
    damaged.write_bytes(detector.BLAZEFACE.read_bytes()[:-1])
    monkeypatch.setattr(detector, "BLAZEFACE", damaged)
    with pytest.raises(ModelError, match="SHA-256"):
        BlazeFaceDetector()
