"""``kiosk model`` as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import Kiosk
from runner import assert_one_line_error

from kiosk.bundle import BUILT_IN, BUILT_IN_BUNDLE

pytestmark = pytest.mark.stories


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A sound bundle under a name that is not installed."""
    return _variant(tmp_path / "delivered", "dlib-resnet29-special")


def _variant(folder: Path, name: str, **changes: object) -> Path:
    shutil.copytree(BUILT_IN / BUILT_IN_BUNDLE, folder)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) | {"name": name} | changes
    path.write_text(json.dumps(manifest))
    return folder


def _listed(kiosk: Kiosk) -> dict[str, dict[str, object]]:
    return {bundle["name"]: bundle for bundle in json.loads(kiosk("model", "list", "--json").stdout)["bundles"]}


def test_the_built_in_bundle_is_there_and_in_use(kiosk: Kiosk) -> None:
    bundle = _listed(kiosk)[BUILT_IN_BUNDLE]
    assert (bundle["origin"], bundle["in_use"]) == ("built in", True)
    assert kiosk("model", "list").stdout.startswith(f"* {BUILT_IN_BUNDLE}\tbuilt in\t")


def test_info_of_the_bundle_in_use(kiosk: Kiosk) -> None:
    document = json.loads(kiosk("model", "info", "--json").stdout)
    assert document["model"].startswith(f"{BUILT_IN_BUNDLE}@")
    assert document["embedding_dim"] == 128
    assert f"model: {BUILT_IN_BUNDLE}@" in kiosk("model", "info").stdout


def test_install(kiosk: Kiosk, bundle: Path) -> None:
    result = kiosk("model", "install", bundle)
    assert result.returncode == 0
    assert _listed(kiosk)["dlib-resnet29-special"]["origin"] == "installed"
    installed = kiosk.folder / "models" / "dlib-resnet29-special"
    assert (installed / "model.tflite").read_bytes() == (bundle / "model.tflite").read_bytes()
    assert [path.name for path in (kiosk.folder / "models").glob(".*")] == [".use.json"]


def test_installing_again_replaces(kiosk: Kiosk, bundle: Path, tmp_path: Path) -> None:
    assert kiosk("model", "install", bundle).returncode == 0
    newer = _variant(tmp_path / "newer", "dlib-resnet29-special", thresholds_measured_on="something newer")
    assert kiosk("model", "install", newer).returncode == 0
    document = json.loads(kiosk("model", "info", "dlib-resnet29-special", "--json").stdout)
    assert document["thresholds_measured_on"] == "something newer"


def _damaged(kind: str, bundle: Path) -> str:
    model = bundle / "model.tflite"
    manifest = bundle / "manifest.json"
    document = json.loads(manifest.read_text())
    match kind:
        case "hash":
            model.write_bytes(model.read_bytes()[:-1] + b"\0")
        case "truncated":
            model.write_bytes(model.read_bytes()[:1000])
        case "shape":
            manifest.write_text(json.dumps(document | {"embedding_dim": 512}))
        case "input":
            manifest.write_text(json.dumps(document | {"input_size_px": 160}))
        case "unknown field":
            manifest.write_text(json.dumps(document | {"surprise": 1}))
        case "no json":
            manifest.write_text("{")
        case "no model":
            model.unlink()
        case "no manifest":
            manifest.unlink()
    return str(bundle)


DAMAGES = ["hash", "truncated", "shape", "input", "unknown field", "no json", "no model", "no manifest"]


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_bad_bundle_is_not_installed(kiosk: Kiosk, bundle: Path, kind: str) -> None:
    result = kiosk("model", "install", _damaged(kind, bundle))
    assert result.returncode == 69
    assert "delivered" in assert_one_line_error(result.stderr)
    assert not (kiosk.folder / "models" / "dlib-resnet29-special").exists()


@pytest.mark.parametrize("kind", ["hash", "shape"])
def test_a_bad_bundle_is_not_used(kiosk: Kiosk, bundle: Path, samples: Path, kind: str) -> None:
    kiosk.configure(model={"bundle": _damaged(kind, bundle)})
    for command in (["verify", samples / "obama.jpg", samples / "obama2.jpg"], ["run"]):
        result = kiosk(*command)
        assert result.returncode == 69
        assert "delivered" in assert_one_line_error(result.stderr)


def test_a_damaged_installed_bundle_is_listed_as_such(kiosk: Kiosk, bundle: Path) -> None:
    assert kiosk("model", "install", bundle).returncode == 0
    _damaged("hash", kiosk.folder / "models" / "dlib-resnet29-special")
    document = _listed(kiosk)["dlib-resnet29-special"]
    assert document["in_use"] is False
    assert "DAMAGED" in str(document["summary"])


def test_no_such_bundle(kiosk: Kiosk) -> None:
    result = kiosk("model", "info", "facenet9000")
    assert result.returncode == 69
    assert "facenet9000" in assert_one_line_error(result.stderr)


def test_templates_of_another_model_are_not_compared_and_it_is_said(kiosk: Kiosk, bundle: Path, samples: Path) -> None:
    assert kiosk("enroll", "obama", samples / "obama.jpg").returncode == 0
    kiosk.configure(model={"bundle": str(bundle)})
    face = json.loads(kiosk("identify", samples / "obama.jpg", "--json").stdout)["images"][0]["faces"][0]
    assert (face["decision"], face["reason"]) == ("unknown", "empty_gallery")
    checks = json.loads(kiosk("check", "--json").stdout)["checks"]
    store = next(check for check in checks if check["name"] == "store")
    assert store["status"] == "warn"
    assert "1 of 1 subjects cannot be recognized" in store["message"]
    assert "kiosk subjects reenroll" in store["message"]
