"""Presentation attack detection from the published weights to the error rates of a bundle."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from broken_bundles import backwards
from converter import Command

from convert import pad_build, pad_evaluate
from convert.minifasnet import load_minifasnet
from convert.pad_build import NETWORKS
from convert.pad_evaluate import THRESHOLDS, wilson
from convert.pad_reference import reference_logits, synthetic_crops
from convert.torch_pth import read_pth
from kiosk.detector import BLAZEFACE
from kiosk.errors import InputError, ModelError
from kiosk.pad import TflitePad, read_pad_bundle
from kiosk.selftest import examine_pad, find_samples

pytestmark = pytest.mark.convert


@pytest.fixture
def bundle(pad_bundles: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(pad_bundles / "pad-int8", tmp_path / "pad-int8"))


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.architecture)
def test_keras_gives_what_pytorch_gave(pad_weights: Path, network: pad_build.PadRecipe) -> None:
    model = load_minifasnet(pad_weights / network.weights.file)
    ours = np.asarray(model(synthetic_crops()))
    theirs = reference_logits(network.weights.file)
    assert theirs.std(axis=0).min() > 0.5, "a reference that says the same of every picture would show nothing"
    assert np.abs(ours - theirs).max() < 1e-4


def test_no_weight_of_the_network_is_denormal(pad_weights: Path) -> None:
    for network in NETWORKS:
        for values in load_minifasnet(pad_weights / network.weights.file).get_weights():
            assert not ((values != 0) & (np.abs(values) < np.finfo(np.float32).tiny)).any()


def test_bundles_are_complete_and_close_to_pytorch(pad_bundles: Path) -> None:
    assert sorted(path.name for path in pad_bundles.iterdir()) == ["pad-float32", "pad-int8"]
    for folder, floor in ((pad_bundles / "pad-float32", 1e-4), (pad_bundles / "pad-int8", 0.05)):
        assert sorted(path.name for path in folder.iterdir()) == [
            "minifasnet-v1se.tflite", "minifasnet-v2.tflite", "pad.json",
        ]  # fmt: skip
        manifest = read_pad_bundle(folder).manifest
        assert [network.scale for network in manifest.networks] == [2.7, 4.0]
        assert all(parity["mean"] <= floor for parity in manifest.report["parity"].values())
    for network in (pad_bundles / "pad-int8").glob("*.tflite"):
        assert network.stat().st_size < (pad_bundles / "pad-float32" / network.name).stat().st_size / 2


def test_network_off_the_reference_publishes_nothing(
    command: Command, pad_weights: Path, pad_bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first network in the place of both: the second is judged by its own reference."""
    content = (pad_bundles / "pad-float32" / "minifasnet-v2.tflite").read_bytes()
    monkeypatch.setattr(pad_build, "convert", lambda *_: content)
    code, line = command.fails("build", "pad", "--weights", pad_weights, "--variants", "float32", "--out", tmp_path)
    assert code == 65
    assert "pad-float32: minifasnet-v1se.tflite: live scores are off PyTorch's by" in line
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_named_with_where_to_have_it(command: Command, tmp_path: Path) -> None:
    one = tmp_path / NETWORKS[0].weights.file
    one.write_bytes(b"")
    for path, told in ((one, "is no folder"), (tmp_path, f"{NETWORKS[1].weights.file} not in it")):
        code, line = command.fails("build", "pad", "--weights", path)
        assert code == 65
        assert f"{path}: {told}; pad is made of two files" in line
        assert all(network.weights.file in line for network in NETWORKS)
        assert "https://raw.githubusercontent.com/minivision-ai" in line


def test_altered_weights_are_refused(command: Command, pad_weights: Path, tmp_path: Path) -> None:
    for network in NETWORKS:
        shutil.copy(pad_weights / network.weights.file, tmp_path)
    path = tmp_path / NETWORKS[1].weights.file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    code, line = command.fails("build", "pad", "--weights", tmp_path)
    assert code == 65
    assert f"{path}: SHA-256 is not that of the published file" in line


def test_another_network_is_refused(pad_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pad_weights / NETWORKS[0].weights.file
    tensors = read_pth(path)
    for changed, message in (
        ({**tensors, "extra": tensors["prob.weight"]}, "nothing of ours uses extra"),
        ({name: t for name, t in tensors.items() if name != "conv_34.project.bn.bias"}, "conv_34.project.bn.bias"),
        ({**tensors, "conv_6_dw.conv.weight": tensors["conv_6_dw.conv.weight"][:, :, :3, :3]}, "80 × 80 pixels"),
    ):
        monkeypatch.setattr("convert.minifasnet.read_pth", lambda _, changed=changed: changed)
        with pytest.raises(InputError, match=message):
            load_minifasnet(path)


def test_options_that_do_not_apply(command: Command, tmp_path: Path) -> None:
    code, line = command.fails("build", "pad", "--images", tmp_path, "--pairs", tmp_path / "pairs.txt")
    assert (code, "pad takes --weights, --calibration, --out and --variants only" in line) == (64, True)
    code, line = command.fails("build", "pad", "--variants", "float16")
    assert (code, "'float16' is not one of float32, int8" in line) == (64, True)


def test_error_rates_on_nuaa(command: Command, pad_bundles: Path, shared: Path, tmp_path: Path) -> None:
    """A sixth of the photos: every run of the suite need not see them all."""
    folders = {}
    for kind in ("live", "print"):
        folders[kind] = tmp_path / kind
        folders[kind].mkdir()
        for path in sorted((shared / "data" / "nuaa-sample" / kind).iterdir())[::6]:
            (folders[kind] / path.name).symlink_to(path)
    table = tmp_path / "scores.csv"
    options = ("--live", folders["live"], "--attack", f"print={folders['print']}", "--scores", table, "--json")
    assert command("evaluate-pad", pad_bundles / "pad-float32", pad_bundles / "pad-int8", *options) == 0
    for one in command.json()["runs"]:
        assert one["at_threshold"]["bpcer"] == {"errors": 0, "of": 37, "rate": 0.0, "interval": [0.0, 0.09406]}
        assert one["at_threshold"]["apcer"]["print"]["errors"] == 0
        assert one["undetected"] == {"live": 0, "print": 0}
        # Far apart, and the threshold between them.
        assert one["highest_attack"]["print"] < 0.2
        assert one["lowest_live"] > 0.45
        assert [row["threshold"] for row in one["curve"]] == list(THRESHOLDS)
    rows = table.read_text(encoding="utf-8").splitlines()
    assert rows[0] == "kind,path,pad-float32,pad-int8"
    assert len(rows) == 1 + 37 + 37


def test_faces_not_found_count_against_the_living_only(pad_bundles: Path, samples: Path) -> None:
    bundles = [read_pad_bundle(pad_bundles / "pad-int8")]
    photo, none = samples / "obama.jpg", samples / "none.jpg"
    result = pad_evaluate.PadResult(
        bundles,
        [
            pad_evaluate.Presentation("live", photo, (0.9,)),
            pad_evaluate.Presentation("live", none, None),
            pad_evaluate.Presentation("screen", photo, (0.8,)),
            pad_evaluate.Presentation("screen", none, None),
        ],
        [1.0],
        1,
    )
    (document,) = pad_evaluate.pad_documents(result)
    rates: dict[str, Any] = document["at_threshold"]
    assert (rates["bpcer"]["errors"], rates["bpcer"]["of"]) == (1, 2)
    assert rates["apcer"]["screen"]["errors"] == 1
    assert document["undetected"] == {"live": 1, "screen": 1}
    assert (document["lowest_live"], document["highest_attack"]) == (0.9, {"screen": 0.8})
    text = pad_evaluate.pad_text([document])
    assert "APCER screen  50.00% (1 of 2; 95 %: 9.45% to 90.55%)" in text
    assert "no face found  1 of kind live" in text
    nobody = [one for one in result.presentations if one.scores is None]
    (document,) = pad_evaluate.pad_documents(replace(result, presentations=nobody))
    assert (document["lowest_live"], document["highest_attack"]) == (None, {"screen": None})
    assert "  lowest live score -, highest of attacks: screen -\n" in pad_evaluate.pad_text([document])


def test_intervals_are_wilsons() -> None:
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_evaluation_without_attacks(command: Command, pad_bundles: Path, tmp_path: Path) -> None:
    for attack, told in (("print", "'print' is not KIND=DIR"), ("live=x", "live is there already")):
        options = ("--live", tmp_path, "--attack", attack)
        code, line = command.fails("evaluate-pad", pad_bundles / "pad-int8", *options)
        assert (code, told in line) == (64, True)


def test_damaged_bundles_are_refused(bundle: Path) -> None:
    manifest = json.loads((bundle / "pad.json").read_text(encoding="utf-8"))
    network = bundle / "minifasnet-v2.tflite"
    content = network.read_bytes()
    network.write_bytes(content[:-1] + b"?")
    with pytest.raises(ModelError, match=r"minifasnet-v2.tflite: damaged"):
        read_pad_bundle(bundle)
    network.unlink()
    with pytest.raises(ModelError, match=r"minifasnet-v2.tflite: cannot be read"):
        read_pad_bundle(bundle)
    network.write_bytes(content)
    for change, told in (({"threshold": 2}, "threshold"), ({"schema": 9}, "schema"), ({"more": 1}, "more")):
        (bundle / "pad.json").write_text(json.dumps(manifest | change), encoding="utf-8")
        with pytest.raises(ModelError, match=rf"pad.json: {told}: "):
            read_pad_bundle(bundle)
    for networks in (manifest["networks"][:1], manifest["networks"] * 2):
        (bundle / "pad.json").write_text(json.dumps(manifest | {"networks": networks}), encoding="utf-8")
        with pytest.raises(ModelError, match=r"pad.json: networks"):
            read_pad_bundle(bundle)
    manifest["networks"][0]["file"] = "../../model.tflite"
    (bundle / "pad.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ModelError, match=r"pad.json: networks.0.file"):
        read_pad_bundle(bundle)


def test_the_self_test_knows_what_the_networks_said(bundle: Path) -> None:
    samples = find_samples()
    sound = read_pad_bundle(bundle)
    assert len(sound.manifest.known_scores) == len(samples) + 1
    examine_pad(sound, TflitePad(sound), samples)
    path = bundle / "pad.json"
    manifest = json.loads(path.read_text())
    for network in manifest["networks"]:
        content = backwards(bundle / network["file"], larger_than=5_000)
        (bundle / network["file"]).write_bytes(content)
        network["sha256"] = hashlib.sha256(content).hexdigest()
    path.write_text(json.dumps(manifest))
    spoilt = read_pad_bundle(bundle)
    with pytest.raises(ModelError, match="gets other live scores than where the bundle was built"):
        examine_pad(spoilt, TflitePad(spoilt), samples)
    # A bundle of before such records runs, and more is not known of it.
    path.write_text(json.dumps(manifest | {"known_scores": []}))
    old = read_pad_bundle(bundle)
    examine_pad(old, TflitePad(old), samples)


def test_a_threshold_that_was_changed_makes_another_model(bundle: Path) -> None:
    path = bundle / "pad.json"
    before = read_pad_bundle(bundle).model_id
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"threshold": 0.1}), encoding="utf-8")
    assert read_pad_bundle(bundle).model_id != before


def test_a_network_with_another_number_of_outputs_is_refused(bundle: Path) -> None:
    """The face detector's has two."""
    content = BLAZEFACE.read_bytes()
    manifest = json.loads((bundle / "pad.json").read_text(encoding="utf-8"))
    manifest["networks"][0]["sha256"] = hashlib.sha256(content).hexdigest()
    (bundle / manifest["networks"][0]["file"]).write_bytes(content)
    (bundle / "pad.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ModelError, match=r"takes and gives float32 .*, float32 .*, float32 .*, not float32"):
        TflitePad(read_pad_bundle(bundle))


def test_evaluation_that_finds_no_face_is_valid_json(command: Command, pad_bundles: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((240, 320, 3), 128, np.uint8))
    options = ("--live", tmp_path, "--attack", f"print={tmp_path}", "--json")
    assert command("evaluate-pad", pad_bundles / "pad-int8", *options) == 0
    assert command.json()["milliseconds"] is None


def test_manifest_of_another_network_is_refused(bundle: Path) -> None:
    manifest = json.loads((bundle / "pad.json").read_text(encoding="utf-8"))
    manifest["input_size_px"] = 96
    (bundle / "pad.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ModelError, match=r"not float32 \(1, 96, 96, 3\)"):
        TflitePad(read_pad_bundle(bundle))
