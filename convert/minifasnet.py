"""MiniFASNet (V2 and V1SE: presentation attack detection, 3 classes) in Keras, with the weights of its `.pth` file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert.quiet import Keras, Model, import_keras
from convert.torch_pth import Array, read_pth
from kiosk.errors import InputError

INPUT_SIZE_PX = 80
CLASSES = 3

BATCH_NORM_EPSILON = 1e-5
"""PyTorch's default, which the published network keeps."""

Tensor = Any
Precise = NDArray[np.float64]

# Bottlenecks, input first, after the published MiniFASNet.py: name, how many in a row, strides. Those with strides 2
# change the number of channels, the others add their input. How wide each layer is, the weights say.
_STAGES = (
    ("conv_23", 0, 2),
    ("conv_3.model", 4, 1),
    ("conv_34", 0, 2),
    ("conv_4.model", 6, 1),
    ("conv_45", 0, 2),
    ("conv_5.model", 2, 1),
)


def load_minifasnet(path: Path) -> Model:
    """The network: (n, 80, 80, 3) float32 BGR of 0-255 in, (n, 3) logits out; class 1 is a live face.

    Batch normalisation is folded into the convolutions. After the last convolution all is linear (dropout does nothing
    outside training): two dense layers and a batch normalisation are multiplied out to one dense layer.

    Raises:
        InputError: the file holds no MiniFASNet, or is damaged.
    """
    tensors = read_pth(path)
    network = _Network(tensors)
    try:
        model = network.build()
    except KeyError as error:
        raise InputError(f"{path}: no MiniFASNet: it has no {error.args[0]}") from error
    except ValueError as error:
        raise InputError(f"{path}: no MiniFASNet for {INPUT_SIZE_PX} × {INPUT_SIZE_PX} pixels: {error}") from error
    unused = [name for name in tensors if name not in network.used]
    if unused:
        raise InputError(f"{path}: another network than MiniFASNet: nothing of ours uses {unused[0]}")
    return model


class _Network:
    """Layers from tensors, noting which were used."""

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self._tensors = tensors
        self._keras: Keras = import_keras()
        self._fillings: list[Callable[[], None]] = []
        self.used: set[str] = set()

    def build(self) -> Model:
        """
        Raises:
            KeyError: a tensor is missing.
            ValueError: a tensor has another shape than its place in the network.
        """
        layers = self._keras.layers
        image = self._keras.Input((INPUT_SIZE_PX, INPUT_SIZE_PX, 3), name="face")
        x = self._convolve(image, "conv1", strides=2)
        x = self._convolve(x, "conv2_dw")
        for name, strides in _bottlenecks():
            y = self._convolve(x, f"{name}.conv")
            y = self._convolve(y, f"{name}.conv_dw", strides=strides)
            y = self._convolve(y, f"{name}.project", activate=False)
            if f"{name}.se_module.fc1.weight" in self._tensors:
                y = self._weigh_channels(y, f"{name}.se_module")
            x = y if strides == 2 else layers.Add()([x, y])
        x = self._convolve(x, "conv_6_sep")
        x = self._convolve(x, "conv_6_dw", activate=False, padding="valid")
        x = self._classify(layers.Flatten()(x))
        model = self._keras.Model(image, x, name="minifasnet")
        for fill in self._fillings:
            fill()
        return model

    def _convolve(
        self, x: Tensor, name: str, *, strides: int = 1, activate: bool = True, padding: str = "same"
    ) -> Tensor:
        layers = self._keras.layers
        kernel, bias = self._fold(f"{name}.conv", f"{name}.bn")
        if strides == 2:
            # PyTorch pads all four sides alike, Keras only two where it halves an even size.
            x, padding = layers.ZeroPadding2D(1)(x), "valid"
        # Filters of one input channel each.
        if kernel.shape[1] == 1 and x.shape[-1] > 1:
            layer = layers.DepthwiseConv2D(kernel.shape[2:], strides=strides, padding=padding)
            x = self._apply(layer, x, [kernel.transpose(2, 3, 0, 1), bias])
        else:
            layer = layers.Conv2D(kernel.shape[0], kernel.shape[2:], strides=strides, padding=padding)
            x = self._apply(layer, x, [kernel.transpose(2, 3, 1, 0), bias])
        if not activate:
            return x
        slopes = self._take(f"{name}.prelu.weight").reshape(1, 1, -1)
        return self._apply(layers.PReLU(shared_axes=[1, 2]), x, [slopes])

    def _weigh_channels(self, x: Tensor, name: str) -> Tensor:
        """Squeeze and excitation: every channel times a number in 0-1 that all of them together decide."""
        layers = self._keras.layers
        y = layers.GlobalAveragePooling2D(keepdims=True)(x)
        for number, activation in ((1, "relu"), (2, "sigmoid")):
            kernel, bias = self._fold(f"{name}.fc{number}", f"{name}.bn{number}")
            layer = layers.Conv2D(kernel.shape[0], 1, activation=activation)
            y = self._apply(layer, y, [kernel.transpose(2, 3, 1, 0), bias])
        return layers.Multiply()([x, y])

    def _classify(self, x: Tensor) -> Tensor:
        embed, bias = self._fold("linear", "bn")
        classify = self._take("prob.weight").astype(np.float64)
        layer = self._keras.layers.Dense(CLASSES, name="classes")
        return self._apply(layer, x, [(classify @ embed).T, classify @ bias])

    def _fold(self, linear: str, normalisation: str) -> tuple[Precise, Precise]:
        """Weights and bias, in float64, of a layer followed by its batch normalisation."""
        weight = self._take(f"{linear}.weight").astype(np.float64)
        gamma, beta, mean, variance = (
            self._take(f"{normalisation}.{part}").astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        factor = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
        return weight * factor.reshape(-1, *[1] * (weight.ndim - 1)), beta - mean * factor

    def _apply(self, layer: Any, x: Tensor, weights: list[Any]) -> Tensor:  # noqa: ANN401 - a Keras layer
        y = layer(x)
        # Products of small numbers are denormal again, and slow.
        clean = [np.where(np.abs(weight) < np.finfo(np.float32).tiny, 0, weight) for weight in weights]
        self._fillings.append(lambda: layer.set_weights(clean))
        return y

    def _take(self, name: str) -> Array:
        self.used.add(name)
        return self._tensors[name]


def _bottlenecks() -> Iterator[tuple[str, int]]:
    for name, count, strides in _STAGES:
        yield from ((f"{name}.{index}", strides) for index in range(count)) if count else ((name, strides),)
