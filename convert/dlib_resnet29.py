"""dlib's face recognition network (ResNet-29, 128-d) in Keras, with the weights of its `.dat` file."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert.quiet import Keras, Model, import_keras
from kiosk.errors import InputError

INPUT_SIZE_PX = 150
EMBEDDING_DIM = 128

Array = NDArray[np.float32]
Tensor = Any

# Filters of each residual block, and whether it halves the size (dlib's dnn_face_recognition_ex.cpp, input first).
_BLOCKS = (
    *((32, False),) * 3,
    (64, True), *((64, False),) * 3,
    (128, True), *((128, False),) * 2,
    (256, True), *((256, False),) * 2,
    (256, True),
)  # fmt: skip
_CONVOLUTIONS = 1 + 2 * len(_BLOCKS)
_RECORD = re.compile(rb"\x01[\x04-\x07](con_4|affine_|fc_2)")


@dataclass(frozen=True, slots=True)
class Weights:
    """Convolutions in network order as (kernel (h, w, in, out), bias (out,)), with the affine layers folded in.

    ``projection``: the final matrix, shape (256, 128).
    """

    convolutions: list[tuple[Array, Array]]
    projection: Array


def load_dlib_resnet29(path: Path, expected_dim: int = EMBEDDING_DIM) -> Model:
    """The network: (n, 150, 150, 3) float32 RGB in, (n, 128) out, not normalised.

    Raises:
        InputError: the file is not dlib's face recognition network, or damaged.
    """
    weights = read_dat(path)
    model = _build(weights.projection.shape[1])
    convolutions = [layer for layer in model.layers if layer.name.startswith("conv_")]
    for layer, (kernel, bias) in zip(convolutions, weights.convolutions, strict=True):
        if tuple(layer.kernel.shape) != kernel.shape:
            raise InputError(f"{path}: {layer.name} has shape {kernel.shape}, the network needs {layer.kernel.shape}")
        layer.set_weights([kernel, bias])
    projection = model.get_layer("projection")
    if tuple(projection.kernel.shape) != weights.projection.shape or weights.projection.shape[1] != expected_dim:
        raise InputError(f"{path}: last layer has shape {weights.projection.shape}, not (256, {expected_dim})")
    projection.set_weights([weights.projection])
    return model


def read_dat(path: Path) -> Weights:
    """Read dlib's serialization: tagged records in input-to-output order.

    Raises:
        InputError: missing, truncated or another kind of file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return _parse(data)
    except (struct.error, ValueError, IndexError) as error:
        raise InputError(
            f"{path}: not dlib's face recognition network, or damaged ({error}); fetch it again"
        ) from error


def _parse(data: bytes) -> Weights:
    records = [(match[1], match.end()) for match in _RECORD.finditer(data)]
    expected = [b"con_4", b"affine_"] * _CONVOLUTIONS + [b"fc_2"]
    if [tag for tag, _ in records] != expected:
        raise ValueError(f"{len(records)} layer records, {len(expected)} expected")
    convolutions = []
    channels = 3
    for (_, conv_at), (_, affine_at) in zip(records[0:-1:2], records[1:-1:2], strict=True):
        kernel, bias = _convolution(data, conv_at, channels)
        affine, _ = _tensor(data, affine_at)
        gamma, beta = affine.reshape(2, -1)
        convolutions.append((kernel * gamma, bias * gamma + beta))
        channels = kernel.shape[3]
    return Weights(convolutions, _projection(data, records[-1][1]))


def _convolution(data: bytes, at: int, channels: int) -> tuple[Array, Array]:
    """Kernel as (h, w, in, out) and bias; stored as one vector: filters (out, in, h, w), then biases."""
    values, at = _tensor(data, at)
    filters, at = _integer(data, at)
    rows, at = _integer(data, at)
    columns, at = _integer(data, at)
    count = filters * channels * rows * columns
    if values.size != count + filters:
        raise ValueError(f"a convolution of {values.size} values, {count + filters} expected")
    flat = values.ravel()
    kernel = flat[:count].reshape(filters, channels, rows, columns).transpose(2, 3, 1, 0)
    return kernel, flat[count:]


def _projection(data: bytes, at: int) -> Array:
    outputs, at = _integer(data, at)
    inputs, at = _integer(data, at)
    values, _ = _tensor(data, at)
    return values.reshape(inputs, outputs)


def _tensor(data: bytes, at: int) -> tuple[Array, int]:
    version, at = _integer(data, at)
    if version != 2:
        raise ValueError(f"tensor version {version}")
    shape = []
    for _ in range(4):
        size, at = _integer(data, at)
        shape.append(size)
    end = at + 4 * int(np.prod(shape))
    if end > len(data):
        raise ValueError("ends early")
    values = np.frombuffer(data[at:end], "<f4").reshape(shape).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("values that are no numbers")
    return values, end


def _integer(data: bytes, at: int) -> tuple[int, int]:
    """Packed integer: a byte with the length (low four bits) and the sign (high bit), then the value."""
    length = data[at] & 0x0F
    if not 1 <= length <= 8 or data[at] & 0x80:
        raise ValueError(f"no packed integer at byte {at}")
    return int.from_bytes(data[at + 1 : at + 1 + length], "little"), at + 1 + length


def _build(embedding_dim: int) -> Model:
    keras = import_keras()
    layers = keras.layers
    image = keras.Input((INPUT_SIZE_PX, INPUT_SIZE_PX, 3), name="face")
    x = layers.Conv2D(32, 7, strides=2, padding="valid", activation="relu", name="conv_0")(image)
    x = layers.MaxPooling2D(3, strides=2, padding="valid")(x)
    for index, (filters, halve) in enumerate(_BLOCKS):
        x = _residual_block(keras, x, filters, 2 * index + 1, halve=halve)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(embedding_dim, use_bias=False, name="projection")(x)
    return keras.Model(image, x, name="dlib_resnet29")


def _residual_block(keras: Keras, x: Tensor, filters: int, number: int, *, halve: bool) -> Tensor:
    layers = keras.layers
    # dlib pads its convolutions only where they keep the size.
    first = {"strides": 2, "padding": "valid"} if halve else {"padding": "same"}
    y = layers.Conv2D(filters, 3, activation="relu", name=f"conv_{number}", **first)(x)
    y = layers.Conv2D(filters, 3, padding="same", name=f"conv_{number + 1}")(y)
    if halve:
        x = layers.AveragePooling2D(2, strides=2, padding="valid")(x)
    x, y = _grow(keras, x, y.shape), _grow(keras, y, x.shape)
    return layers.ReLU()(layers.Add()([x, y]))


def _grow(keras: Keras, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros at the bottom, on the right and in new channels until x is at least as large as ``shape``.

    dlib adds tensors of different sizes that way.
    """
    padding = [(0, max(wanted - have, 0)) for wanted, have in zip(shape[1:], x.shape[1:], strict=True)]
    return keras.ops.pad(x, [(0, 0), *padding]) if any(after for _, after in padding) else x
