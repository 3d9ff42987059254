"""The gate on the sample photos: as they are they pass, spoiled they are rejected for what was done to them."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kiosk.advice import advise
from kiosk.biometrics import Box, Face, Image, Quality, Reason
from kiosk.config import Config
from kiosk.detector import BlazeFaceDetector, HaarDetector
from kiosk.opencv import cv2
from kiosk.photo import read_photo
from kiosk.pipeline import build_gate
from kiosk.quality import ENROLLMENT_GATE, PROBE_GATE, QualityGate, measure

SAMPLES = sorted((Path(__file__).parent.parent / "kiosk" / "data" / "samples").glob("*.jpg"))
GATES = pytest.mark.parametrize("gate", [PROBE_GATE, ENROLLMENT_GATE], ids=["probe", "enrollment"])


def names(path: Path) -> str:
    return path.stem


@pytest.fixture(scope="module")
def detector() -> BlazeFaceDetector:
    return BlazeFaceDetector()


@pytest.fixture(scope="module", params=SAMPLES, ids=names)
def photo(request: pytest.FixtureRequest, detector: BlazeFaceDetector) -> tuple[Image, Face]:
    image = read_photo(request.param)
    return image, detector.detect(image)[0]


def eyes_px(face: Face) -> float:
    assert face.landmarks is not None
    return float(np.linalg.norm(face.landmarks[1] - face.landmarks[0]))


def as_image(pixels: object) -> Image:
    return np.clip(np.asarray(pixels), 0, 255).astype(np.uint8)


def blurred(image: Image, face: Face, sigma: float) -> Image:
    """``sigma`` in eye distances."""
    return as_image(cv2.GaussianBlur(image, (0, 0), sigma * eyes_px(face)))


def moved(image: Image, face: Face) -> Image:
    """Half an eye distance sideways while the shutter was open."""
    return as_image(cv2.blur(image, (round(0.5 * eyes_px(face)), 1)))


def noisy(image: Image, sigma: float) -> Image:
    return as_image(image + np.random.default_rng(0).normal(0, sigma, image.shape))


def far(image: Image, face: Face, eyes: float) -> Image:
    scale = eyes / eyes_px(face)
    return as_image(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))


SPOILED: list[tuple[str, Reason, Callable[[Image, Face], Image]]] = [
    ("far", Reason.TOO_SMALL, lambda image, face: far(image, face, 8)),
    ("out of focus", Reason.BLURRED, lambda image, face: blurred(image, face, 0.1)),
    ("out of focus in bad light", Reason.BLURRED, lambda image, face: noisy(blurred(image, face, 0.1), 8)),
    ("moving", Reason.BLURRED, moved),
    ("dark", Reason.TOO_DARK, lambda image, _: noisy(as_image(image * 0.08), 2)),
    ("dazzled", Reason.TOO_BRIGHT, lambda image, _: as_image(image * 5.0)),
    ("fog", Reason.LOW_CONTRAST, lambda image, _: noisy(as_image(image * 0.08 + 150), 2)),
]


@GATES
def test_the_sample_photos_pass(photo: tuple[Image, Face], gate: QualityGate) -> None:
    quality = gate.assess(*photo)
    assert quality.failure is None
    assert quality.eye_distance_px == pytest.approx(eyes_px(photo[1]))
    assert quality.size_px == pytest.approx(photo[1].box.w, abs=1)
    assert quality.yaw == pytest.approx(0, abs=0.3)


@GATES
@pytest.mark.parametrize(("reason", "spoil"), [row[1:] for row in SPOILED], ids=[row[0] for row in SPOILED])
def test_a_spoiled_photo_is_rejected_for_what_was_done_to_it(
    photo: tuple[Image, Face],
    detector: BlazeFaceDetector,
    gate: QualityGate,
    reason: Reason,
    spoil: Callable[[Image, Face], Image],
) -> None:
    image = spoil(*photo)
    # At the door a picture so poor is often no face to the detector either.
    for face in detector.detect(image)[:1]:
        quality = gate.assess(image, face)
        assert quality.failure is reason
        assert advise(quality)


def test_the_detector_still_finds_most_spoiled_faces(detector: BlazeFaceDetector) -> None:
    """Otherwise the test above would say nothing."""
    for name, _, spoil in SPOILED:
        found = 0
        for path in SAMPLES:
            image = read_photo(path)
            found += bool(detector.detect(spoil(image, detector.detect(image)[0])))
        assert found >= 3, name


@pytest.mark.parametrize("eyes", [18.5, 25])
def test_a_small_face_that_is_sharp_enough_is_searched(
    photo: tuple[Image, Face], detector: BlazeFaceDetector, eyes: float
) -> None:
    image = far(*photo, eyes)
    assert PROBE_GATE.assess(image, detector.detect(image)[0]).failure is None


def test_enrollment_wants_more_than_the_door(photo: tuple[Image, Face], detector: BlazeFaceDetector) -> None:
    image = far(*photo, 16)
    quality = PROBE_GATE.assess(image, detector.detect(image)[0])
    assert quality.failure is None
    assert ENROLLMENT_GATE.failure(quality) is Reason.TOO_SMALL


def test_dark_glasses_lower_the_detectors_score(photo: tuple[Image, Face], detector: BlazeFaceDetector) -> None:
    image, face = photo
    assert face.landmarks is not None
    (left, top), (right, _) = face.landmarks[0], face.landmarks[1]
    d = eyes_px(face)
    covered = image.copy()
    corners = (int(left - 0.5 * d), int(top - 0.3 * d)), (int(right + 0.5 * d), int(top + 0.3 * d))
    cv2.rectangle(covered, *corners, (20, 20, 20), cv2.FILLED)
    seen = measure(covered, detector.detect(covered)[0])
    assert seen.detector_score is not None
    assert seen.detector_score < face.score
    unclear = replace(seen, sharpness=60.0, detector_score=0.6)
    assert PROBE_GATE.failure(unclear) is Reason.UNCLEAR


def test_a_head_turned_away_is_named(photo: tuple[Image, Face]) -> None:
    image, face = photo
    assert face.landmarks is not None
    landmarks = face.landmarks.copy()
    landmarks[2] = landmarks[1] + (landmarks[1] - landmarks[0]) * 0.4
    assert PROBE_GATE.assess(image, replace(face, landmarks=landmarks)).failure is Reason.TURNED


def test_real_heads_turned_away(shared: Path, detector: BlazeFaceDetector) -> None:
    images = shared / "data" / "lfw-view1" / "images"
    for name in ("Eddy_Merckx_0002", "George_Pataki_0002", "Richard_Myers_0003"):
        path = f"{name[:-5]}/{name}.jpg"
        image = read_photo(images / path)
        quality = ENROLLMENT_GATE.assess(image, detector.detect(image)[0])
        assert quality.failure is Reason.TURNED, (path, quality)


@pytest.mark.parametrize("box", [Box(-500, -500, 100, 100), Box(10_000, 0, 100, 100), Box(0, 0, 0, 0)])
def test_a_box_outside_the_image_is_no_error(photo: tuple[Image, Face], box: Box) -> None:
    assert PROBE_GATE.assess(photo[0], Face(box, 0.9)).failure is not None


def test_without_landmarks_the_box_tells_the_size(photo: tuple[Image, Face]) -> None:
    image, _ = photo
    for face in HaarDetector().detect(image)[:1]:
        boxed = measure(image, replace(face, landmarks=None))
        assert (boxed.yaw, boxed.pitch, boxed.detector_score) == (None, None, None)
        assert boxed.eye_distance_px == pytest.approx(eyes_px(photo[1]), rel=0.25)
        assert PROBE_GATE.failure(boxed) is None


@pytest.mark.parametrize(("points", "measured"), [(2, set()), (4, {"yaw"}), (6, {"yaw", "pitch", "detector_score"})])
def test_what_a_detectors_landmarks_allow_is_measured(
    photo: tuple[Image, Face], points: int, measured: set[str]
) -> None:
    image, face = photo
    assert face.landmarks is not None
    quality = measure(image, replace(face, landmarks=face.landmarks[:points]))
    assert {name for name in ("yaw", "pitch", "detector_score") if getattr(quality, name) is not None} == measured
    assert PROBE_GATE.failure(quality) is None


# What the measures promise


def test_blur_lowers_the_sharpness_step_by_step(photo: tuple[Image, Face]) -> None:
    image, face = photo
    measured = [measure(blurred(image, face, sigma), face).sharpness for sigma in (0.01, 0.03, 0.06, 0.1, 0.2)]
    assert measured == sorted(measured, reverse=True)
    assert measured[0] > 1.5 * measured[-1]


@pytest.mark.parametrize("sigma", [0.06, 0.1])
def test_noise_does_not_make_a_blurred_face_sharp(photo: tuple[Image, Face], sigma: float) -> None:
    """The variance of the Laplacian, the usual measure, calls such a face sharper than the unspoiled photo."""
    image, face = photo
    shrunk = far(image, face, 40)
    small = Face(Box(*(v * 40 / eyes_px(face) for v in (face.box.x, face.box.y, face.box.w, face.box.h))), face.score)
    spoiled = noisy(blurred(shrunk, replace(small, landmarks=scaled(face, 40)), sigma), 8)
    small = replace(small, landmarks=scaled(face, 40))
    assert measure(spoiled, small).sharpness < measure(shrunk, small).sharpness - 5
    laplacian = [cv2.Laplacian(part, cv2.CV_32F).var() for part in (crop(spoiled, small), crop(shrunk, small))]
    assert laplacian[0] > 0.3 * laplacian[1]


def scaled(face: Face, eyes: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    assert face.landmarks is not None
    return (face.landmarks * (eyes / eyes_px(face))).astype(np.float32)


def crop(image: Image, face: Face) -> Image:
    x, y, w, h = face.box.rounded()
    return image[max(y, 0) : y + h, max(x, 0) : x + w]


def test_size_and_contrast_leave_the_sharpness_alone(photo: tuple[Image, Face], detector: BlazeFaceDetector) -> None:
    image, face = photo
    sharpness = measure(image, face).sharpness
    assert measure(as_image(image * 0.5), face).sharpness == pytest.approx(sharpness, abs=1)
    smaller = far(image, face, 35)
    assert measure(smaller, detector.detect(smaller)[0]).sharpness == pytest.approx(sharpness, abs=6)


@given(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))),
    arrays.arrays(np.float32, (6, 2), elements=st.floats(-50, 90, width=32)),
)
def test_any_picture_can_be_measured(
    image: Image, landmarks: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> None:
    quality = measure(image, Face(Box(0, 0, 40, 40), 0.9, landmarks))
    assert 0 <= quality.sharpness <= 100
    assert 0 <= quality.brightness <= 255
    assert 0 <= (quality.contrast or 0) <= 128
    assert 0 <= (quality.clipped or 0) <= 1
    assert all(value is None or np.isfinite(value) for value in asdict(quality).values())


MEASURED = st.builds(
    Quality,
    size_px=st.floats(0, 500),
    sharpness=st.floats(0, 100),
    brightness=st.floats(0, 255),
    yaw=st.none() | st.floats(-2, 2),
    failure=st.none(),
    eye_distance_px=st.none() | st.floats(0, 200),
    contrast=st.none() | st.floats(0, 128),
    clipped=st.none() | st.floats(0, 1),
    pitch=st.none() | st.floats(-2, 2),
    detector_score=st.none() | st.floats(0, 1),
)


@given(MEASURED)
def test_what_may_be_enrolled_may_be_searched(quality: Quality) -> None:
    if ENROLLMENT_GATE.failure(quality) is None:
        assert PROBE_GATE.failure(quality) is None


@given(MEASURED)
def test_a_gate_without_limits_passes_everything(quality: Quality) -> None:
    off = QualityGate(0, 0, 0, 1, 0, float("inf"), float("inf"), 0)
    assert off.failure(quality) is None


# What the configuration sets


def face_section(**fields: object) -> Config:
    return Config.model_validate({"face": fields})


@GATES
def test_auto_is_as_measured(gate: QualityGate) -> None:
    assert build_gate(Config(), gate) == gate


@GATES
def test_numbers_hold_for_both_and_nought_is_off(gate: QualityGate) -> None:
    set_ = build_gate(face_section(min_eye_distance_px=33.0, min_sharpness=50.0, min_size_px=70), gate)
    assert (set_.min_eye_distance_px, set_.min_sharpness, set_.min_size_px) == (33, 50, 70)
    off = build_gate(face_section(min_eye_distance_px=0.0, min_sharpness=0.0), gate)
    assert off == replace(gate, min_eye_distance_px=0, min_sharpness=0)


def test_the_old_limit_of_the_box_still_works(photo: tuple[Image, Face]) -> None:
    width = round(photo[1].box.w)
    assert build_gate(face_section(min_size_px=width + 5), PROBE_GATE).assess(*photo).failure is Reason.TOO_SMALL
    assert build_gate(face_section(min_size_px=width - 5), PROBE_GATE).assess(*photo).failure is None
