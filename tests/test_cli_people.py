"""``kiosk enroll`` and ``kiosk subjects`` as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from command_line import Kiosk
from runner import assert_one_line_error, copy_store, dump, run_in_process

from kiosk.opencv import cv2


@pytest.fixture
def home(kiosk: Kiosk, _home: Kiosk) -> Kiosk:
    """Obama and Biden enrolled, for this test alone."""
    copy_store(_home, kiosk)
    return kiosk


def _listed(kiosk: Kiosk) -> dict[str, dict[str, object]]:
    result = kiosk("subjects", "list", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    return {subject["subject_id"]: subject for subject in json.loads(result.stdout)["subjects"]}


def test_enroll_with_several_photos(kiosk: Kiosk, samples: Path) -> None:
    photos = [samples / name for name in ("obama.jpg", "obama2.jpg", "obama3.jpg")]
    result = kiosk("enroll", "E1042", "--name", "버락 오바마", *photos, "--json")
    # The path may be mistyped.
    new_store = f"note: {kiosk.store} is a new store: nobody was enrolled in it before\n"
    assert (result.returncode, result.stderr) == (0, new_store)
    document = json.loads(result.stdout)
    assert document["subject_id"] == "E1042"
    assert document["new"] is True
    assert [photo["path"] for photo in document["photos"]] == [str(photo) for photo in photos]
    assert all(photo["quality"]["failure"] is None for photo in document["photos"])
    assert document["notes"] == []
    subject = _listed(kiosk)["E1042"]
    assert (subject["name"], subject["templates"]) == ("버락 오바마", 3)


def test_without_a_name_the_id_is_the_name(kiosk: Kiosk, samples: Path) -> None:
    assert kiosk("enroll", "E1", samples / "obama.jpg").returncode == 0
    assert _listed(kiosk)["E1"]["name"] == "E1"


def test_more_photos_of_an_enrolled_person_are_added_and_the_name_stays(home: Kiosk, samples: Path) -> None:
    result = home("enroll", "obama", samples / "obama2.jpg")
    assert (result.returncode, result.stdout) == (0, "obama: added 1 photo\n")
    subject = _listed(home)["obama"]
    assert (subject["name"], subject["templates"]) == ("Barack Obama", 2)


def test_the_same_photo_again_is_passed_over(home: Kiosk, samples: Path, tmp_path: Path) -> None:
    renamed = shutil.copy(samples / "obama.jpg", tmp_path / "other name.jpg")
    result = home("enroll", "obama", renamed, samples / "obama2.jpg", samples / "obama2.jpg")
    assert result.returncode == 0
    assert "other name.jpg is enrolled already" in result.stderr
    assert _listed(home)["obama"]["templates"] == 2


def test_another_persons_photo_among_them_is_refused(home: Kiosk, samples: Path) -> None:
    before = dump(home.store)
    result = home("enroll", "obama", samples / "obama2.jpg", samples / "collins.jpg")
    assert result.returncode == 65
    assert "collins.jpg: does not look like the same person" in assert_one_line_error(result.stderr)
    assert dump(home.store) == before


def test_the_same_face_under_a_second_id(home: Kiosk, samples: Path) -> None:
    before = dump(home.store)
    result = home("enroll", "E7", samples / "obama3.jpg")
    assert result.returncode == 65
    line = assert_one_line_error(result.stderr)
    assert "already enrolled as obama" in line
    assert "--force" in line
    assert dump(home.store) == before
    assert home("enroll", "E7", samples / "obama3.jpg", "--force").returncode == 0
    assert "E7" in _listed(home)


def test_one_bad_photo_and_nothing_is_enrolled(kiosk: Kiosk, samples: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"")
    result = kiosk("enroll", "E1", samples / "obama.jpg", bad)
    assert result.returncode == 65
    assert "bad.jpg" in assert_one_line_error(result.stderr)
    assert dump(kiosk.store)["subjects"] == []


def _spoiled(samples: Path, tmp_path: Path, name: str, sigma: float) -> Path:
    path = tmp_path / name
    photo = cv2.imread(str(samples / "obama.jpg"))
    assert photo is not None
    cv2.imwrite(str(path), cv2.GaussianBlur(photo, (0, 0), sigma))
    return path


def test_a_blurred_photo_is_refused_with_advice(kiosk: Kiosk, samples: Path, tmp_path: Path) -> None:
    blurred = _spoiled(samples, tmp_path, "blurred.jpg", 5)
    result = kiosk("enroll", "E1", blurred)
    assert result.returncode == 65
    assert "blurred.jpg: the face is blurred (sharpness" in assert_one_line_error(result.stderr)
    kiosk.configure(face={"min_sharpness": 0})
    assert kiosk("enroll", "E1", blurred).returncode == 0


def test_photos_of_one_burst_are_enrolled_with_a_note(kiosk: Kiosk, samples: Path, tmp_path: Path) -> None:
    again = _spoiled(samples, tmp_path, "again.jpg", 0.7)
    photos = [samples / "obama2.jpg", samples / "obama.jpg", again]
    result = kiosk("enroll", "E1", *photos)
    assert (result.returncode, result.stdout) == (0, "E1: enrolled with 3 photos\n")
    first, new_store = result.stderr.splitlines()
    assert first.startswith("note: E1: photos 2 and 3 are nearly the same picture (")
    assert "is a new store" in new_store
    document = json.loads(kiosk("enroll", "E2", *photos, "--force", "--json").stdout)
    assert len(document["notes"]) == 1


@pytest.fixture
def people(tmp_path: Path, samples: Path) -> Path:
    """A folder for --from-dir: two people, and everything that can be wrong."""
    folder = tmp_path / "people"
    for subject_id, photos in {"obama": ("obama.jpg", "obama2.jpg"), "biden": ("biden_portrait.jpg",)}.items():
        (folder / subject_id).mkdir(parents=True)
        for photo in photos:
            shutil.copy(samples / photo, folder / subject_id / photo)
    return folder


def test_enroll_a_folder(kiosk: Kiosk, people: Path) -> None:
    result = kiosk("enroll", "--from-dir", people)
    assert result.returncode == 0
    assert "is a new store" in result.stderr
    assert result.stdout.splitlines() == ["biden: enrolled with 1 photo", "obama: enrolled with 2 photos"]
    again = kiosk("enroll", "--from-dir", people)
    assert again.stdout.splitlines() == ["biden: nothing new to enroll", "obama: nothing new to enroll"]
    assert again.stderr == ""


def test_enroll_a_folder_with_problems(kiosk: Kiosk, people: Path, samples: Path) -> None:
    (people / "obama" / "notes.jpg").write_text("not a photo")
    (people / "obama" / "readme.txt").write_text("passed over")
    (people / "biden2").mkdir()
    shutil.copy(samples / "biden.jpg", people / "biden2")
    (people / "bad id").mkdir()
    (people / "empty").mkdir()
    result = kiosk("enroll", "--from-dir", people, "--json")
    assert result.returncode == 65
    assert "2 people enrolled" in assert_one_line_error(result.stderr)
    document = json.loads(result.stdout)
    assert [subject["subject_id"] for subject in document["subjects"]] == ["biden", "obama"]
    failures = {failure["source"].rsplit("/", 1)[-1]: failure["error"] for failure in document["failures"]}
    assert set(failures) == {"notes.jpg", "biden2", "bad id", "empty"}
    assert "already enrolled as biden" in failures["biden2"]
    assert {subject: row["templates"] for subject, row in _listed(kiosk).items()} == {"biden": 1, "obama": 2}


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_a_folder_with_nobody(kiosk: Kiosk, tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    result = kiosk("enroll", "--from-dir", tmp_path / folder)
    assert result.returncode == 65
    assert_one_line_error(result.stderr)


def test_subjects_list_in_words(home: Kiosk) -> None:
    result = home("subjects", "list")
    assert result.stdout == "biden\t조 바이든\t1 template\nobama\tBarack Obama\t1 template\n"


def test_subjects_show(home: Kiosk) -> None:
    document = json.loads(home("subjects", "show", "obama", "--json").stdout)
    assert (document["subject_id"], document["name"], document["last_event"]) == ("obama", "Barack Obama", None)
    (template,) = document["templates"]
    assert "@" in template["model"]
    assert template["quality"]["size_px"] > 60
    assert "embedding" not in template
    assert "name: Barack Obama" in home("subjects", "show", "obama").stdout


def test_subjects_rename(home: Kiosk) -> None:
    assert home("subjects", "rename", "obama", "B. Obama / 'quoted' +#").returncode == 0
    assert _listed(home)["obama"]["name"] == "B. Obama / 'quoted' +#"


def test_subjects_remove_prints_the_receipt(home: Kiosk) -> None:
    result = home("subjects", "remove", "obama", "--yes", "--json")
    assert result.returncode == 0
    receipt = json.loads(result.stdout)
    assert receipt["subject_id"] == "obama"
    assert receipt["templates_erased"] == 1
    assert receipt["complete"] is True
    assert set(_listed(home)) == {"biden"}
    assert all(b"Barack Obama" not in path.read_bytes() for path in home.folder.glob("kiosk.db*"))


def test_an_erasure_that_cannot_be_completed_says_why_in_one_line(home: Kiosk) -> None:
    home.store.with_name("kiosk.db.key").unlink()
    result = home("subjects", "remove", "obama", "--yes")
    assert (result.returncode, result.stderr) == (0, "")
    (line,) = result.stdout.splitlines()
    assert "obama erased at" in line
    assert "NOT YET gone from everywhere: the key of what was erased is still there" in line
    assert "kiosk.db.key: the key of the templates is missing" in line
    home("subjects", "add", "E7")
    result = home("subjects", "remove", "E7", "--yes", "--json")
    assert json.loads(result.stdout)["complete"] is False
    (line,) = result.stderr.splitlines()
    assert "kiosk.db.key: the key of the templates is missing" in line


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 65), ("", 65)])
def test_subjects_remove_asks(home: Kiosk, answer: str, code: int) -> None:
    result = home("subjects", "remove", "obama", stdin=answer)
    assert result.returncode == code
    assert "cannot be undone" in result.stderr
    assert ("obama" in _listed(home)) is (code != 0)
    assert (f"copy {home.store}.key again if you keep a copy" in result.stderr) is (code == 0)


@pytest.mark.parametrize("arguments", [["show", "E9"], ["rename", "E9", "Nobody"], ["remove", "E9", "--yes"]])
def test_nobody_by_that_id(home: Kiosk, arguments: list[str]) -> None:
    before = dump(home.store)
    result = home("subjects", *arguments)
    assert result.returncode == 65
    assert "E9" in assert_one_line_error(result.stderr)
    assert dump(home.store) == before


def test_the_notebooks_detector_keeps_its_own_templates(home: Kiosk, samples: Path) -> None:
    """Crops of another geometry are another model's: never compared, and said so."""
    haar = {"KIOSK_FACE__DETECTOR": "haar", "KIOSK_MATCH__THRESHOLD": "0.93"}
    assert home("enroll", "obama", samples / "obama.jpg", env=haar).returncode == 0
    models = {t["model"] for t in json.loads(home("subjects", "show", "obama", "--json").stdout)["templates"]}
    assert len(models) == 2
    assert any(model.endswith("+haar") for model in models)
    result = home("identify", samples / "obama2.jpg", "--json", env=haar)
    candidates = json.loads(result.stdout)["images"][0]["faces"][0]["candidates"]
    assert [candidate["subject_id"] for candidate in candidates] == ["obama"]


def test_a_face_too_small_is_refused_with_advice(kiosk: Kiosk, samples: Path, tmp_path: Path) -> None:
    photo = cv2.imread(str(samples / "biden_portrait.jpg"))
    cv2.imwrite(str(tmp_path / "small.png"), cv2.resize(photo, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA))
    result = kiosk("enroll", "E1", tmp_path / "small.png")
    assert result.returncode == 65
    assert "too small" in assert_one_line_error(result.stderr)


def test_consent_is_stored_with_its_date(kiosk: Kiosk, samples: Path) -> None:
    photo = str(samples / "obama.jpg")
    assert kiosk("enroll", "obama", photo, "--consent", "HR-77", "--consent-date", "2026-03-02").returncode == 0
    shown = json.loads(kiosk("subjects", "show", "obama", "--json").stdout)
    assert (shown["consent_reference"], shown["consent_at"]) == ("HR-77", "2026-03-02")
    dated = kiosk("enroll", "obama", photo, "--consent-date", "2026-03-02")
    assert dated.returncode == 64
    assert "--consent" in assert_one_line_error(dated.stderr)


# --- names that stand in no command line


def test_a_name_is_read_from_standard_input(kiosk: Kiosk, samples: Path) -> None:
    name = "조 바이든"
    result = kiosk("enroll", "E1", "--name", "-", samples / "biden.jpg", stdin=f"{name}\nnot read\n")
    assert result.returncode == 0, result.stderr
    assert kiosk("subjects", "add", "E2", "--name", "-", stdin=name).returncode == 0
    assert kiosk("subjects", "rename", "E1", "-", stdin="  Joe Biden \r\n").returncode == 0
    assert {key: subject["name"] for key, subject in _listed(kiosk).items()} == {"E1": "Joe Biden", "E2": name}


@pytest.mark.stories
def test_no_name_on_standard_input_changes_nothing(kiosk: Kiosk) -> None:
    assert kiosk("subjects", "add", "E1", "--name", "Ada").returncode == 0
    for stdin in ("", "\n", "x" * 300, "a\x07b"):
        result = kiosk("subjects", "rename", "E1", "-", stdin=stdin)
        assert result.returncode == 65
        assert "name" in assert_one_line_error(result.stderr)
    assert _listed(kiosk)["E1"]["name"] == "Ada"


def test_on_a_terminal_it_is_asked_for(
    kiosk: Kiosk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(ours, "wb", buffering=0) as keyboard, os.fdopen(theirs, encoding="utf-8") as terminal:
        keyboard.write(b"Ada Lovelace\n")
        monkeypatch.setattr(sys, "stdin", terminal)
        monkeypatch.setenv("KIOSK_STORE__PATH", str(kiosk.store))
        assert run_in_process("subjects", "add", "E1", "--name", "-") == 0
    assert "name:" in capsys.readouterr().err
    assert _listed(kiosk)["E1"]["name"] == "Ada Lovelace"


def test_events_of_nobody_are_told_of(kiosk: Kiosk) -> None:
    assert kiosk("subjects", "add", "E1").returncode == 0
    assert kiosk("events", "--subject", "E1").stderr == ""
    nobody = kiosk("events", "--subject", "NOPE", "--json")
    assert json.loads(nobody.stdout) == {"events": []}
    assert nobody.stderr == "note: nobody NOPE is enrolled, and there is no event of theirs\n"
