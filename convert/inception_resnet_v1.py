"""FaceNet's Inception-ResNet-v1 in Keras: Szegedy et al. (arXiv:1602.07261), with FaceNet's bottleneck.

Layers carry the names under which the published weights are stored.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from convert.equalization import Seam
from convert.quiet import Model, import_keras

INPUT_SIZE_PX = 160
BOTTLENECK = "Bottleneck"
# tf.slim's value for this network; the weights were trained with it.
BATCH_NORM_EPSILON = 1e-3

Tensor = Any
Layers = Any
Conv = tuple[str, int, tuple[int, int]]
"""Name within its branch, filters, kernel size."""

_BRANCHES: dict[str, tuple[tuple[Conv, ...], ...]] = {
    "Block35": (
        (("Conv2d_1x1", 32, (1, 1)),),
        (("Conv2d_0a_1x1", 32, (1, 1)), ("Conv2d_0b_3x3", 32, (3, 3))),
        (("Conv2d_0a_1x1", 32, (1, 1)), ("Conv2d_0b_3x3", 32, (3, 3)), ("Conv2d_0c_3x3", 32, (3, 3))),
    ),
    "Block17": (
        (("Conv2d_1x1", 128, (1, 1)),),
        (("Conv2d_0a_1x1", 128, (1, 1)), ("Conv2d_0b_1x7", 128, (1, 7)), ("Conv2d_0c_7x1", 128, (7, 1))),
    ),
    "Block8": (
        (("Conv2d_1x1", 192, (1, 1)),),
        (("Conv2d_0a_1x1", 192, (1, 1)), ("Conv2d_0b_1x3", 192, (1, 3)), ("Conv2d_0c_3x1", 192, (3, 1))),
    ),
    # Reductions: the last convolution of each branch halves the size.
    "Mixed_6a": (
        (("Conv2d_1a_3x3", 384, (3, 3)),),
        (("Conv2d_0a_1x1", 192, (1, 1)), ("Conv2d_0b_3x3", 192, (3, 3)), ("Conv2d_1a_3x3", 256, (3, 3))),
    ),
    "Mixed_7a": (
        (("Conv2d_0a_1x1", 256, (1, 1)), ("Conv2d_1a_3x3", 384, (3, 3))),
        (("Conv2d_0a_1x1", 256, (1, 1)), ("Conv2d_1a_3x3", 256, (3, 3))),
        (("Conv2d_0a_1x1", 256, (1, 1)), ("Conv2d_0b_3x3", 256, (3, 3)), ("Conv2d_1a_3x3", 256, (3, 3))),
    ),
}
_BLOCKS = (("Block35", 5, 0.17), ("Block17", 10, 0.10), ("Block8", 5, 0.20))
_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "Conv2d_4b_3x3")


def residual_scales() -> dict[str, float]:
    """What each block's last convolution is multiplied by, per layer name.

    The network below has no layer for it: the loader multiplies kernel and bias, which is the same function with one
    operation and one quantization step less per block.
    """
    return {f"{kind}_{i}_Conv2d_1x1": scale for kind, count, scale in _BLOCKS for i in range(1, count + 1)}


def seams() -> list[Seam]:
    """Where the channels between two layers may be rescaled: along the stem, along each branch, and where a residual
    block's branches join; in the order of the computation.
    """
    found = _chain(_STEM)
    residual = [(f"{kind}_{i}", kind) for kind, count, _ in _BLOCKS for i in range(1, count + 1)]
    for prefix, kind in [*residual, ("Block8_6", "Block8"), ("Mixed_6a", "Mixed_6a"), ("Mixed_7a", "Mixed_7a")]:
        branches = [
            [f"{prefix}_Branch_{i}_{name}" for name, _, _ in convs] for i, convs in enumerate(_BRANCHES[kind])
        ]  # fmt: skip
        for branch in branches:
            found += _chain(branch)
        if kind in {name for name, _, _ in _BLOCKS}:
            found.append(Seam(tuple(branch[-1] for branch in branches), f"{prefix}_Conv2d_1x1"))
    return found


def _chain(names: Sequence[str]) -> list[Seam]:
    return [Seam((producer,), consumer) for producer, consumer in itertools.pairwise(names)]


def build_inception_resnet_v1(embedding_dim: int) -> Model:
    """The network without weights: (n, 160, 160, 3) float32 RGB in, (n, embedding_dim) out, not normalised."""
    keras = import_keras()
    layers = keras.layers
    image = keras.Input((INPUT_SIZE_PX, INPUT_SIZE_PX, 3), name="face")
    x = _stem(layers, image)
    x = _residual_blocks(layers, x, "Block35", 5)
    x = _reduction(layers, x, "Mixed_6a")
    x = _residual_blocks(layers, x, "Block17", 10)
    x = _reduction(layers, x, "Mixed_7a")
    x = _residual_blocks(layers, x, "Block8", 5)
    x = _residual_block(layers, x, "Block8", 6, activate=False)
    x = layers.GlobalAveragePooling2D(name="AvgPool")(x)
    x = layers.Dense(embedding_dim, use_bias=False, name=BOTTLENECK)(x)
    x = layers.BatchNormalization(epsilon=BATCH_NORM_EPSILON, scale=False, name=f"{BOTTLENECK}_BatchNorm")(x)
    return keras.Model(image, x, name="inception_resnet_v1")


def _stem(layers: Layers, x: Tensor) -> Tensor:
    x = _conv(layers, x, ("Conv2d_1a_3x3", 32, (3, 3)), strides=2, padding="valid")
    x = _conv(layers, x, ("Conv2d_2a_3x3", 32, (3, 3)), padding="valid")
    x = _conv(layers, x, ("Conv2d_2b_3x3", 64, (3, 3)))
    x = layers.MaxPooling2D(3, strides=2, name="MaxPool_3a_3x3")(x)
    x = _conv(layers, x, ("Conv2d_3b_1x1", 80, (1, 1)), padding="valid")
    x = _conv(layers, x, ("Conv2d_4a_3x3", 192, (3, 3)), padding="valid")
    return _conv(layers, x, ("Conv2d_4b_3x3", 256, (3, 3)), strides=2, padding="valid")


def _residual_blocks(layers: Layers, x: Tensor, kind: str, count: int) -> Tensor:
    for index in range(1, count + 1):
        x = _residual_block(layers, x, kind, index, activate=True)
    return x


def _residual_block(layers: Layers, x: Tensor, kind: str, index: int, *, activate: bool) -> Tensor:
    prefix = f"{kind}_{index}"
    branches = [_branch(layers, x, f"{prefix}_Branch_{i}", convs) for i, convs in enumerate(_BRANCHES[kind])]
    mixed = layers.Concatenate(name=f"{prefix}_Concatenate")(branches)
    up = layers.Conv2D(x.shape[-1], 1, padding="same", name=f"{prefix}_Conv2d_1x1")(mixed)
    x = layers.Add(name=f"{prefix}_Add")([x, up])
    return layers.ReLU(name=f"{prefix}_Activation")(x) if activate else x


def _reduction(layers: Layers, x: Tensor, name: str) -> Tensor:
    branches = [_branch(layers, x, f"{name}_Branch_{i}", convs, halve=True) for i, convs in enumerate(_BRANCHES[name])]
    branches.append(layers.MaxPooling2D(3, strides=2, name=f"{name}_Branch_{len(branches)}_MaxPool_1a_3x3")(x))
    return layers.Concatenate(name=name)(branches)


def _branch(layers: Layers, x: Tensor, prefix: str, convs: Sequence[Conv], *, halve: bool = False) -> Tensor:
    for position, (name, filters, kernel) in enumerate(convs, 1):
        last = halve and position == len(convs)
        conv = (f"{prefix}_{name}", filters, kernel)
        x = _conv(layers, x, conv, strides=2 if last else 1, padding="valid" if last else "same")
    return x


def _conv(layers: Layers, x: Tensor, conv: Conv, *, strides: int = 1, padding: str = "same") -> Tensor:
    name, filters, kernel = conv
    x = layers.Conv2D(filters, kernel, strides=strides, padding=padding, use_bias=False, name=name)(x)
    x = layers.BatchNormalization(epsilon=BATCH_NORM_EPSILON, scale=False, name=f"{name}_BatchNorm")(x)
    return layers.ReLU(name=f"{name}_Activation")(x)
