"""The quantization gate: what it compares on, what it lets pass, and the damaged builds that it refuses."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from converter import Command

from convert.calibration import SAMPLE_PHOTOS, collect_crops
from convert.crop_pairs import CropPairs, cut_pairs, sample_pairs, score_pairs
from convert.gate import ACCURACY_TOLERANCE, TAR_TOLERANCE, PairFigures, measure_pairs, require_pass
from convert.pairs import Pair
from kiosk.bundle import BUILT_IN, BUILT_IN_BUNDLE, read_bundle
from kiosk.embedder import TfliteEmbedder
from kiosk.errors import InputError
from kiosk.opencv import cv2
from kiosk.photo import photos_below

SIZE_PX = 150
FLOAT32 = PairFigures(
    pairs=1000, undetected=0, accuracy=0.99, eer=0.01, tar=0.95, threshold=0.5, far_threshold=0.6
)  # fmt: skip
BUNDLE = BUILT_IN / BUILT_IN_BUNDLE


def cut_samples(calibrated_with: frozenset[Path] = frozenset()) -> CropPairs:
    return sample_pairs(calibrated_with, alignment="dlib-chip-v1", size_px=SIZE_PX)


@pytest.fixture(scope="module")
def default_pairs() -> CropPairs:
    """Those of a build with default calibration."""
    return cut_samples(collect_crops(None, alignment="dlib-chip-v1", size_px=SIZE_PX).photos)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"accuracy": 0.99 - ACCURACY_TOLERANCE, "tar": 0.95 - TAR_TOLERANCE}, None),
        ({"accuracy": 0.999, "tar": 1.0}, None),
        ({"accuracy": 0.986}, r"accuracy 0.9860 is 0.0040 below float32's 0.9900 \(tolerance 0.003\) on"),
        ({"tar": 0.92}, r"TAR at FAR 0.001 0.9200 is 0.0300 below float32's 0.9500 \(tolerance 0.01\) on"),
        ({"accuracy": 0.5, "tar": 0.1}, "accuracy 0.5000 .* and TAR .*; nothing was published; calibrate with more"),
        ({"accuracy": math.nan}, "accuracy nan"),
    ],
)
def test_tolerances(default_pairs: CropPairs, change: dict[str, float], told: str | None) -> None:
    figures = replace(FLOAT32, **change)
    if told is None:
        require_pass("net-int8", figures, FLOAT32, default_pairs)
        return
    with pytest.raises(InputError, match="net-int8: quantization gate: .*" + told):
        require_pass("net-int8", figures, FLOAT32, default_pairs)


def test_sample_pairs_are_enough_of_both_kinds_and_always_the_same(default_pairs: CropPairs) -> None:
    assert (~default_pairs.same).sum() >= 4000
    assert default_pairs.same.sum() >= 4000
    again = cut_samples(collect_crops(None, alignment="dlib-chip-v1", size_px=SIZE_PX).photos)
    assert all(np.array_equal(a, b) for a, b in zip(default_pairs.crops, again.crops, strict=True))
    assert len({crop.tobytes() for crop in default_pairs.crops if crop is not None}) == 144


def test_photos_that_calibrate_do_not_judge(default_pairs: CropPairs) -> None:
    crops = collect_crops(None, alignment="dlib-chip-v1", size_px=SIZE_PX)
    assert len(crops.photos) == 4
    assert "144 spoilt crops of 2 sample photos that did not calibrate" in default_pairs.what


def test_all_sample_photos_judge_where_others_calibrate() -> None:
    assert "of 6 sample photos that did not calibrate" in cut_samples().what


def test_one_person_alone_cannot_judge() -> None:
    others = frozenset(path.resolve() for path in photos_below(SAMPLE_PHOTOS) if not path.name.startswith("obama"))
    pairs = cut_samples(others)
    assert pairs.what.endswith("of 6 sample photos")
    assert (~pairs.same).sum() >= 4000


def test_lost_face_is_an_error_of_its_pairs(tmp_path: Path, samples: Path) -> None:
    for name in ("obama.jpg", "obama2.jpg", "biden.jpg"):
        shutil.copy(samples / name, tmp_path)
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((250, 250, 3), 99, np.uint8))
    listed = [
        Pair(1, "obama.jpg", "obama2.jpg", same=True),
        Pair(1, "obama.jpg", "wall.png", same=True),
        Pair(1, "obama.jpg", "biden.jpg", same=False),
        Pair(1, "biden.jpg", "wall.png", same=False),
    ]
    pairs = cut_pairs(tmp_path, listed, alignment="dlib-chip-v1", size_px=SIZE_PX)
    bundle = read_bundle(BUNDLE)
    scores = score_pairs(pairs, TfliteEmbedder(bundle))
    assert np.isnan(scores).tolist() == [False, True, False, True]
    assert scores[0] > scores[2]
    figures = measure_pairs(bundle, pairs)
    assert (figures.pairs, figures.undetected, figures.accuracy, figures.tar) == (4, 2, 0.5, 0.5)


@pytest.fixture
def black(tmp_path: Path) -> Path:
    """Forty black pictures."""
    folder = tmp_path / "black"
    folder.mkdir()
    for number in range(40):
        cv2.imwrite(str(folder / f"{number}.png"), np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8))
    return folder


@pytest.mark.convert
def test_black_photos_are_refused(command: Command, black: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, line = command.fails("build", "dlib-resnet29", "--out", out, "--calibration", black)
    assert code == 65
    assert "calibration gate: no face found in any of its 40 photos; nothing was published" in line
    assert not out.exists()


@pytest.mark.convert
def test_network_quantized_with_black_crops_is_refused(command: Command, black: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, line = command.fails(
        "build", "dlib-resnet29", "--out", out, "--calibration", black, "--crops", "--variants", "int8"
    )
    assert code == 65
    assert "dlib-resnet29-int8: quantization gate: accuracy 0." in line
    assert "below float32's 0.99" in line
    assert "on 10,296 pairs of 144 spoilt crops of 6 sample photos that did not calibrate" in line
    assert list(out.iterdir()) == []


@pytest.mark.convert
def test_own_pairs_and_crops(command: Command, tmp_path: Path, samples: Path) -> None:
    """Photos of the pairs do not calibrate; float32 is measured, but not published unasked."""
    crops, images, pairs = tmp_path / "crops", tmp_path / "images", tmp_path / "pairs.txt"
    crops.mkdir()
    for number, crop in enumerate(collect_crops(None, alignment="dlib-chip-v1", size_px=SIZE_PX, count=30).calibration):
        cv2.imwrite(str(crops / f"{number}.png"), crop)
    for person, names in {"A": ("obama.jpg", "obama2.jpg"), "B": ("biden.jpg", "biden_portrait.jpg")}.items():
        (images / person).mkdir(parents=True)
        for number, name in enumerate(names, 1):
            shutil.copy(samples / name, images / person / f"{person}_{number:04d}.jpg")
    pairs.write_text("500\n" + "A\t1\t2\n" * 250 + "B\t1\t2\n" * 250 + "A\t1\tB\t1\n" * 250 + "A\t2\tB\t2\n" * 250)
    chosen = ("--calibration", crops, "--crops", "--images", images, "--pairs", pairs)
    assert command("build", "dlib-resnet29", "--out", tmp_path / "out", "--variants", "int8", *chosen) == 0, command.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dlib-resnet29-int8"]
    report = json.loads((tmp_path / "out" / "dlib-resnet29-int8" / "report.json").read_text())
    assert report["crops"] == "20 calibration crops, 10 other parity crops, aligned by the user and taken as they are"
    assert report["gate"]["pairs"] == "1,000 pairs of 4 photos given by the user"
    assert [row["accuracy"] for row in report["gate"]["figures"].values()] == [1, 1]
    assert list(report["gate"]["figures"]) == ["float32", "int8"]


@pytest.mark.convert
@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--crops"], 64, "--crops says what --calibration holds"),
        (["--images", "."], 64, "--images and --pairs belong together"),
        (["--pairs", "pairs.txt"], 64, "--images and --pairs belong together"),
        (["--images", ".", "--pairs", "/none/pairs.txt"], 65, "/none/pairs.txt: cannot be read"),
    ],
)
def test_wrong_options(command: Command, dat_file: Path, options: list[str], code: int, told: str) -> None:
    found, line = command.fails("build", "dlib-resnet29", "--weights", dat_file, *options)
    assert found == code
    assert told in line


@pytest.mark.convert
def test_pairs_that_cannot_show_the_rate(command: Command, dat_file: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("1\nA\t1\t2\nA\t1\tB\t1\n")
    code, line = command.fails("build", "dlib-resnet29", "--weights", dat_file, "--images", tmp_path, "--pairs", pairs)
    assert code == 65
    assert "quantization gate: 1 pairs of different people cannot show a rate of 0.001: at least 500 are needed" in line
