"""dlib's network in Keras against dlib itself, and files that are not dlib's network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert.dlib_resnet29 import load_dlib_resnet29, read_dat
from kiosk.biometrics import Image
from kiosk.errors import InputError

pytestmark = pytest.mark.convert


@pytest.fixture(scope="module")
def crops() -> list[Image]:
    from convert.calibration import collect_crops

    return collect_crops(None, alignment="dlib-chip-v1", size_px=150, count=8, held_out=2).calibration


def test_embeddings_are_those_of_dlib(dat_file: Path, crops: list[Image]) -> None:
    dlib = pytest.importorskip("dlib", reason="needs dlib-bin")
    from kiosk.preprocessing import preprocess

    model = load_dlib_resnet29(dat_file)
    reference = dlib.face_recognition_model_v1(str(dat_file))
    ours = np.asarray(model(np.stack([preprocess(crop, "dlib-mean-256") for crop in crops])))
    theirs = np.array([reference.compute_face_descriptor(np.ascontiguousarray(crop[..., ::-1])) for crop in crops])
    assert np.abs(ours - theirs).max() < 1e-5


def test_network_has_29_convolutions(dat_file: Path) -> None:
    weights = read_dat(dat_file)
    assert [len(weights.convolutions), weights.projection.shape] == [29, (256, 128)]


def test_truncated_file(dat_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.dat"
    content = dat_file.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        InputError, match=r"cut.dat: not dlib's face recognition network, or damaged .*; fetch it again"
    ):
        read_dat(path)
    path.write_bytes(content[:-40_000])
    with pytest.raises(InputError, match="ends early"):
        read_dat(path)


def test_values_that_are_no_numbers(dat_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "nan.dat"
    content = bytearray(dat_file.read_bytes())
    content[-4000:] = b"\xff" * 4000
    path.write_bytes(content)
    with pytest.raises(InputError, match="no numbers"):
        read_dat(path)


def test_another_network_of_dlib(dat_file: Path) -> None:
    with pytest.raises(InputError, match="not dlib's face recognition network"):
        read_dat(dat_file.with_name("mmod_human_face_detector.dat"))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_dat(tmp_path / "none.dat")
