from pathlib import Path

import numpy as np
import pytest
import yunet

from kiosk import detector
from kiosk.align import align_face
from kiosk.biometrics import Face, Image
from kiosk.detector import BlazeFaceDetector, FrameDetector, HaarDetector, PhotoDetector, YuNetDetector, decode_yunet
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


def test_yunets_rows_become_faces() -> None:
    # Box; right eye, left eye, nose, right and left corner of the mouth as the person has them; score.
    rows = np.array(
        [
            [10, 20, 40, 50, 22, 35, 40, 36, 31, 48, 25, 58, 39, 60, 0.91],
            [100, 20, 40, 50, 112, 35, 130, 36, 121, 48, 115, 58, 129, 60, 0.99],
        ],
        np.float32,
    )
    best, other = decode_yunet(rows)
    assert (other.box.x, other.box.y, other.box.w, other.box.h) == (10, 20, 40, 50)
    assert (best.score, other.score) == pytest.approx((0.99, 0.91))
    assert other.landmarks is not None
    assert other.landmarks.dtype == np.float32
    assert other.landmarks.tolist() == [[22, 35], [40, 36], [31, 48], [32, 59]]
    assert decode_yunet(None) == []
    assert decode_yunet(np.empty((0, 15), np.float32)) == []


def test_yunets_rows_are_scaled_back() -> None:
    row = np.arange(15, dtype=np.float32)[np.newaxis]
    (face,) = decode_yunet(row, (0.5, 0.25))
    assert (face.box.x, face.box.y, face.box.w, face.box.h) == (0, 4, 4, 12)
    assert face.landmarks is not None
    assert face.landmarks[0].tolist() == [8, 20]
    assert face.score == 1


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not YuNet, but a network with its outputs, for OpenCV's own class to run."""
    path = tmp_path_factory.mktemp("yunet") / "spots.onnx"
    yunet.write_network(path)
    return path


def spot(height: int, width: int, left: int, top: int, side: int = 16) -> Image:
    image = np.zeros((height, width, 3), np.uint8)
    image[top : top + side, left : left + side] = 255
    return image


def check_spot(face: Face, left: int, top: int, stride: float = 16) -> None:
    assert face.box.centre == pytest.approx((left + 0.5 * stride, top + 0.5 * stride), abs=0.5)
    assert (face.box.w, face.box.h) == pytest.approx((4 * stride, 5 * stride), rel=0.01)
    assert face.landmarks is not None
    points = (face.landmarks - (left, top)) / stride
    assert points == pytest.approx(np.array([[-0.5, -1], [1.5, -1], [0.5, 0.5], [0.5, 1.5]]), abs=0.05)


def test_opencv_runs_a_network_with_yunets_outputs(network: Path) -> None:
    detect = YuNetDetector(network).detect
    (face,) = detect(spot(320, 320, 160, 96))
    check_spot(face, 160, 96)
    # Any size of image, one that is no multiple of 32 among them.
    (face,) = detect(spot(250, 201, 64, 160))
    check_spot(face, 64, 160)
    assert detect(np.zeros((480, 640, 3), np.uint8)) == []
    assert detect(np.zeros((1, 1, 3), np.uint8)) == []
    assert align_face(spot(250, 201, 64, 160), face, "dlib-chip-v1", 150).shape == (150, 150, 3)


def test_a_large_image_is_scaled_down_for_yunet_and_its_faces_up(network: Path) -> None:
    (face,) = YuNetDetector(network).detect(spot(1280, 960, 320, 192, side=32))
    check_spot(face, 320, 192, stride=32)


def test_files_that_are_not_yunet(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not found")
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "other.tflite").write_bytes(detector.BLAZEFACE.read_bytes())
    (tmp_path / "folder.onnx").mkdir()
    for name, message in (
        ("text.onnx", "not a YuNet network"),
        ("empty.onnx", "not a YuNet network"),
        ("other.tflite", "not a YuNet network"),
        ("folder.onnx", "no such file"),
        ("none.onnx", "no such file"),
    ):
        with pytest.raises(ModelError, match=f"{name}: {message}"):
            YuNetDetector(tmp_path / name)


def scene(width: int, height: int, face_px: int, left: int, top: int) -> Image:
    """A face of so many pixels before a grey wall."""
    portrait = read("biden_portrait.jpg")
    (face,) = BlazeFaceDetector().detect(portrait)
    scale = face_px / face.box.w
    person = cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    canvas = np.full((height, width, 3), 120, np.uint8)
    canvas[top : top + person.shape[0], left : left + person.shape[1]] = person
    return canvas


class CountingDetector(BlazeFaceDetector):
    looks = 0

    def look(self, image: Image) -> list[Face]:
        self.looks += 1
        return super().look(image)


@pytest.mark.parametrize("place", [(20, 500), (550, 300), (1060, 20)], ids=["left", "on the cut", "right"])
@pytest.mark.parametrize("upright", [False, True], ids=["landscape", "upright"])
def test_a_face_too_small_for_the_whole_frame_is_found_and_followed(place: tuple[int, int], upright: bool) -> None:
    frame = scene(1280, 720, 88, *place) if not upright else scene(720, 1280, 88, place[1], place[0])
    assert BlazeFaceDetector().detect(frame) == []
    detector_ = CountingDetector()
    frames = FrameDetector(detector_)
    seen = [len(frames.detect(frame)) for _ in range(3)]
    assert seen[-1] == 1, seen
    before = detector_.looks
    for _ in range(4):
        (face,) = frames.detect(frame)
        assert face.landmarks is not None
    # Following costs what finding anew in the whole frame would: one look for new faces, one at the known one.
    assert detector_.looks - before == 8


def test_somebody_new_is_found_beside_who_is_followed() -> None:
    near = scene(1280, 720, 200, 700, 40)
    both = near.copy()
    far = scene(1280, 720, 88, 60, 500)
    both[480:] = np.where(far[480:] == 120, both[480:], far[480:])
    frames = FrameDetector(BlazeFaceDetector())
    assert [len(frames.detect(near)) for _ in range(3)] == [1, 1, 1]
    assert [len(frames.detect(both)) for _ in range(4)][-1] == 2


def test_who_has_left_is_not_followed() -> None:
    frames = FrameDetector(BlazeFaceDetector())
    assert len(frames.detect(scene(1280, 720, 200, 300, 100))) == 1
    assert frames.detect(np.full((720, 1280, 3), 120, np.uint8)) == []
    # Another size: what was seen says nothing about where.
    assert len(frames.detect(scene(640, 480, 140, 100, 100))) == 1


def test_who_has_left_from_close_by_is_not_followed() -> None:
    frame = scene(1700, 1700, 640, 0, 0)[:720, :1280]
    frames = FrameDetector(BlazeFaceDetector())
    for _ in range(3):
        (face,) = frames.detect(frame)
        assert face.box.w > 1280 / 2.4
    assert frames.detect(np.full_like(frame, 120)) == []


def test_a_panorama_is_looked_at_whatever_its_sides() -> None:
    assert FrameDetector(BlazeFaceDetector()).detect(np.full((160, 1280, 3), 120, np.uint8)) == []


def test_a_nearly_square_frame_is_looked_at_once() -> None:
    detector_ = CountingDetector()
    FrameDetector(detector_).detect(np.full((480, 512, 3), 120, np.uint8))
    assert detector_.looks == 1
