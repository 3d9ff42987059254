"""Open-set identification from folders, end to end with the built-in bundle; every folder that cannot be right."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from converter import Command

from convert.openset import automatic_threshold, find_wrong_searches, read_open_set, search_open_set
from kiosk.bundle import BUILT_IN, BUILT_IN_BUNDLE, read_bundle
from kiosk.errors import InputError, ModelError
from kiosk.opencv import cv2

BUNDLE = BUILT_IN / BUILT_IN_BUNDLE


@pytest.fixture
def folders(tmp_path: Path, samples: Path) -> tuple[Path, Path, Path]:
    """Two enrolled, searched with other photos; one stranger."""
    content = {
        "gallery": {"obama": ["obama.jpg", "obama2.jpg"], "biden": ["biden.jpg"]},
        "probes": {"obama": ["obama3.jpg"], "biden": ["biden_portrait.jpg"]},
        "strangers": {"collins": ["collins.jpg"]},
    }
    for kind, people in content.items():
        for person, photos in people.items():
            (tmp_path / kind / person).mkdir(parents=True)
            for photo in photos:
                shutil.copy(samples / photo, tmp_path / kind / person)
    return tmp_path / "gallery", tmp_path / "probes", tmp_path / "strangers"


def options(folders: tuple[Path, Path, Path]) -> list[object]:
    return ["--gallery", folders[0], "--probes", folders[1], "--strangers", folders[2]]


def test_people_are_identified(command: Command, folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    scores, plots = tmp_path / "s.csv", tmp_path / "plots"
    assert command("evaluate", BUNDLE, *options(folders), "--json", "--scores", scores, "--plots", plots) == 0
    run = command.json()
    assert run["model"].startswith("dlib-resnet29-int8@")
    assert (run["photos"], run["undetected_photos"], "pairs" in run) == (6, 0, False)
    figures = run["identification"]
    assert (figures["enrolled"], figures["mated_searches"], figures["stranger_searches"]) == (2, 2, 1)
    assert figures["templates_per_subject"] == {"min": 1, "median": 1.5, "max": 2}
    assert figures["rank1_rate"] == 1
    assert figures["fnir_at_fpir"] == {"0.01": None, "0.001": None}
    one_percent, one_per_mille = figures["automatic"]
    assert (one_percent["stated_fpir"], one_per_mille["stated_fpir"]) == (0.01, 0.001)
    assert one_percent["threshold"] < one_per_mille["threshold"]
    assert (one_per_mille["fpir"], one_per_mille["fnir"]) == (0, 0)
    assert figures["wrong_face"] == []
    with scores.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["person"], row["best_other"]) for row in rows[:2]] == [
        ("mated", "biden", "obama"),
        ("mated", "obama", "biden"),
    ]
    assert rows[2]["kind"] == "stranger"
    assert rows[2]["own_score"] == ""
    assert float(rows[1]["own_score"]) > float(rows[1]["best_other_score"])
    assert sorted(path.name for path in plots.iterdir()) == ["identification.png", "search-scores.png"]


def test_text_says_it_all(command: Command, folders: tuple[Path, Path, Path]) -> None:
    assert command("evaluate", BUNDLE, *options(folders), "--templates", 1) == 0
    assert (
        "2 subjects, 1 to 1 photos each; searches: 2 by subjects (2 people), 1 by strangers (1 people)" in command.out
    )
    assert "rank 1     100.00%" in command.out
    assert "automatic  stated FPIR 0.001: score" in command.out


def test_a_search_without_a_face_is_a_miss_and_a_stranger_without_one_is_not_identified(
    command: Command, folders: tuple[Path, Path, Path]
) -> None:
    blank = np.full((250, 250, 3), 99, np.uint8)
    cv2.imwrite(str(folders[1] / "obama" / "obama3.jpg"), blank)
    cv2.imwrite(str(folders[2] / "collins" / "collins.jpg"), blank)
    (folders[0] / "nobody").mkdir()
    cv2.imwrite(str(folders[0] / "nobody" / "1.png"), blank)
    assert command("evaluate", BUNDLE, *options(folders), "--json") == 0
    run = command.json()
    figures = run["identification"]
    assert len(run["stages"]["no_face"]) == 3
    assert (figures["undetected_mated_searches"], figures["undetected_stranger_searches"]) == (1, 1)
    assert (figures["enrolled"], figures["failed_to_enroll"]) == (2, ["nobody"])
    assert figures["rank1_rate"] == 0.5
    assert [(point["fpir"], point["fnir"]) for point in figures["automatic"]] == [(0, 0.5), (0, 0.5)]


def test_nobody_is_found_anywhere(command: Command, folders: tuple[Path, Path, Path]) -> None:
    paths = [path for folder in folders for path in folder.rglob("*.jpg")]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), np.full((250, 250, 3), 50 + 10 * number, np.uint8))
    assert command("evaluate", BUNDLE, *options(folders), "--json") == 0
    figures = command.json()["identification"]
    assert (figures["enrolled"], figures["rank1_rate"], figures["automatic"][0]["fnir"]) == (0, 0, 1)
    assert command("evaluate", BUNDLE, *options(folders)) == 0
    assert "2 subjects not enrolled" in command.out


def test_error_rates_of_another_alignment_are_not_taken(command: Command, folders: tuple[Path, Path, Path]) -> None:
    assert command("evaluate", BUNDLE, *options(folders), "--detector", "haar", "--json") == 0
    point = command.json()["identification"]["automatic"][0]
    assert point["threshold"] is None
    assert command.json()["identification"]["wrong_face"] is None
    assert point["reason"] == "no error rates were measured for dlib-resnet29-int8 with haar-square-v1"
    assert command("evaluate", BUNDLE, *options(folders), "--detector", "haar", "--detector", "blazeface") == 0
    assert "haar (the notebook's)  100.00%" in command.out


def test_pairs_and_searches_in_one_run(
    command: Command, folders: tuple[Path, Path, Path], tmp_path: Path, samples: Path
) -> None:
    for number, name in enumerate(("obama.jpg", "obama2.jpg"), 1):
        (tmp_path / "images" / "O").mkdir(parents=True, exist_ok=True)
        shutil.copy(samples / name, tmp_path / "images" / "O" / f"O_000{number}.jpg")
    (tmp_path / "images" / "B").mkdir()
    shutil.copy(samples / "biden.jpg", tmp_path / "images" / "B" / "B_0001.jpg")
    (tmp_path / "pairs.txt").write_text("1\nO 1 2\nO 1 B 1\n")
    pairs = ["--images", tmp_path / "images", "--pairs", tmp_path / "pairs.txt"]
    assert command("evaluate", BUNDLE, *options(folders), *pairs, "--json", "--scores", tmp_path / "s.csv") == 0
    run = command.json()
    assert (run["pairs"], run["accuracy"], run["identification"]["rank1_rate"], run["photos"]) == (2, 1, 1, 9)
    assert sorted(path.name for path in tmp_path.glob("*.csv")) == ["s-pairs.csv", "s-searches.csv"]


def make_folders(folder: Path, **people: dict[str, int]) -> list[Path]:
    """Empty photos, as many as are said: enough for everything that does not look at them."""
    for kind, numbers in people.items():
        for person, photos in numbers.items():
            (folder / kind / person).mkdir(parents=True)
            for photo in range(photos):
                (folder / kind / person / f"{photo}.jpg").write_text(f"{kind} {person} {photo}")
    return [folder / kind for kind in ("gallery", "probes", "strangers")]


def test_photos_are_enrolled_and_fused_in_the_order_of_their_names(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, gallery={"a": 4, "b": 1}, probes={"a": 5}, strangers={"x": 2, "y": 1, "z": 3})
    photos = read_open_set(*folders, templates=3, fuse=2)
    assert {name: [path.stem for path in paths] for name, paths in photos.enrolled.items()} == {
        "a": ["0", "1", "2"],
        "b": ["0"],
    }
    assert [(name, [path.stem for path in paths]) for name, paths in photos.mated] == [
        ("a", ["0", "1"]),
        ("a", ["2", "3"]),
    ]
    assert [name for name, _ in photos.strangers] == ["x", "z"]
    # One of the probes', y's only one, z's third.
    assert photos.left_out == 3


def test_somebody_is_on_the_wrong_side(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, gallery={"a": 1}, probes={"a": 1, "b": 1}, strangers={"a": 1})
    with pytest.raises(InputError, match=r"probes/b: not in .*gallery; move it to --strangers"):
        read_open_set(*folders, templates=None, fuse=1)
    shutil.rmtree(tmp_path / "probes" / "b")
    with pytest.raises(InputError, match=r"strangers/a: in .*gallery, too: no stranger"):
        read_open_set(*folders, templates=None, fuse=1)


def test_nobody_has_enough_photos(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, gallery={"a": 1}, probes={"a": 2}, strangers={"x": 1})
    with pytest.raises(InputError, match="strangers: nobody in it has the 2 photos a search needs"):
        read_open_set(*folders, templates=None, fuse=2)


def test_a_photo_that_is_enrolled_proves_nothing(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, gallery={"a": 2}, probes={"a": 1}, strangers={"x": 1})
    shutil.copy(tmp_path / "gallery" / "a" / "1.jpg", tmp_path / "probes" / "a" / "other.jpg")
    with pytest.raises(InputError, match=r"other\.jpg: the same photo as .*1\.jpg, which is enrolled"):
        read_open_set(*folders, templates=None, fuse=1)


@pytest.mark.parametrize("kind", ["gallery", "probes", "strangers"])
def test_folders_that_are_not_there_or_hold_nothing(
    command: Command, folders: tuple[Path, Path, Path], kind: str
) -> None:
    folder = next(folder for folder in folders if folder.name == kind)
    inside = next(folder.rglob("*.jpg"))
    shutil.rmtree(folder)
    code, line = command.fails("evaluate", BUNDLE, *options(folders))
    assert (code, f"{kind}: no such folder" in line) == (65, True)
    folder.mkdir()
    code, line = command.fails("evaluate", BUNDLE, *options(folders))
    assert (code, f"it wants {kind}/<subject>/*.jpg" in line) == (65, True)
    (folder / inside.name).write_text("not below a subject's folder")
    code, line = command.fails("evaluate", BUNDLE, *options(folders))
    assert (code, f"it wants {kind}/<subject>/*.jpg" in line) == (65, True)


def test_the_automatic_threshold_is_the_bundles() -> None:
    bundle = read_bundle(BUNDLE)
    alignment = bundle.manifest.alignment
    single, fused = (automatic_threshold(bundle, alignment, [count] * 200, 1e-3) for count in (1, 3))
    assert single == bundle.search_scores().threshold({1: 200}, 1e-3)
    assert single < fused
    with pytest.raises(ModelError, match="with haar-square-v1"):
        automatic_threshold(bundle, "haar-square-v1", [1], 1e-3)


def test_the_other_face_of_a_missed_search(tmp_path: Path) -> None:
    folders = make_folders(tmp_path, gallery={"a": 1, "b": 1}, probes={"a": 2, "b": 1}, strangers={"x": 1})
    photos = read_open_set(*folders, templates=None, fuse=1)
    right, wrong = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    embeddings = {
        tmp_path / "gallery" / "a" / "0.jpg": right,
        tmp_path / "gallery" / "b" / "0.jpg": -right,
        tmp_path / "probes" / "a" / "0.jpg": wrong,
        tmp_path / "probes" / "a" / "1.jpg": right,
        tmp_path / "probes" / "b" / "0.jpg": wrong,
        tmp_path / "strangers" / "x" / "0.jpg": None,
    }
    searches = search_open_set(photos, embeddings.__getitem__)
    assert searches.own_scores.tolist() == [0, 1, 0]
    assert np.isnan(searches.nearest_scores).all()
    # Another face as in a's template is in every photo: it explains only a's missed search.
    found = find_wrong_searches(photos, searches, 0.5, embeddings.__getitem__, lambda _: [right])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["probes/a/0.jpg"]


def test_lfw(command: Command, shared: Path, tmp_path: Path) -> None:
    """Twenty enrolled with one photo each, all others strangers."""
    people = sorted((shared / "data" / "lfw-view1" / "images").iterdir())
    several = [person for person in people if len(list(person.iterdir())) >= 2][:20]
    single = [person for person in people if len(list(person.iterdir())) == 1][:60]
    for person in several:
        first, second, *_ = sorted(person.iterdir())
        for kind, photo in (("gallery", first), ("probes", second)):
            (tmp_path / kind / person.name).mkdir(parents=True)
            (tmp_path / kind / person.name / photo.name).symlink_to(photo)
    (tmp_path / "strangers").mkdir()
    for person in single:
        (tmp_path / "strangers" / person.name).symlink_to(person)
    folders = tmp_path / "gallery", tmp_path / "probes", tmp_path / "strangers"
    assert command("evaluate", BUNDLE, *options(folders), "--json") == 0
    figures = command.json()["identification"]
    assert (figures["enrolled"], figures["mated_searches"], figures["stranger_searches"]) == (20, 20, 60)
    assert figures["rank1_rate"] >= 0.85
    low, high = figures["fnir_at_fpir_ci"]["0.01"]
    assert 0 <= low <= figures["fnir_at_fpir"]["0.01"] <= high <= 0.5
    assert figures["automatic"][0]["fpir"] <= 0.05
