"""Keras network to `.tflite`, in the four variants a bundle can have."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert.quantization import quantize
from convert.quiet import Model, import_keras, import_tensorflow, output_logged
from kiosk.bundle import Variant

Converter = Any
VARIANTS: tuple[Variant, ...] = ("float32", "float16", "dynamic", "int8")


def convert(model: Model, variant: Variant, samples: Sequence[NDArray[np.float32]]) -> bytes:
    """Convert a network with one image input (n, s, s, 3) to TFLite with batch size 1, float32 in and out.

    Batch normalisation is folded into the convolutions. The output stays the raw embedding: the runtime normalises.
    ``samples``: preprocessed crops (s, s, 3) that calibrate ``int8``; the other variants need none.
    """
    tf, keras = import_tensorflow(), import_keras()
    with output_logged():
        # Names end up in the file: given ones keep the same build byte for byte the same.
        face = keras.Input(batch_shape=(1, *model.input_shape[1:]), name="face")
        fixed = keras.Model(face, model(face, training=False), name=variant)
        converter = tf.lite.TFLiteConverter.from_keras_model(fixed)
        _configure(tf, converter, variant)
        content: bytes = converter.convert()
    return quantize(content, samples) if variant == "int8" else content


def _configure(tf: ModuleType, converter: Converter, variant: Variant) -> None:
    if variant in ("float32", "int8"):
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if variant == "float16":
        converter.target_spec.supported_types = [tf.float16]
        return
    # Per-channel dense layers need FULLY_CONNECTED version 12, which tflite-runtime 2.14 refuses to load.
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True  # noqa: SLF001 - no public switch
