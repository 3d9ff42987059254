"""Verification over pairs, end to end with the built-in bundle and sample photos in LFW's layout."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from converter import Command

from kiosk.bundle import BUILT_IN, BUILT_IN_BUNDLE
from kiosk.opencv import cv2

BUNDLE = BUILT_IN / BUILT_IN_BUNDLE
PHOTOS = {
    "Barack_Obama": ("obama.jpg", "obama2.jpg", "obama3.jpg"),
    "Joe_Biden": ("biden.jpg", "biden_portrait.jpg"),
}
PAIRS = (
    "2\n"
    "Barack_Obama\t1\t2\n"
    "Joe_Biden\t1\t2\n"
    "Barack_Obama\t1\tJoe_Biden\t1\n"
    "Barack_Obama\t3\tJoe_Biden\t2\n"
)  # fmt: skip


@pytest.fixture
def images(tmp_path: Path, samples: Path) -> Path:
    folder = tmp_path / "images"
    for person, names in PHOTOS.items():
        (folder / person).mkdir(parents=True)
        for number, name in enumerate(names, 1):
            shutil.copy(samples / name, folder / person / f"{person}_{number:04d}.jpg")
    return folder


@pytest.fixture
def evaluate(command: Command, images: Path, tmp_path: Path) -> Callable[..., int]:
    def run(*options: object, pairs: str = PAIRS) -> int:
        path = tmp_path / "pairs.txt"
        path.write_text(pairs)
        return command("evaluate", BUNDLE, "--images", images, "--pairs", path, *options)

    return run


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_people_are_told_apart(command: Command, evaluate: Callable[..., int], tmp_path: Path) -> None:
    scores = tmp_path / "scores.csv"
    assert evaluate("--json", "--scores", scores) == 0
    figures = command.json()
    assert figures["accuracy"] == 1
    assert figures["eer"] == 0
    assert (figures["pairs"], figures["photos"], figures["undetected_pairs"]) == (4, 5, 0)
    assert figures["model"].startswith("dlib-resnet29-int8@")
    assert figures["alignment"] == "dlib-chip-v1"
    rows = read_rows(scores)
    assert list(rows[0]) == ["fold", "path_a", "path_b", "same", "score"]
    assert [row["same"] for row in rows] == ["1", "1", "0", "0"]
    assert rows[0]["path_a"] == "Barack_Obama/Barack_Obama_0001.jpg"
    assert min(float(row["score"]) for row in rows[:2]) > max(float(row["score"]) for row in rows[2:])


def test_text_goes_to_stdout_and_progress_to_stderr(command: Command, evaluate: Callable[..., int]) -> None:
    assert evaluate() == 0
    assert "accuracy   1.0000 of 4 pairs" in command.out
    assert "5/5" in command.err


def test_photo_without_a_face_keeps_its_row_and_counts_as_an_error(
    command: Command, evaluate: Callable[..., int], images: Path, tmp_path: Path
) -> None:
    cv2.imwrite(str(images / "Joe_Biden" / "Joe_Biden_0002.jpg"), np.full((250, 250, 3), 99, np.uint8))
    assert evaluate("--json", "--scores", tmp_path / "s.csv") == 0
    figures = command.json()
    assert (figures["undetected_photos"], figures["undetected_pairs"], figures["accuracy"]) == (1, 2, 0.5)
    assert [row["score"] == "" for row in read_rows(tmp_path / "s.csv")] == [False, True, False, True]


def test_folds_are_reported_apart(command: Command, evaluate: Callable[..., int]) -> None:
    first, *rest = PAIRS.splitlines(keepends=True)
    same, different = rest[:2], rest[2:]
    folded = "2\t1\n" + same[0] + different[0] + same[1] + different[1]
    assert first == "2\n"
    assert evaluate("--json", pairs=folded) == 0
    assert command.json()["protocol"] == "2 folds, threshold of the others"
    assert command.json()["accuracy_std"] is not None


def test_haar_gets_its_own_crops_and_model_id(command: Command, evaluate: Callable[..., int]) -> None:
    assert evaluate("--json", "--detector", "haar") == 0
    assert command.json()["model"].endswith("+haar")
    assert command.json()["alignment"] == "haar-square-v1"


def test_missing_photo(command: Command, images: Path, tmp_path: Path) -> None:
    (images / "Joe_Biden" / "Joe_Biden_0002.jpg").unlink()
    code, line = command.fails(
        "evaluate", BUNDLE, "--images", images, "--pairs", write_pairs(tmp_path), "--scores", tmp_path / "s.csv"
    )
    assert code == 65
    assert "Joe_Biden_0002.jpg: no such photo" in line
    assert not (tmp_path / "s.csv").exists()


def write_pairs(folder: Path) -> Path:
    path = folder / "pairs.txt"
    path.write_text(PAIRS)
    return path


def test_unreadable_photo(command: Command, images: Path, tmp_path: Path) -> None:
    (images / "Joe_Biden" / "Joe_Biden_0002.jpg").write_text("text")
    code, line = command.fails("evaluate", BUNDLE, "--images", images, "--pairs", write_pairs(tmp_path))
    assert code == 65
    assert "Joe_Biden_0002.jpg" in line


def test_bundle_that_is_none(command: Command, images: Path, tmp_path: Path) -> None:
    code, line = command.fails("evaluate", tmp_path, "--images", images, "--pairs", write_pairs(tmp_path))
    assert code == 69
    assert "not a model bundle" in line


def test_scores_that_cannot_be_written(command: Command, images: Path, tmp_path: Path) -> None:
    target = tmp_path / "none" / "s.csv"
    code, line = command.fails(
        "evaluate", BUNDLE, "--images", images, "--pairs", write_pairs(tmp_path), "--scores", target
    )
    assert code == 74
    assert "cannot be written" in line


@pytest.mark.parametrize(
    "arguments", [["evaluate"], ["evaluate", "x", "--images", "y"], ["nonsense"], [], ["build", "vgg"]]
)
def test_usage(command: Command, arguments: list[str]) -> None:
    assert command(*arguments) == 64
    assert command.err
    assert not command.out
