"""The drawn clip and the explaining pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kiosk.biometrics import Box, Candidate, Decision, Face, FaceReport, Image, Quality, Reason, SubjectId, Verdict
from kiosk.clip import Person, Scene, Walk, draw_frames, write_clip
from kiosk.detector import BlazeFaceDetector
from kiosk.drawing import (
    check_plot_path,
    contact_sheet,
    describe,
    draw_faces,
    draw_verification,
    explain_faces,
    write_image,
)
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
def test_a_contact_sheet_has_room_for_the_largest_picture(count: int, rows: int, columns: int) -> None:
    sheet = contact_sheet([_blank(100 * (i + 1), 333) for i in range(count)])
    assert sheet.shape == (rows * 100 * count, columns * 333, 3)


def test_a_contact_sheet_stays_small_enough_to_look_at() -> None:
    assert contact_sheet([_blank(2000, 4000) for _ in range(4)]).shape == (4000, 6000, 3)


def _decided(verdict: Verdict, reason: Reason, *candidates: tuple[str, float]) -> FaceReport:
    report = _report(verdict, reason, Box(20, 60, 80, 80), *candidates)
    quality = Quality(80.0, 50.0, 120.0, -0.1)
    return replace(report, decision=replace(report.decision, quality=quality, margin_needed=0.05))


def test_an_explained_face_has_its_figures_beside_the_photo() -> None:
    report = _decided(Verdict.IDENTIFIED, Reason.MATCH, ("E1", 0.8), ("E2", 0.5))
    photo = _blank(480, 640)
    picture = explain_faces(photo, [report])
    assert picture.shape[0] == 480
    assert picture.shape[1] == 640 + round(520 * 0.7)
    assert np.array_equal(picture[:, :640], draw_faces(photo, [report]))
    panel = picture[:, 640:]
    # Ink down to the words of the reason, which take longer to say than the header alone.
    assert np.flatnonzero((panel[:, 20:] < 100).any(axis=(1, 2))).max() > 100
    assert panel.max() == 250


def test_an_explanation_says_more_of_a_rejected_face() -> None:
    accepted, rejected = (
        explain_faces(_blank(10, 100), [report]).shape[0]
        for report in (
            _decided(Verdict.IDENTIFIED, Reason.MATCH, ("E1", 0.8)),
            _decided(Verdict.REJECTED, Reason.AMBIGUOUS, ("E1", 0.8), ("E2", 0.79)),
        )
    )
    assert rejected > accepted > 10


@pytest.mark.parametrize("faces", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("shape", [(480, 640), (60, 40), (1500, 1000)])
def test_many_faces_are_explained_without_covering_the_photo(faces: int, shape: tuple[int, int]) -> None:
    reports = [_decided(Verdict.UNKNOWN, Reason.UNKNOWN, ("x" * 64, 0.3))] * faces
    picture = explain_faces(_blank(*shape), reports)
    assert np.array_equal(picture[: shape[0], : shape[1]], draw_faces(_blank(*shape), reports))
    # Every face's panel begins with a bar in its decision's colour.
    red = (picture == (60, 60, 220)).all(axis=2)
    red[: shape[0], : shape[1]] = False
    bars = [x for x in np.flatnonzero(red.sum(axis=0) > 50) if x == 0 or red[:, x - 1].sum() <= 50]
    assert bars
    assert red[:, bars].sum() > faces * 50
    assert picture.shape[0] <= max(shape[0], 4000)


def test_a_photo_without_faces_has_nothing_to_explain() -> None:
    assert np.array_equal(explain_faces(_blank(), []), _blank())


def test_pictures_are_written_by_the_names_ending(tmp_path: Path) -> None:
    for name, magic in (("a.png", b"\x89PNG"), ("b.jpg", b"\xff\xd8")):
        write_image(tmp_path / name, _blank())
        assert (tmp_path / name).read_bytes().startswith(magic)


def test_faces_are_for_their_owner_only_also_in_the_place_of_an_older_picture(tmp_path: Path) -> None:
    for left_behind in ("out.png", "out.png.part"):
        (tmp_path / left_behind).write_bytes(b"")
        (tmp_path / left_behind).chmod(0o644)
    write_image(tmp_path / "out.png", _blank())
    assert [(file.name, file.stat().st_mode & 0o777) for file in tmp_path.iterdir()] == [("out.png", 0o600)]


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
