"""Keras network to `.tflite`, in the four variants a bundle can have."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    with output_logged(), warnings.catch_warnings():
        # That integers are given no statistics: input and output stay float.
        warnings.simplefilter("ignore")
        # Names end up in the file: given ones keep the same build byte for byte the same.
        face = keras.Input(batch_shape=(1, *model.input_shape[1:]), name="face")
        fixed = keras.Model(face, model(face, training=False), name=variant)
        converter = tf.lite.TFLiteConverter.from_keras_model(fixed)
        _configure(tf, converter, variant, samples)
        content: bytes = converter.convert()
    return content


def _configure(tf: ModuleType, converter: Converter, variant: Variant, samples: Sequence[NDArray[np.float32]]) -> None:
    if variant == "float32":
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if variant == "float16":
        converter.target_spec.supported_types = [tf.float16]
        return
    # Per-channel dense layers need FULLY_CONNECTED version 12, which tflite-runtime 2.14 refuses to load.
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True  # noqa: SLF001 - no public switch
    if variant == "int8":

        def representative() -> Iterator[list[NDArray[np.float32]]]:
            for sample in samples:
                yield [sample[np.newaxis]]

        converter.representative_dataset = representative
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.float32
        converter.inference_output_type = tf.float32
