"""Verification over pairs, end to end with the built-in bundle and sample photos in LFW's layout."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yunet
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
    assert figures["accuracy_ci"] == [1, 1]
    assert figures["tar_at_far"] == {"0.01": None, "0.001": None, "0.0001": None}
    assert "at least 50 are needed" in figures["tar_at_far_reason"]["0.01"]
    assert [point["tar"] for point in figures["roc"]] == [1, 1, 1]
    assert figures["stages"]["face_rule"].startswith("central_face")
    assert min(figures["timing"][name] for name in ("detect_ms", "align_ms", "embed_ms")) > 0
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


def test_a_photo_that_cannot_be_read_counts_as_an_error_and_is_told(
    command: Command, evaluate: Callable[..., int], images: Path
) -> None:
    damaged = images / "Joe_Biden" / "Joe_Biden_0002.jpg"
    damaged.write_text("text")
    assert evaluate("--json") == 0
    figures = command.json()
    assert figures["stages"]["unreadable"] == [str(damaged)]
    assert (figures["undetected_photos"], figures["undetected_pairs"], figures["accuracy"]) == (1, 2, 0.5)
    assert f"warning: counted as a photo without a face: {damaged}" in command.err


def test_no_photo_can_be_read(command: Command, images: Path, tmp_path: Path) -> None:
    for path in images.rglob("*.jpg"):
        path.write_text("text")
    code, line = command.fails("evaluate", BUNDLE, "--images", images, "--pairs", write_pairs(tmp_path))
    assert code == 65
    assert "Barack_Obama_0001.jpg" in line


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


def test_the_other_face_would_have_matched(command: Command, images: Path, tmp_path: Path, samples: Path) -> None:
    """A large stranger in the middle, the person small at the side."""
    small = cv2.resize(read(samples / "obama.jpg")[24:336, 157:469], (240, 240), interpolation=cv2.INTER_AREA)
    crowd = cv2.copyMakeBorder(read(samples / "biden.jpg"), 0, 0, 0, 250, cv2.BORDER_CONSTANT)
    crowd[:240, -240:] = small
    path = images / "Barack_Obama" / "Barack_Obama_0004.jpg"
    cv2.imwrite(str(path), crowd)
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("2\nBarack_Obama 3 4\nJoe_Biden 1 2\nBarack_Obama 1 Joe_Biden 1\nBarack_Obama 2 Joe_Biden 1\n")
    assert command("evaluate", BUNDLE, "--images", images, "--pairs", pairs, "--json") == 0
    stages = command.json()["stages"]
    assert stages["several_faces"] == [str(path)]
    assert stages["wrong_face"] == [["Barack_Obama/Barack_Obama_0003.jpg", "Barack_Obama/Barack_Obama_0004.jpg"]]
    assert command("evaluate", BUNDLE, "--images", images, "--pairs", pairs) == 0
    assert "wrong face 1 pairs" in command.out


def read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    return image


@pytest.fixture
def copy_of_bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLE, tmp_path / "copy"))


def test_bundles_and_detectors_side_by_side(
    command: Command, images: Path, tmp_path: Path, copy_of_bundle: Path
) -> None:
    scores, plots = tmp_path / "s.csv", tmp_path / "new" / "plots"
    options = ["--images", images, "--pairs", write_pairs(tmp_path), "--detector", "blazeface", "--detector", "haar"]
    assert command("evaluate", BUNDLE, copy_of_bundle, *options, "--json", "--scores", scores, "--plots", plots) == 0
    runs = command.json()["runs"]
    assert [(run["bundle"], run["detector"]) for run in runs] == [
        (str(folder), detector) for folder in (BUNDLE, copy_of_bundle) for detector in ("blazeface", "haar")
    ]
    assert [run["accuracy"] for run in runs] == [1, 1, 1, 1]
    # The same bundle twice: the same scores, and detection was timed once for both.
    assert runs[0]["roc"] == runs[2]["roc"]
    assert runs[0]["timing"]["detect_ms"] == runs[2]["timing"]["detect_ms"]
    assert runs[0]["timing"]["detect_ms"] != runs[1]["timing"]["detect_ms"]
    assert sorted(path.name for path in tmp_path.glob("s*.csv")) == [
        "s-dlib-resnet29-int8#2-blazeface.csv",
        "s-dlib-resnet29-int8#2-haar.csv",
        "s-dlib-resnet29-int8-blazeface.csv",
        "s-dlib-resnet29-int8-haar.csv",
    ]
    assert sorted(path.name for path in plots.iterdir()) == ["det.png", "roc.png", "scores.png"]
    assert min(read(path).shape[1] for path in plots.iterdir()) > 500


def test_side_by_side_is_a_table(command: Command, images: Path, tmp_path: Path) -> None:
    options = ["--images", images, "--pairs", write_pairs(tmp_path), "--detector", "blazeface", "--detector", "haar"]
    assert command("evaluate", BUNDLE, *options) == 0
    head, default, notebook, *_ = command.out.splitlines()
    assert head.split("  ")[0] == "bundle"
    assert default.startswith("dlib-resnet29-int8  blazeface")
    assert "haar (the notebook's)  1.0000 (1.0000–1.0000)" in notebook
    assert "2 pairs of different people cannot show a rate of 0.001" in command.out


def test_yunet_runs_from_a_file(command: Command, images: Path, tmp_path: Path) -> None:
    network = tmp_path / "spots.onnx"
    yunet.write_network(network)
    canvas = np.zeros((250, 250, 3), np.uint8)
    canvas[96:112, 112:128] = 255
    cv2.imwrite(str(images / "Joe_Biden" / "Joe_Biden_0002.png"), canvas)
    (images / "Joe_Biden" / "Joe_Biden_0002.png").rename(images / "Joe_Biden" / "Joe_Biden_0002.jpg")
    options = ["--images", images, "--pairs", write_pairs(tmp_path), "--detector", "yunet"]
    assert command("evaluate", BUNDLE, *options, "--yunet", network, "--json") == 0
    assert command.json()["detector"] == "yunet"
    assert str(images / "Joe_Biden" / "Joe_Biden_0002.jpg") not in command.json()["stages"]["no_face"]
    assert command.fails("evaluate", BUNDLE, *options) == (
        64,
        "kiosk-convert: --detector yunet needs its network: --yunet face_detection_yunet_2023mar.onnx",
    )
    code, line = command.fails("evaluate", BUNDLE, *options, "--yunet", tmp_path / "none.onnx")
    assert (code, "none.onnx: no such file" in line) == (69, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to measure"),
        (["--pairs", "p.txt"], "--images and --pairs belong together"),
        (["--gallery", "g", "--probes", "p"], "--gallery, --probes and --strangers belong together"),
        (["--images", "i", "--pairs", "p.txt", "--fuse", "2"], "--templates and --fuse are for identification"),
        (["--images", "i", "--pairs", "p.txt", "--yunet", "y.onnx"], "--yunet is for --detector yunet"),
        (["--images", "i", "--pairs", "p.txt", *["--detector", "haar"] * 2], "named twice"),
    ],
)
def test_options_that_do_not_go_together(command: Command, options: list[str], message: str) -> None:
    code, line = command.fails("evaluate", BUNDLE, *options)
    assert code == 64
    assert message in line


def test_plots_that_cannot_be_written(command: Command, evaluate: Callable[..., int], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert evaluate("--plots", tmp_path / "file" / "plots") == 74
    assert "file/plots: cannot be made" in command.err
    assert "5/5" not in command.err


def test_lfw(command: Command, shared: Path, tmp_path: Path) -> None:
    """The first forty pairs of either kind of View 1's test list."""
    source = shared / "data" / "lfw-view1"
    lines = (source / "pairsDevTest.txt").read_text().splitlines()
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("\n".join(["40", *lines[1:41], *lines[501:541]]) + "\n")
    assert command("evaluate", BUNDLE, "--images", source / "images", "--pairs", pairs, "--json") == 0
    figures = command.json()
    low, high = figures["accuracy_ci"]
    assert 0.9 < low <= figures["accuracy"] <= high <= 1
    assert figures["undetected_photos"] == 0
    assert figures["tar_at_far"]["0.01"] is None


@pytest.mark.parametrize(
    "arguments", [["evaluate"], ["evaluate", "x", "--images", "y"], ["nonsense"], [], ["build", "vgg"]]
)
def test_usage(command: Command, arguments: list[str]) -> None:
    assert command(*arguments) == 64
    assert command.err
    assert not command.out
