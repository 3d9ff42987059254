import math

import numpy as np
import pytest

from kiosk.biometrics import ModelId, SubjectId, Template
from kiosk.bundle import BUILT_IN, BUILT_IN_BUNDLE, Bundle, read_bundle
from kiosk.config import Config
from kiosk.gallery import Gallery
from kiosk.pipeline import build_rule

MODEL = ModelId("m@000001")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return read_bundle(BUILT_IN / BUILT_IN_BUNDLE)


@pytest.fixture
def gallery() -> Gallery:
    return Gallery(
        MODEL, [Template(SubjectId(f"s{i}"), MODEL, row) for i, row in enumerate(np.eye(8, dtype=np.float32))]
    )


def configured(**match: object) -> Config:
    return Config.model_validate({"match": match})


def test_a_decisive_score_is_one_that_ten_times_fewer_strangers_reach(bundle: Bundle, gallery: Gallery) -> None:
    rule = build_rule(configured(fpir=0.01), bundle, gallery)
    assert rule.decisive == build_rule(configured(fpir=0.001), bundle, gallery).threshold > rule.threshold


def test_a_threshold_of_ones_own_knows_no_decisive_score(bundle: Bundle, gallery: Gallery) -> None:
    rule = build_rule(configured(threshold=0.95), bundle, gallery)
    assert (rule.threshold, rule.decisive) == (0.95, math.inf)
