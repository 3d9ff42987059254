"""From an aligned crop to the numbers a network expects. Each way has a name that the model's manifest records."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kiosk.biometrics import Image

Tensor = NDArray[np.float32]

# Mean colour (RGB) of dlib's face recognition network, subtracted before the division by 256
# (dlib/dnn/input.h, input_rgb_image_sized).
_DLIB_MEAN_RGB = np.array([122.782, 117.001, 104.298], np.float32)


def preprocess(crop: Image, name: str) -> Tensor:
    """Standardize a BGR crop (size, size, 3) to float32 RGB of the same shape.

    ``fixed-127.5-128``: (x - 127.5) / 128, the 2018 FaceNet weights' way. ``per-image-whitening``: zero mean, unit
    variance per image, the 2017 weights' way. ``dlib-mean-256``: (x - mean colour) / 256.
    """
    rgb = crop[..., ::-1].astype(np.float32)
    match name:
        case "fixed-127.5-128":
            rgb -= 127.5
            rgb *= 1 / 128
        case "per-image-whitening":
            # The floor keeps an even image from dividing by zero (TensorFlow's per_image_standardization).
            rgb -= rgb.mean()
            rgb /= max(float(rgb.std()), 1.0 / float(rgb.size) ** 0.5)
        case "dlib-mean-256":
            rgb -= _DLIB_MEAN_RGB
            rgb *= 1 / 256
        case _:
            raise ValueError(f"unknown preprocessing {name!r}")
    return rgb
