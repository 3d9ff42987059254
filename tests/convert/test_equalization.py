"""Equalized weights: the same function, and an easier one to quantize."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convert.inception_resnet_v1 import BATCH_NORM_EPSILON, build_inception_resnet_v1, seams

pytestmark = pytest.mark.convert


@pytest.fixture(scope="module")
def model() -> Any:
    """Random weights, some input channels of every convolution a hundred times as large as the others."""
    model = build_inception_resnet_v1(128)
    random = np.random.default_rng(3)
    for layer in model.layers:
        if layer.__class__.__name__ == "Conv2D":
            kernel = np.asarray(layer.kernel).copy()
            kernel[:, :, ::7] *= 100
            layer.kernel.assign(kernel)
        if layer.__class__.__name__ == "BatchNormalization":
            layer.moving_variance.assign(random.uniform(0.5, 2, layer.moving_variance.shape))
            layer.beta.assign(random.uniform(-1, 1, layer.beta.shape))
            layer.moving_mean.assign(random.uniform(-1, 1, layer.moving_mean.shape))
    return model


def unevenness(model: Any, name: str) -> float:
    """How far apart the largest weights of the input channels are."""
    largest = np.abs(np.asarray(model.get_layer(name).kernel)).max(axis=(0, 1, 3))
    return float(largest.max() / np.median(largest))


def test_function_stays_and_weights_become_even(model: Any) -> None:
    from convert.equalization import equalize

    image = np.random.default_rng(4).normal(size=(2, 160, 160, 3)).astype(np.float32)
    before = np.asarray(model(image))
    consumers = [seam.consumer for seam in seams()]
    uneven = [unevenness(model, name) for name in consumers]
    equalize(model, seams(), BATCH_NORM_EPSILON)
    np.testing.assert_allclose(np.asarray(model(image)), before, rtol=1e-3, atol=1e-3 * float(np.abs(before).max()))
    assert all(unevenness(model, name) < 0.5 * was for name, was in zip(consumers, uneven, strict=True))


def test_seams_cover_the_stem_every_branch_and_every_residual_block() -> None:
    found = seams()
    assert found[0] == type(found[0])(("Conv2d_1a_3x3",), "Conv2d_2a_3x3")
    # 5 of the stem; per residual block 3, 2 or 2 within the branches and 1 where they join; 2 and 4 of the reductions.
    assert len(found) == 5 + 5 * (3 + 1) + 10 * (2 + 1) + 6 * (2 + 1) + 2 + 4
    assert len({seam.producers for seam in found}) == len(found)
