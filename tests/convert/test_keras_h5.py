"""Inception-ResNet-v1 from HDF5 files as Keras 2 wrote them: real layouts, random numbers, all kinds of damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.inception_resnet_v1 import build_inception_resnet_v1, residual_scales
from convert.keras_h5 import LayerArrays, assign_weights, load_facenet, read_keras_h5
from kiosk.errors import InputError

pytestmark = pytest.mark.convert

Stored = dict[str, dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def stored() -> Stored:
    """Random weights of a 128-d network, by layer and array name."""
    model = build_inception_resnet_v1(128)
    random = np.random.default_rng(1)

    def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
        # Kernels as they are initialised, statistics near those of a standardized layer: activations stay bounded.
        if name == "kernel":
            return random.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape).astype(np.float32)
        return random.uniform(0.5, 1, shape).astype(np.float32)

    return {
        layer.name: {weight.name: values(weight.name, tuple(weight.shape)) for weight in layer.weights}
        for layer in model.layers
        if layer.weights
    }


def write_h5(path: Path, stored: Stored, *, root: str = "/", rename: Callable[[str], str] = str) -> Path:
    """The layout of Keras 2 ``save_weights``, weightless layers included."""
    import h5py

    with h5py.File(path, "w") as file:
        group = file.require_group(root)
        layers = ["input_1", *stored]
        group.attrs["layer_names"] = [rename(name).encode() for name in layers]
        for layer in layers:
            arrays = stored.get(layer, {})
            own = group.create_group(rename(layer))
            names = [f"{rename(layer)}/{name}:0" for name in arrays]
            own.attrs["weight_names"] = [name.encode() for name in names]
            for name, array in zip(names, arrays.values(), strict=True):
                own[name] = array
    return path


@pytest.fixture(scope="module")
def good_file(stored: Stored, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_h5(tmp_path_factory.mktemp("weights") / "good.h5", stored)


@pytest.fixture(scope="module")
def model(good_file: Path) -> Any:
    return load_facenet(good_file, 128)


def assert_filled_from(model: Any, stored: Stored) -> None:
    scales = residual_scales()
    for layer in model.layers:
        for weight in layer.weights:
            expected = stored[layer.name][weight.name] * np.float32(scales.get(layer.name, 1))
            np.testing.assert_array_equal(np.asarray(weight), expected)


def test_every_array_lands_in_its_layer(stored: Stored, model: Any) -> None:
    assert_filled_from(model, stored)
    assert model.output_shape == (None, 128)
    assert model.count_params() == 22_808_144


def test_residual_scales_are_those_of_the_published_network() -> None:
    scales = residual_scales()
    assert len(scales) == 20
    assert scales["Block35_5_Conv2d_1x1"] == 0.17
    assert scales["Block17_10_Conv2d_1x1"] == 0.1
    assert scales["Block8_5_Conv2d_1x1"] == 0.2
    assert "Block8_6_Conv2d_1x1" not in scales


def test_folded_scale_is_the_scaled_residual(stored: Stored, model: Any) -> None:
    """relu(x + scale · conv(branches)), computed apart from the network's own last convolution."""
    import keras

    taps = [model.get_layer(f"Block35_1_{name}").output for name in ("Concatenate", "Activation")]
    before = model.get_layer("Conv2d_4b_3x3_Activation").output
    image = np.random.default_rng(2).normal(size=(1, 160, 160, 3)).astype(np.float32)
    x, mixed, after = (np.asarray(value) for value in keras.Model(model.input, [before, *taps])(image))
    arrays = stored["Block35_1_Conv2d_1x1"]
    expected = np.maximum(x + 0.17 * (mixed @ arrays["kernel"][0, 0] + arrays["bias"]), 0)
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max()))


def test_whole_model_file(stored: Stored, tmp_path: Path) -> None:
    path = write_h5(tmp_path / "model.h5", stored, root="model_weights")
    for layer in read_keras_h5(path):
        for name, array in stored[layer.name].items():
            np.testing.assert_array_equal(layer.arrays[name], array)


def test_other_layer_names_are_matched_by_order(stored: Stored, tmp_path: Path) -> None:
    path = write_h5(tmp_path / "renamed.h5", stored, rename=lambda name: f"facenet_{name.lower()}")
    assert_filled_from(load_facenet(path, 128), stored)


def test_real_file_of_the_deepface_layout(shared: Path) -> None:
    model = load_facenet(shared / "weights" / "facenet512_weights.h5", 512)
    assert model.output_shape == (None, 512)
    assert model.count_params() == 23_497_424


def test_width_of_another_build(good_file: Path) -> None:
    with pytest.raises(InputError, match="holds a 128-d network, not 512-d"):
        load_facenet(good_file, 512)


def without(stored: Stored, layer: str) -> Stored:
    return {name: arrays for name, arrays in stored.items() if name != layer}


def with_array(stored: Stored, layer: str, name: str, array: np.ndarray) -> Stored:
    return {**stored, layer: {**stored[layer], name: array}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "Block17_3_Conv2d_1x1"), "1 of its 245 layers are missing, first Block17_3_Conv2d_1x1"),
        (lambda s: {"Bottleneck": s["Bottleneck"]}, "244 of its 245 layers are missing"),
        (
            lambda s: with_array(s, "Conv2d_1a_3x3", "kernel", np.zeros((3, 3, 3, 64), np.float32)),
            r"layer Conv2d_1a_3x3: kernel: shape \(3, 3, 3, 64\), the network needs \(3, 3, 3, 32\)",
        ),
        (
            lambda s: with_array(s, "Bottleneck_BatchNorm", "beta", np.full(128, np.nan, np.float32)),
            "layer Bottleneck_BatchNorm: beta: values that are no numbers",
        ),
        (
            lambda s: with_array(s, "Conv2d_1a_3x3", "bias", np.zeros(32, np.float32)),
            "layer Conv2d_1a_3x3: unexpected bias",
        ),
    ],
)
def test_layers_of_other_networks_change_nothing(
    stored: Stored, model: Any, change: Callable[[Stored], Stored], message: str
) -> None:
    layers = [LayerArrays(name, arrays) for name, arrays in change(stored).items()]
    with pytest.raises(InputError, match=message):
        assign_weights(model, layers, Path("other.h5"), scales={})
    assert_filled_from(model, stored)


@pytest.mark.parametrize(("layers", "message"), [(["Conv2d_1a_3x3"], "no bottleneck layer"), ([], "holds no weights")])
def test_files_of_other_networks(stored: Stored, tmp_path: Path, layers: list[str], message: str) -> None:
    path = write_h5(tmp_path / "other.h5", {name: stored[name] for name in layers})
    with pytest.raises(InputError, match=message):
        load_facenet(path, 128)


def test_truncated_file(good_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.h5"
    shutil.copy(good_file, path)
    with path.open("r+b") as file:
        file.truncate(good_file.stat().st_size // 2)
    with pytest.raises(InputError, match=r"cut.h5: not a readable HDF5 weights file \(.*\); fetch it again"):
        load_facenet(path, 128)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><title>404</title>", b"\x89HDF\r\n\x1a\n" + b"\0" * 500])
def test_files_that_are_no_hdf5(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "page.h5"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a readable HDF5 weights file"):
        read_keras_h5(path)


def test_hdf5_of_another_layout(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "new.h5", "w") as file:
        file["layers/conv2d/vars/0"] = np.zeros(3)
    with pytest.raises(InputError, match="not in the layout of Keras 2"):
        read_keras_h5(tmp_path / "new.h5")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such weights file"):
        read_keras_h5(tmp_path / "none.h5")


def test_split_name_lists(tmp_path: Path, stored: Stored) -> None:
    """Keras splits a list attribute above 64 KiB into numbered parts."""
    import h5py

    path = write_h5(tmp_path / "split.h5", {"Bottleneck": stored["Bottleneck"]})
    with h5py.File(path, "r+") as file:
        names = list(file.attrs["layer_names"])
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:1], names[1:]
    assert [layer.name for layer in read_keras_h5(path)] == ["Bottleneck"]
