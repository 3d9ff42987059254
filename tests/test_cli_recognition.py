"""``kiosk verify`` and ``kiosk identify`` on real photos, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Kiosk
from runner import assert_one_line_error, copy_store, dump, enroll_people, side_by_side

from kiosk.opencv import cv2
from kiosk.store import KeyFile

OBAMA = ("obama.jpg", "obama2.jpg", "obama3.jpg")
BIDEN = ("biden_portrait.jpg", "biden.jpg")
STRANGER = "collins.jpg"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, samples: Path) -> Kiosk:
    """Obama and Biden enrolled. For commands that change nothing."""
    return enroll_people(Kiosk(tmp_path_factory.mktemp("home"), request.config.getoption("--runtime")), samples)


@pytest.fixture
def two_people(tmp_path: Path, samples: Path) -> Path:
    """One photo of an enrolled person and the stranger, side by side."""
    path = tmp_path / "two.png"
    cv2.imwrite(str(path), side_by_side(samples / OBAMA[1], samples / STRANGER))
    return path


def test_verify_prints_the_two_lines_of_the_notebook(home: Kiosk, samples: Path) -> None:
    result = home("verify", samples / OBAMA[0], samples / OBAMA[1])
    assert result.returncode == 0
    same, distance = result.stdout.splitlines()
    assert same == "True"
    assert distance.startswith("Distance = 0.")
    assert len(distance) == len("Distance = 0.18")


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [(OBAMA[0], OBAMA[2], True), (*BIDEN, True), (OBAMA[0], BIDEN[1], False), (BIDEN[0], STRANGER, False)],
)
def test_verify_json(home: Kiosk, samples: Path, a: str, b: str, same: bool) -> None:
    result = home("verify", samples / a, samples / b, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert list(document) == [
        "same", "distance", "score", "threshold", "score_threshold", "metric", "model", "faces",
    ]  # fmt: skip
    assert document["same"] is same
    assert document["distance"] == pytest.approx(1 - document["score"])
    assert document["threshold"] == pytest.approx(1 - document["score_threshold"])
    assert (document["distance"] <= document["threshold"]) is same
    assert document["metric"] == "cosine"
    assert [face["image"] for face in document["faces"]] == [str(samples / a), str(samples / b)]
    assert all(len(face["box"]) == 4 and face["box"][2] > 0 for face in document["faces"])


def test_identify_compares_with_no_template_that_cannot_be_decrypted(kiosk: Kiosk, home: Kiosk, samples: Path) -> None:
    copy_store(home, kiosk)
    # The key of another kiosk.
    kiosk.store.with_name("kiosk.db.key").unlink()
    KeyFile.of(kiosk.store).create(kiosk.store)
    result = kiosk("identify", samples / OBAMA[1])
    assert result.returncode == 78
    line = assert_one_line_error(result.stderr)
    assert "2 templates of 'obama', 'biden' cannot be decrypted" in line
    assert "put the right key file back" in line


def test_verify_obeys_a_configured_threshold(home: Kiosk, samples: Path) -> None:
    result = home("verify", samples / OBAMA[0], samples / OBAMA[1], env={"KIOSK_MATCH__THRESHOLD": "0.9999"})
    assert result.stdout.splitlines()[0] == "False"


def test_verify_plot_shows_both_faces(home: Kiosk, samples: Path, tmp_path: Path) -> None:
    plot = tmp_path / "out.png"
    result = home("verify", samples / OBAMA[0], samples / BIDEN[0], "--plot", plot)
    assert result.returncode == 0
    picture = cv2.imread(str(plot))
    assert picture is not None
    assert picture.shape[1] > picture.shape[0]
    assert picture.std() > 30


def test_identify_json(home: Kiosk, samples: Path, two_people: Path) -> None:
    before = dump(home.store)
    result = home("identify", samples / OBAMA[2], two_people, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    single, pair = json.loads(result.stdout)["images"]
    assert single["path"] == str(samples / OBAMA[2])
    (face,) = single["faces"]
    assert (face["decision"], face["reason"], face["subject_id"]) == ("identified", "match", "obama")
    assert [candidate["subject_id"] for candidate in face["candidates"]] == ["obama", "biden"]
    assert face["score"] == face["candidates"][0]["score"]
    assert face["margin"] == pytest.approx(face["score"] - face["candidates"][1]["score"], abs=1e-3)
    assert face["quality"]["size_px"] > 60
    assert face["score"] > face["threshold"] > 0.5
    assert face["margin"] > face["margin_needed"] > 0
    assert face["explanation"].startswith(f"accepted: obama scored {face['score']:.3f}")
    assert len(face["box"]) == 4
    by_decision = {face["decision"]: face for face in pair["faces"]}
    assert by_decision["identified"]["subject_id"] == "obama"
    assert by_decision["unknown"]["subject_id"] is None
    assert by_decision["unknown"]["reason"] == "unknown"
    assert by_decision["unknown"]["explanation"].startswith("not accepted: ")
    assert dump(home.store) == before


def test_identify_in_words(home: Kiosk, samples: Path) -> None:
    result = home("identify", samples / BIDEN[1], samples / STRANGER)
    assert result.returncode == 0
    assert "biden.jpg: 1 face" in result.stdout
    assert "identified: biden 0." in result.stdout
    assert "\n  unknown (" in result.stdout


def test_identify_plots_several_photos_on_one_sheet(home: Kiosk, samples: Path, tmp_path: Path) -> None:
    plot = tmp_path / "sheet.png"
    assert home("identify", *(samples / name for name in OBAMA), "--plot", plot).returncode == 0
    heights, widths = zip(*(cv2.imread(str(samples / name)).shape[:2] for name in OBAMA), strict=True)  # type: ignore[union-attr]
    sheet = cv2.imread(str(plot))
    assert sheet.shape[0] == 2 * max(heights)
    assert sheet.shape[1] > 2 * max(widths)


def test_identify_plots_a_single_photo_in_its_own_size_beside_its_explanation(
    home: Kiosk, samples: Path, tmp_path: Path
) -> None:
    plot = tmp_path / "one.png"
    assert home("identify", samples / OBAMA[0], "--plot", plot).returncode == 0
    drawn, photo = cv2.imread(str(plot)), cv2.imread(str(samples / OBAMA[0]))
    height, width = photo.shape[:2]
    assert drawn.shape[0] == height
    assert drawn.shape[1] > width + 300
    assert (drawn[:, :width] != photo).any()
    assert (drawn[:, width + 20 :] < 100).any()


def test_an_unreadable_photo_does_not_stop_the_others(home: Kiosk, samples: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no photo")
    result = home("identify", bad, samples / OBAMA[0], "--json")
    assert result.returncode == 65
    assert "bad.jpg" in assert_one_line_error(result.stderr)
    first, second = json.loads(result.stdout)["images"]
    assert first["faces"] == []
    assert "bad.jpg" in first["error"]
    assert second["faces"][0]["subject_id"] == "obama"


def test_a_photo_without_people_has_no_faces(home: Kiosk, tmp_path: Path) -> None:
    path = tmp_path / "wall.png"
    cv2.imwrite(str(path), cv2.UMat(480, 640, cv2.CV_8UC3, (90, 120, 130)).get())
    result = home("identify", path, "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["images"][0]["faces"] == []


def test_with_one_subject_there_is_no_margin(kiosk: Kiosk, samples: Path) -> None:
    assert kiosk("enroll", "obama", samples / OBAMA[0]).returncode == 0
    result = kiosk("identify", samples / OBAMA[1], "--json")
    assert json.loads(result.stdout)["images"][0]["faces"][0]["margin"] is None


def test_identify_with_no_store_says_what_to_do(kiosk: Kiosk, samples: Path) -> None:
    result = kiosk("identify", samples / OBAMA[0])
    assert result.returncode == 69
    assert "enroll" in assert_one_line_error(result.stderr)
    assert not kiosk.store.exists()


@pytest.mark.parametrize("command", ["verify", "identify"])
def test_a_plot_that_cannot_be_written(home: Kiosk, samples: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "out.png").mkdir()
    result = home(command, samples / OBAMA[0], samples / OBAMA[1], "--plot", tmp_path / "out.png")
    assert result.returncode == 74
    assert "out.png" in assert_one_line_error(result.stderr)
    result = home(command, samples / OBAMA[0], samples / OBAMA[1], "--plot", tmp_path / "nowhere" / "out.png")
    assert result.returncode == 74


def test_a_face_too_small_for_the_whole_photo_is_still_found(kiosk: Kiosk, samples: Path, tmp_path: Path) -> None:
    canvas = np.full((2400, 3200, 3), 90, np.uint8)
    portrait = np.asarray(cv2.imread(str(samples / "biden_portrait.jpg")))
    canvas[1500:1725, 2000:2225] = portrait
    far = tmp_path / "far.jpg"
    cv2.imwrite(str(far), canvas)
    assert kiosk("verify", str(far), str(samples / "biden.jpg")).stdout.startswith("True")
