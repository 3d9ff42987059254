"""Calibration and parity crops: enough of them, never the same, always the same again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from convert.calibration import Crops, collect_crops, read_crops
from kiosk.errors import InputError
from kiosk.opencv import cv2


def collect(folder: Path | None, count: int = 12, held_out: int = 6) -> Crops:
    return collect_crops(folder, alignment="eyes-box-v1", size_px=64, count=count, held_out=held_out)


def test_sample_photos_are_the_default() -> None:
    crops = collect(None)
    assert (len(crops.calibration), len(crops.held_out)) == (12, 6)
    assert all(crop.shape == (64, 64, 3) and crop.dtype == np.uint8 for crop in crops.calibration + crops.held_out)
    assert "sample photos" in crops.split


def test_no_crop_is_in_both_sets_and_none_twice() -> None:
    crops = collect(None, count=40, held_out=20)
    everything = crops.calibration + crops.held_out
    assert len({crop.tobytes() for crop in everything}) == len(everything)


def test_half_of_the_crops_are_mirrored() -> None:
    crops = collect(None, count=8, held_out=4)
    plain, mirrored = crops.calibration[:4], crops.calibration[4:]
    assert all(np.array_equal(a[:, ::-1], b) for a, b in zip(plain, mirrored, strict=True))


def test_same_photos_same_crops() -> None:
    assert all(np.array_equal(a, b) for a, b in zip(collect(None).calibration, collect(None).calibration, strict=True))


def test_one_photo_serves_both_sets_with_different_crops(tmp_path: Path, samples: Path) -> None:
    shutil.copy(samples / "obama.jpg", tmp_path)
    crops = collect(tmp_path)
    assert "all of one photo" in crops.split
    assert not {crop.tobytes() for crop in crops.calibration} & {crop.tobytes() for crop in crops.held_out}


def test_photos_without_a_face_are_passed_over(tmp_path: Path, samples: Path) -> None:
    for name in ("obama.jpg", "biden.jpg"):
        shutil.copy(samples / name, tmp_path)
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((200, 200, 3), 128, np.uint8))
    assert "of 1 photos, 6 parity crops of 1 other photos" in collect(tmp_path).split


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: folder.rmdir(), "no such folder"),
        (lambda folder: (folder / "notes.txt").write_text("none"), "no photos in it"),
        (lambda folder: (folder / "text.jpg").write_text("no image"), "text.jpg: "),
        (lambda folder: cv2.imwrite(str(folder / "w.png"), np.zeros((99, 99, 3), np.uint8)), "no face found in any"),
    ],
)
def test_folders_that_cannot_calibrate(tmp_path: Path, prepare, message: str) -> None:  # noqa: ANN001 - any callable
    folder = tmp_path / "photos"
    folder.mkdir()
    prepare(folder)
    with pytest.raises(InputError, match=message):
        collect(folder)


def save_crops(folder: Path, count: int) -> list[np.ndarray]:
    pictures = [np.full((64, 64, 3), 20 * number, np.uint8) for number in range(count)]
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{number}.png"), picture)
    return pictures


def test_aligned_crops_are_taken_as_they_are(tmp_path: Path) -> None:
    pictures = save_crops(tmp_path, 9)
    crops = read_crops(tmp_path, size_px=64)
    assert (len(crops.calibration), len(crops.held_out)) == (6, 3)
    taken = [crop.tobytes() for crop in crops.calibration + crops.held_out]
    assert sorted(taken) == sorted(picture.tobytes() for picture in pictures)
    assert len(read_crops(tmp_path, size_px=64, count=2, held_out=1).calibration) == 2


def test_one_aligned_crop_serves_both_sets(tmp_path: Path) -> None:
    save_crops(tmp_path, 1)
    crops = read_crops(tmp_path, size_px=64)
    assert (len(crops.calibration), len(crops.held_out)) == (1, 1)


def test_aligned_crops_of_another_size_are_refused(tmp_path: Path) -> None:
    save_crops(tmp_path, 3)
    with pytest.raises(InputError, match=r"png: 64 × 64 pixels; --crops wants aligned faces of the model's 160 × 160"):
        read_crops(tmp_path, size_px=160)


def test_photos_to_measure_with_do_not_calibrate(samples: Path) -> None:
    apart = frozenset(path.resolve() for path in samples.glob("obama*.jpg"))
    crops = collect_crops(samples, alignment="eyes-box-v1", size_px=64, count=12, held_out=6, apart=apart)
    assert crops.photos
    assert not crops.photos & apart
    everything = frozenset(path.resolve() for path in samples.iterdir())
    with pytest.raises(InputError, match="all of its photos are in the gate's pairs"):
        collect_crops(samples, alignment="eyes-box-v1", size_px=64, apart=everything)
