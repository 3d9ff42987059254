"""Weights that round well: channels are rescaled between two layers so that the network computes the same.

What a ReLU passes on may be divided by a positive number if the next layer's weights are multiplied by it (Nagel et
al., Data-Free Quantization Through Weight Equalization and Bias Correction, arXiv:1906.04721). A convolution's weights
share one scale per output channel and its inputs one for all channels, so a channel with large weights and small values
costs all the others their precision.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert.quiet import Model

Layer = Any
"""A keras.Layer."""

Array = NDArray[np.float32]

# Batch normalisation gives every channel the spread 1 around its beta: almost all values lie below this many above it.
_SPREADS = 3.0
# No channel is trusted to be larger or smaller than the others by more than this.
_LIMIT = 8.0


@dataclass(frozen=True, slots=True)
class Seam:
    """Convolutions, each followed by batch normalisation without gamma and ReLU, whose channels side by side are the
    input of ``consumer`` and of nothing else; pooling may stand between. All are layer names.
    """

    producers: tuple[str, ...]
    consumer: str


def equalize(model: Model, seams: Iterable[Seam], epsilon: float) -> None:
    """Rescale the channels at every seam, in place. ``epsilon``: that of the batch normalisations."""
    for seam in seams:
        norms = [model.get_layer(f"{name}_BatchNorm") for name in seam.producers]
        consumer = model.get_layer(seam.consumer)
        largest = np.concatenate([np.asarray(norm.beta) for norm in norms]) + _SPREADS
        factors = _factors(np.maximum(largest, 0.1), _folded(model, consumer, epsilon))
        consumer.kernel.assign(np.asarray(consumer.kernel) * factors[:, np.newaxis])
        ends = np.cumsum([norm.beta.shape[0] for norm in norms])[:-1]
        for name, norm, own in zip(seam.producers, norms, np.split(factors, ends), strict=True):
            for variable in (model.get_layer(name).kernel, norm.moving_mean, norm.beta):
                variable.assign(np.asarray(variable) / own)


def _factors(largest: Array, kernel: Array) -> Array:
    """Per input channel of the kernel (h, w, in, out): what its values are divided by and its weights multiplied by.

    The root of the quotient makes both equally uneven, as the publication does with two layers' weights.
    """
    weights = np.abs(kernel).max(axis=(0, 1, 3))
    factors = np.sqrt(largest / np.maximum(weights, weights.max() * 1e-3 + 1e-12))
    factors = np.clip(factors / np.exp(np.log(factors).mean()), 1 / _LIMIT, _LIMIT)
    return np.asarray(factors, np.float32)


def _folded(model: Model, consumer: Layer, epsilon: float) -> Array:
    """The consumer's kernel as the converter will quantize it: divided by the spread its batch normalisation divides
    by, where one follows.
    """
    kernel = np.asarray(consumer.kernel)
    followers = {layer.name: layer for layer in model.layers}
    norm = followers.get(f"{consumer.name}_BatchNorm")
    spread: Array = np.sqrt(np.asarray(norm.moving_variance) + epsilon) if norm else np.ones(1, np.float32)
    return np.asarray(kernel / spread, np.float32)
