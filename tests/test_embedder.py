import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from kiosk import tflite
from kiosk.biometrics import Box, Embedding, Face
from kiosk.bundle import BUILT_IN, BUILT_IN_BUNDLE, read_bundle
from kiosk.detector import BlazeFaceDetector
from kiosk.embedder import TfliteEmbedder
from kiosk.errors import ModelError
from kiosk.opencv import cv2
from kiosk.preprocessing import preprocess
from kiosk.tflite import Runtime, make_interpreter

SAMPLES = Path(__file__).parent.parent / "kiosk" / "data" / "samples"
BUNDLE = BUILT_IN / BUILT_IN_BUNDLE


@pytest.fixture(scope="module")
def embeddings(runtime: Runtime) -> dict[str, Embedding]:
    detector = BlazeFaceDetector(runtime=runtime)
    embedder = TfliteEmbedder(read_bundle(BUNDLE), runtime=runtime)
    images = {path.stem: np.asarray(cv2.imread(str(path)), np.uint8) for path in SAMPLES.glob("*.jpg")}
    return {name: embedder.embed(image, detector.detect(image)[0]) for name, image in images.items()}


def person(name: str) -> str:
    return name.rstrip("0123456789").split("_")[0]


def test_embeddings_are_unit_vectors(embeddings: dict[str, Embedding]) -> None:
    for embedding in embeddings.values():
        assert embedding.shape == (128,)
        assert embedding.dtype == np.float32
        assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)


def test_same_people_score_above_the_threshold_and_others_below(embeddings: dict[str, Embedding]) -> None:
    threshold = read_bundle(BUNDLE).verification_threshold()
    names = sorted(embeddings)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            score = float(embeddings[a] @ embeddings[b])
            assert (score >= threshold) == (person(a) == person(b)), (a, b, score, threshold)


def test_the_same_crop_gives_the_same_embedding() -> None:
    embedder = TfliteEmbedder(read_bundle(BUNDLE))
    crop = np.random.default_rng(0).integers(0, 256, (150, 150, 3), np.uint8)
    first = embedder.embed_crop(crop)
    embedder.embed_crop(crop[::-1].copy())
    # Had the first been a view into the interpreter, it would have changed.
    assert np.array_equal(first, embedder.embed_crop(crop))


def test_another_alignment_is_another_model_id() -> None:
    plain, haar = TfliteEmbedder(read_bundle(BUNDLE)), TfliteEmbedder(read_bundle(BUNDLE), alignment="haar-square-v1")
    assert haar.model_id == f"{plain.model_id}+haar"


def test_shapes_that_differ_from_the_manifest_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "wrong"
    shutil.copytree(BUNDLE, folder)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"known_answers": []}
    for change, message in [({"input_size_px": 160}, "input"), ({"embedding_dim": 512}, "output")]:
        (folder / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(ModelError, match=message):
            TfliteEmbedder(read_bundle(folder))


@pytest.mark.parametrize("content", [b"", b"not a model", b"\0" * 5000])
def test_a_file_that_is_no_model_is_one_clear_line(tmp_path: Path, content: bytes, runtime: Runtime) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.tflite") as caught:
        make_interpreter(path, threads=1, runtime=runtime)
    assert "\n" not in str(caught.value)


def test_a_runtime_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tflite_runtime.interpreter", None)
    with pytest.raises(ModelError, match="pip install tflite-runtime"):
        make_interpreter(BUNDLE / "model.tflite", threads=1, runtime="tflite-runtime")


def test_a_machine_without_cpuinfo_is_warned_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, runtime: Runtime
) -> None:
    # As it is for a service with ProcSubset=pid: tests/test_service_unit.py.
    monkeypatch.setattr(tflite, "_CPUINFO", tmp_path / "cpuinfo")
    tflite._warn_if_slow.cache_clear()
    for _ in range(2):
        make_interpreter(BUNDLE / "model.tflite", threads=1, runtime=runtime)
    tflite._warn_if_slow.cache_clear()
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"{tmp_path}/cpuinfo: No such file or directory: ")


def test_preprocessing_by_name() -> None:
    crop = np.full((4, 4, 3), (0, 128, 255), np.uint8)
    assert preprocess(crop, "fixed-127.5-128")[0, 0] == pytest.approx((127.5 / 128, 0.5 / 128, -127.5 / 128))
    assert preprocess(crop, "dlib-mean-256")[0, 0] == pytest.approx(
        ((255 - 122.782) / 256, (128 - 117.001) / 256, -104.298 / 256), abs=1e-6
    )
    noise = np.random.default_rng(1).integers(0, 256, (160, 160, 3), np.uint8)
    whitened = preprocess(noise, "per-image-whitening")
    assert (float(whitened.mean()), float(whitened.std())) == pytest.approx((0, 1), abs=1e-4)
    assert np.all(preprocess(np.full((8, 8, 3), 7, np.uint8), "per-image-whitening") == 0)
    with pytest.raises(ValueError, match="unknown"):
        preprocess(crop, "magic")


def test_a_face_wholly_outside_gives_no_crash() -> None:
    embedder = TfliteEmbedder(read_bundle(BUNDLE))
    assert embedder.embed(np.zeros((10, 10, 3), np.uint8), Face(Box(500, 500, 9, 9), 1)).shape == (128,)
