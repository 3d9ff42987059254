"""Builds from the command line to a bundle the kiosk loads, and the builds that must leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from converter import Command

from convert import gate, parity
from convert.recipes import RECIPES, measured
from kiosk.bundle import read_bundle
from kiosk.embedder import TfliteEmbedder
from kiosk.selftest import PEOPLE

pytestmark = pytest.mark.convert

VARIANTS = ("float32", "float16", "dynamic", "int8")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """All variants of dlib-resnet29, built as a user would."""
    out = tmp_path_factory.mktemp("built") / "bundles"
    command = [sys.executable, "-m", "convert", "build", "dlib-resnet29", "--out", str(out)]
    return out, subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_build_succeeds_and_says_what_it_does(built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, done = built
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(out / f"dlib-resnet29-{variant}") for variant in VARIANTS]
    # Progress, and none of TensorFlow's own chatter.
    ours = ("dlib-resnet29", "calibration:", "gate:")
    assert all(line.startswith(ours) for line in done.stderr.splitlines()), done.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_bundle_is_complete_and_above_its_floor(
    built: tuple[Path, subprocess.CompletedProcess[str]], variant: str
) -> None:
    folder = built[0] / f"dlib-resnet29-{variant}"
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json", "model.tflite", "report.json", "report.md",
    ]  # fmt: skip
    manifest = read_bundle(folder).manifest
    figures = manifest.report["parity"]
    assert figures["cosine_mean"] >= parity.FLOORS[manifest.variant]
    assert figures["cosine_min"] <= figures["cosine_p1"] <= figures["cosine_mean"]
    assert figures["float32_min"] <= figures["float32_p1"] <= figures["float32_mean"] <= 1
    judged = manifest.report["gate"]
    assert judged["passed"]
    assert judged["tolerance"] == {"accuracy": gate.ACCURACY_TOLERANCE, "tar": gate.TAR_TOLERANCE}
    # Not perfect: where every pair is far from the threshold, nothing shows.
    assert 0.99 < judged["figures"]["accuracy"] < 1
    assert judged["figures"]["undetected"] == 0
    assert abs(judged["figures"]["threshold_shift"]) < 0.02
    assert figures["crops"] == 100
    # What the kiosk's self-test holds its own answers against.
    assert [answer.photo for answer in manifest.known_answers] == [
        name for photos in PEOPLE.values() for name in photos
    ]
    assert manifest.source.licence == "CC0-1.0"
    assert manifest.accuracy == measured("dlib-resnet29", variant).accuracy
    assert [point.fmr for point in manifest.thresholds] == [1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    data = json.loads((folder / "report.json").read_text())
    assert data["parity"][variant] == figures
    assert data["gate"]["figures"][variant] == judged["figures"]
    assert list(data["gate"]["figures"]) == list(data["parity"]) == list(VARIANTS)
    assert f"# {manifest.name}\n" in (folder / "report.md").read_text()


def test_batch_norm_is_folded_and_only_builtin_operations_are_left(
    built: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    embedder = TfliteEmbedder(read_bundle(built[0] / "dlib-resnet29-float32"))
    operations = {detail["op_name"] for detail in embedder._interpreter._get_ops_details()}  # type: ignore[attr-defined]
    assert operations <= {
        "ADD", "AVERAGE_POOL_2D", "CONV_2D", "DELEGATE", "FULLY_CONNECTED", "MAX_POOL_2D", "MEAN", "PAD", "RELU",
    }  # fmt: skip


def test_int8_is_a_quarter_of_float32(built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    sizes = {v: (built[0] / f"dlib-resnet29-{v}" / "model.tflite").stat().st_size for v in VARIANTS}
    assert sizes["int8"] < 6e6 < sizes["float16"] < sizes["float32"]


def test_no_working_folder_stays(built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    assert sorted(path.name for path in built[0].iterdir()) == sorted(f"dlib-resnet29-{v}" for v in VARIANTS)


def test_rerun_replaces_and_other_photos_calibrate(command: Command, tmp_path: Path, samples: Path) -> None:
    target = tmp_path / "dlib-resnet29-float32"
    target.mkdir()
    (target / "stale").write_text("from an older build")
    assert (
        command("build", "dlib-resnet29", "--out", tmp_path, "--variants", "float32", "--calibration", samples) == 0
    ), command.err
    assert not (target / "stale").exists()
    assert "photos given by the user" in (target / "report.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_variant_below_its_floor_publishes_nothing(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parity.FLOORS, "dynamic", 1.0)
    code, line = command.fails("build", "dlib-resnet29", "--out", tmp_path, "--variants", "float32,dynamic")
    assert code == 65
    assert "dlib-resnet29-dynamic: mean cosine to Keras is 0.99" in line
    assert list(tmp_path.iterdir()) == []


def test_file_of_unknown_hash_is_used_with_a_warning_and_without_figures(
    command: Command,
    tmp_path: Path,
    dat_file: Path,
) -> None:
    path = tmp_path / "mine.dat"
    path.write_bytes(dat_file.read_bytes() + b"\n")
    assert command("build", "dlib-resnet29", "--weights", path, "--out", tmp_path / "b", "--variants", "float32") == 0
    assert "warning: mine.dat: SHA-256" in command.err
    manifest = read_bundle(tmp_path / "b" / "dlib-resnet29-float32").manifest
    assert (manifest.source.origin, manifest.accuracy, manifest.thresholds) == ("given by path", None, ())


@pytest.mark.parametrize("name", ["facenet512", "facenet128", "dlib-resnet29"])
def test_wrong_weights_are_one_line(command: Command, tmp_path: Path, name: str) -> None:
    path = tmp_path / "page.h5"
    path.write_text("<!DOCTYPE html>")
    code, line = command.fails("build", name, "--weights", path, "--out", tmp_path / "out")
    assert code == 65
    assert str(path) in line
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_written(command: Command, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    code, line = command.fails("build", "dlib-resnet29", "--out", tmp_path / "out", "--variants", "float32")
    assert code == 74
    assert "cannot be written" in line


@pytest.mark.parametrize(
    ("options", "code"),
    [(["--variants", "int4"], 64), (["--source", "nobody"], 64), (["--weights", "/none/w.h5"], 65)],
)
def test_wrong_options(command: Command, options: list[str], code: int) -> None:
    assert command.fails("build", "facenet512", *options)[0] == code


def test_names_on_the_command_line_are_the_recipes(command: Command) -> None:
    assert command("build", "--help") == 0
    assert all(name in command.out for name in RECIPES)
    assert "{facenet512|facenet128|dlib-resnet29|pad}" in command.out.replace("[", "{").replace("]", "}")


def test_pinned_hashes_are_hashes() -> None:
    pins = [file.sha256 for recipe in RECIPES.values() for file in recipe.files if file.sha256]
    assert len(pins) == 4
    assert all(len(bytes.fromhex(pin)) == 32 for pin in pins)
    assert all(file.url or file.package for recipe in RECIPES.values() for file in recipe.files)


def test_reference_embeddings_have_length_one(dat_file: Path) -> None:
    model = RECIPES["dlib-resnet29"].load(dat_file, 128)
    crops = [np.full((150, 150, 3), value, np.uint8) for value in (10, 200)]
    embeddings = parity.reference_embeddings(model, crops, "dlib-mean-256")
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx([1, 1], abs=1e-5)
