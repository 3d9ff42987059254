"""Reads the HDF5 layout of Keras 2 (`save_weights`, or a whole model's `model_weights`) and fills a network with it.

Only arrays are read: no configuration and no code of the file is ever run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert.equalization import equalize
from convert.inception_resnet_v1 import (
    BATCH_NORM_EPSILON,
    BOTTLENECK,
    build_inception_resnet_v1,
    residual_scales,
    seams,
)
from convert.quiet import Model
from kiosk.errors import InputError

Array = NDArray[np.float32]
# Of untyped packages: a keras layer, an h5py group, its attributes.
Layer = Any
Group = Any
Attributes = Any


@dataclass(frozen=True, slots=True)
class LayerArrays:
    """The arrays of one layer, by short name (kernel, bias, beta, gamma, moving_mean, moving_variance)."""

    name: str
    arrays: dict[str, Array] = field(default_factory=dict)


def load_equalized_facenet(path: Path, expected_dim: int) -> Model:
    """Like :func:`load_facenet`: the same function, with weights that lose less when they are quantized."""
    model = load_facenet(path, expected_dim)
    equalize(model, seams(), BATCH_NORM_EPSILON)
    return model


def load_facenet(path: Path, expected_dim: int) -> Model:
    """Inception-ResNet-v1 with the file's weights.

    Raises:
        InputError: not such a file, damaged, or shapes that do not fit.
    """
    stored = read_keras_h5(path)
    dim = _embedding_dim(path, stored)
    if dim != expected_dim:
        raise InputError(f"{path}: holds a {dim}-d network, not {expected_dim}-d; build the one its width names")
    model = build_inception_resnet_v1(dim)
    assign_weights(model, stored, path, scales=residual_scales())
    return model


def read_keras_h5(path: Path) -> list[LayerArrays]:
    """All layers with weights, in the file's order. A nested model's layers come out flat.

    Raises:
        InputError: the file is missing, truncated, no HDF5, or of another layout.
    """
    import h5py

    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    try:
        with h5py.File(path, "r") as file:
            return _read_layers(file.get("model_weights", file), path)
    # h5py raises any of these for a damaged file, depending on where the damage lies.
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).split("\n", 1)[0].strip("\"'")
        raise InputError(f"{path}: not a readable HDF5 weights file ({reason}); fetch it again") from error


def assign_weights(model: Model, stored: list[LayerArrays], path: Path, *, scales: Mapping[str, float]) -> None:
    """Fill the model: layers are matched by name or, where the file names them otherwise, by their order.

    Every array's shape and finiteness is checked before any layer is touched. ``scales`` multiplies a layer's
    arrays.

    Raises:
        InputError: a layer is missing, or an array does not fit.
    """
    wanted = [layer for layer in model.layers if layer.weights]
    pairs = _match_layers(wanted, stored, path)
    values = [_fitting_arrays(layer, found, path, scales.get(layer.name, 1.0)) for layer, found in pairs]
    for (layer, _), arrays in zip(pairs, values, strict=True):
        layer.set_weights(arrays)


def _read_layers(root: Group, path: Path) -> list[LayerArrays]:
    names = _text_list(root.attrs, "layer_names")
    if not names:
        raise InputError(f"{path}: HDF5, but not in the layout of Keras 2 `save_weights` (no layer_names)")
    layers: dict[str, LayerArrays] = {}
    for group_name in names:
        group = root[group_name]
        for weight_name in _text_list(group.attrs, "weight_names"):
            owner, _, short = weight_name.rpartition("/")
            layer_name = owner.rpartition("/")[2] or group_name
            array = np.asarray(group[weight_name][()], np.float32)
            layers.setdefault(layer_name, LayerArrays(layer_name)).arrays[short.split(":")[0]] = array
    if not layers:
        raise InputError(f"{path}: holds no weights")
    return list(layers.values())


def _text_list(attributes: Attributes, key: str) -> list[str]:
    """A list attribute; Keras splits one of more than 64 KiB into key0, key1, …"""
    parts = [attributes[key]] if key in attributes else []
    for index in count():
        if f"{key}{index}" not in attributes:
            break
        parts.append(attributes[f"{key}{index}"])
    return [text.decode() if isinstance(text, bytes) else str(text) for part in parts for text in part]


def _embedding_dim(path: Path, stored: list[LayerArrays]) -> int:
    """The width of the bottleneck: of the layer of that name, else of the last dense layer."""
    dense = [layer for layer in stored if layer.arrays.get("kernel", np.empty(0)).ndim == 2]
    named = [layer for layer in dense if layer.name == BOTTLENECK] or dense[-1:]
    if not named:
        raise InputError(f"{path}: no bottleneck layer; this is not an Inception-ResNet-v1 with its embedding layer")
    return int(named[0].arrays["kernel"].shape[1])


def _match_layers(wanted: list[Layer], stored: list[LayerArrays], path: Path) -> list[tuple[Layer, LayerArrays]]:
    by_name = {layer.name: layer for layer in stored}
    missing = [layer.name for layer in wanted if layer.name not in by_name]
    if not missing:
        return [(layer, by_name[layer.name]) for layer in wanted]
    if len(missing) < len(wanted) or len(stored) != len(wanted):
        raise InputError(
            f"{path}: not Inception-ResNet-v1: {len(missing)} of its {len(wanted)} layers are missing, "
            f"first {missing[0]}"
        )
    return list(zip(wanted, stored, strict=True))


def _fitting_arrays(layer: Layer, found: LayerArrays, path: Path, scale: float) -> list[Array]:
    arrays = []
    for weight in layer.weights:
        array = found.arrays.get(weight.name)
        shape = tuple(weight.shape)
        if array is None or array.shape != shape:
            has = "no such array" if array is None else f"shape {array.shape}"
            raise InputError(f"{path}: layer {found.name}: {weight.name}: {has}, the network needs {shape}")
        if not np.isfinite(array).all():
            raise InputError(f"{path}: layer {found.name}: {weight.name}: values that are no numbers; fetch it again")
        arrays.append(array * np.float32(scale))
    if len(found.arrays) != len(arrays):
        extra = sorted(set(found.arrays) - {weight.name for weight in layer.weights})
        raise InputError(f"{path}: layer {found.name}: unexpected {', '.join(extra)}; another network's weights")
    return arrays
