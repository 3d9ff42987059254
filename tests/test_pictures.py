"""The drawn clip and the explaining pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kiosk.biometrics import Box, Candidate, Decision, Face, FaceReport, Image, Reason, SubjectId, Verdict
from kiosk.clip import Person, Scene, Walk, draw_frames, write_clip
from kiosk.detector import BlazeFaceDetector
from kiosk.drawing import check_plot_path, contact_sheet, describe, draw_faces, draw_verification, write_image
from kiosk.errors import OutputError, UsageError
from kiosk.opencv import cv2


@pytest.fixture(scope="module")
def person(samples: Path) -> Person:
    return Person(cv2.imread(str(samples / "biden.jpg")), Box(275, 173, 189, 189))  # type: ignore[arg-type]


def _report(verdict: Verdict, reason: Reason, box: Box, *candidates: tuple[str, float]) -> FaceReport:
    found = tuple(Candidate(SubjectId(subject_id), score) for subject_id, score in candidates)
    return FaceReport(Face(box, 0.9), Decision(verdict, reason, 0.6, found), final=True)


def _blank(height: int = 480, width: int = 640) -> Image:
    return np.full((height, width, 3), 128, np.uint8)


def test_the_person_is_where_and_as_large_as_the_walk_says(person: Person) -> None:
    walk = Walk(person, x=(0.25, 0.75), y=(0.5, 0.5), face_px=(80, 120))
    frames = list(draw_frames([Scene(1.0, (walk,))]))
    assert len(frames) == 10
    detector = BlazeFaceDetector()
    for frame, x, width in ((frames[0], 160, 80), (frames[-1], 480, 120)):
        (face,) = detector.detect(frame)
        assert face.box.centre[0] == pytest.approx(x, abs=20)
        assert face.box.w == pytest.approx(width, rel=0.2)


def test_a_person_may_walk_out_of_the_picture(person: Person) -> None:
    walk = Walk(person, x=(0.5, 2.0), y=(0.5, -1.0))
    frames = list(draw_frames([Scene(1.0, (walk,)), Scene(0.1)]))
    assert frames[0].std() > frames[-1].std()
    assert np.abs(frames[-2].astype(int) - frames[-1]).max() < 30  # only the grain differs


def test_light_changes_the_person_and_not_the_room(person: Person) -> None:
    dark, bright = (
        next(iter(draw_frames([Scene(0.1, (Walk(person, x=(0.5, 0.5), light=(gain, gain)),))]))) for gain in (0.5, 1.0)
    )
    assert dark[180:260, 280:360].mean() < bright[180:260, 280:360].mean() * 0.7
    assert np.array_equal(dark[:, :60], bright[:, :60])


def test_a_clip_is_a_video_of_its_scenes(tmp_path: Path, person: Person) -> None:
    path = tmp_path / "clip.avi"
    write_clip(path, [Scene(0.5), Scene(1.0, (Walk(person, x=(0.4, 0.6)),))])
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 15
    assert capture.get(cv2.CAP_PROP_FPS) == 10
    capture.release()


def test_a_clip_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"clip\.avi"):
        write_clip(tmp_path / "nowhere" / "clip.avi", [Scene(0.1)])


def test_boxes_are_drawn_on_a_copy() -> None:
    image = _blank()
    drawn = draw_faces(image, [_report(Verdict.IDENTIFIED, Reason.MATCH, Box(100, 100, 80, 80), ("E1", 0.8))])
    assert (image == 128).all()
    assert (drawn != 128).any()


@pytest.mark.parametrize("box", [Box(-50, -50, 80, 80), Box(600, 440, 200, 200), Box(0, 0, 640, 480), Box(5, 5, 1, 1)])
def test_a_box_may_reach_outside(box: Box) -> None:
    for shape in ((480, 640), (20, 20), (3000, 4000)):
        drawn = draw_faces(_blank(*shape), [_report(Verdict.UNKNOWN, Reason.UNKNOWN, box, ("x" * 64, 0.3))])
        assert drawn.shape == (*shape, 3)


def test_a_decision_in_words() -> None:
    box = Box(0, 0, 1, 1)
    assert describe(_report(Verdict.IDENTIFIED, Reason.MATCH, box, ("E1", 0.812))) == "E1 0.81"
    assert describe(_report(Verdict.UNKNOWN, Reason.UNKNOWN, box, ("E1", 0.3))) == "unknown (E1 0.30)"
    assert describe(_report(Verdict.REJECTED, Reason.TOO_SMALL, box)) == "too small"


def test_a_verification_shows_both_faces() -> None:
    crops = (np.full((160, 160, 3), 10, np.uint8), np.full((160, 160, 3), 240, np.uint8))
    picture = draw_verification(crops, distance=0.2, threshold=0.4, same=True)
    left, right = picture[100, 100], picture[100, picture.shape[1] - 100]
    assert (left == 10).all()
    assert (right == 240).all()


@pytest.mark.parametrize("distance", [-0.1, 0.0, 1.0, 2.0])
def test_any_distance_can_be_shown(distance: float) -> None:
    crop = np.zeros((150, 150, 3), np.uint8)
    draw_verification((crop, crop), distance=distance, threshold=1.5, same=False)


@pytest.mark.parametrize(("count", "rows", "columns"), [(2, 1, 2), (4, 2, 2), (5, 2, 3), (9, 3, 3)])
def test_a_contact_sheet_is_about_square(count: int, rows: int, columns: int) -> None:
    sheet = contact_sheet([_blank(100 * (i + 1), 333) for i in range(count)])
    assert sheet.shape == (rows * 480, columns * 640, 3)


def test_pictures_are_written_by_the_names_ending(tmp_path: Path) -> None:
    for name, magic in (("a.png", b"\x89PNG"), ("b.jpg", b"\xff\xd8")):
        write_image(tmp_path / name, _blank())
        assert (tmp_path / name).read_bytes().startswith(magic)


def test_a_plot_that_cannot_be_written_is_refused_early(tmp_path: Path) -> None:
    check_plot_path(None)
    check_plot_path(tmp_path / "a.PNG")
    with pytest.raises(UsageError, match=r"\.png"):
        check_plot_path(tmp_path / "a.gif")
    with pytest.raises(OutputError, match="nowhere"):
        check_plot_path(tmp_path / "nowhere" / "a.png")
    with pytest.raises(OutputError, match="cannot be written"):
        write_image(_folder(tmp_path), _blank())


def _folder(tmp_path: Path) -> Path:
    path = tmp_path / "taken.png"
    path.mkdir()
    return path
