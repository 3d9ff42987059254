"""An ONNX file with YuNet's inputs and outputs that "detects" bright spots: what OpenCV's class can be run with.

Each cell of the strides 8, 16 and 32 has YuNet's outputs; their scores rise with the cell's brightness, its box and
landmarks are constants. The file is a protocol buffer, written field by field (onnx.proto3).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

STRIDES = (8, 16, 32)
BOX_STRIDES = (0.5, 0.5, 4.0, 5.0)
"""Box centre from the cell's corner, width and height, in strides."""
LANDMARK_STRIDES = (-0.5, -1.0, 1.5, -1.0, 0.5, 0.5, -0.25, 1.5, 1.25, 1.5)
"""Right eye, left eye, nose tip, right and left corner of the mouth, from the cell's corner, in strides."""

_FLOAT, _INT64 = 1, 7
_ATTRIBUTE_INTS = 7


def write_network(path: Path) -> None:
    """A bright cell (above about 235 of 255) of stride 16 scores over 0.9; cells of other strides never do."""
    nodes, constants = b"", b""
    for stride in STRIDES:
        silent = stride != 16
        heads = {
            "cls": ([0.0], 10.0),
            "obj": ([-100.0 if silent else -50.0], 0.0 if silent else 70.0 / 255 / 3),
            "bbox": ([*BOX_STRIDES[:2], *np.log(BOX_STRIDES[2:])], 0.0),
            "kps": (LANDMARK_STRIDES, 0.0),
        }
        nodes += _node("AveragePool", ["input"], f"pool{stride}", kernel_shape=(stride, stride), strides=(stride,) * 2)
        for name, (bias, gain) in heads.items():
            nodes += _head(f"{name}_{stride}", f"pool{stride}", scores=name in {"cls", "obj"})
            constants += _constants(f"{name}_{stride}", bias, gain)
    outputs = b"".join(
        _bytes(12, _value(f"{name}_{stride}", (1, -1, width)))
        for name, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10))
        for stride in STRIDES
    )
    graph = nodes + _bytes(2, b"spots") + constants + _bytes(11, _value("input", (1, 3, 320, 320))) + outputs
    path.write_bytes(_number(1, 8) + _bytes(7, graph) + _bytes(8, _number(2, 11)))


def _head(name: str, source: str, *, scores: bool) -> bytes:
    """A 1×1 convolution, laid out as (1, cells, values); a sigmoid makes scores of them."""
    nodes = _node("Conv", [source, f"{name}.w", f"{name}.b"], f"{name}.conv", kernel_shape=(1, 1))
    nodes += _node("Transpose", [f"{name}.conv"], f"{name}.rows", perm=(0, 2, 3, 1))
    last = f"{name}.raw" if scores else name
    nodes += _node("Reshape", [f"{name}.rows", f"{name}.shape"], last)
    return nodes + (_node("Sigmoid", [last], name) if scores else b"")


def _constants(name: str, bias: Sequence[float], gain: float) -> bytes:
    width = len(bias)
    weights = np.full((width, 3, 1, 1), gain, np.float32)
    return (
        _tensor(f"{name}.w", weights)
        + _tensor(f"{name}.b", np.array(bias, np.float32))
        + _tensor(f"{name}.shape", np.array([1, -1, width], np.int64))
    )


def _node(kind: str, inputs: Iterable[str], output: str, **attributes: Sequence[int]) -> bytes:
    content = b"".join(_bytes(1, name.encode()) for name in inputs) + _bytes(2, output.encode())
    content += _bytes(4, kind.encode())
    for name, numbers in attributes.items():
        values = b"".join(_number(8, number) for number in numbers)
        content += _bytes(5, _bytes(1, name.encode()) + values + _number(20, _ATTRIBUTE_INTS))
    return _bytes(1, content)


def _tensor(name: str, values: np.ndarray) -> bytes:
    kind = _INT64 if values.dtype == np.int64 else _FLOAT
    dimensions = b"".join(_number(1, size) for size in values.shape)
    return _bytes(5, dimensions + _number(2, kind) + _bytes(8, name.encode()) + _bytes(9, values.tobytes()))


def _value(name: str, shape: Sequence[int]) -> bytes:
    sizes = (_bytes(2, b"cells") if size < 0 else _number(1, size) for size in shape)
    dimensions = b"".join(_bytes(1, size) for size in sizes)
    kind = _bytes(1, _number(1, _FLOAT) + _bytes(2, dimensions))
    return _bytes(1, name.encode()) + _bytes(2, kind)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    encoded = b""
    while value > 0x7F:
        encoded += struct.pack("B", value & 0x7F | 0x80)
        value >>= 7
    return encoded + struct.pack("B", value)
