"""QR badges before the camera: what is read, how often one counts, and what is passed over."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
import segno

from kiosk.badges import BadgeFinder
from kiosk.biometrics import Image
from kiosk.codes import new_token
from kiosk.opencv import cv2

TOKEN = "0123456789abcdef" * 2


def badge(text: str, side_px: int) -> Image:
    picture = io.BytesIO()
    segno.make_qr(text, error="Q").save(picture, kind="png", scale=10)
    image = cv2.imdecode(np.frombuffer(picture.getvalue(), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return cv2.resize(image, (side_px, side_px), interpolation=cv2.INTER_AREA).astype(np.uint8)


def room(text: str | None = None, side_px: int = 320, angle_deg: float = 10) -> Image:
    """A grey room at 1280 x 720 with noise, and a badge in it, a little turned."""
    canvas: Image = np.full((720, 1280, 3), 110, np.uint8)
    if text is not None:
        canvas[200 : 200 + side_px, 500 : 500 + side_px] = badge(text, side_px)
        turn = cv2.getRotationMatrix2D((640, 360), angle_deg, 1.0)
        canvas = cv2.warpAffine(canvas, turn, (1280, 720), borderMode=cv2.BORDER_REPLICATE).astype(np.uint8)
    noise = np.random.default_rng(1).normal(0, 4, canvas.shape)
    return np.clip(canvas + noise, 0, 255).astype(np.uint8)


def test_a_badge_of_ours_is_read_and_is_one_presentation() -> None:
    finder, picture, empty = BadgeFinder(), room(TOKEN), room()
    assert finder.find(empty, 0.0) is None
    assert [finder.find(picture, now_s) for now_s in (1.0, 2.0, 20.0, 39.0)] == [TOKEN, None, None, None]
    assert finder.find(empty, 50.0) is None
    assert finder.find(picture, 59.5) == TOKEN


def test_two_badges_one_after_the_other_both_count() -> None:
    finder, other = BadgeFinder(), new_token()
    assert [finder.find(room(text), now_s) for now_s, text in enumerate([TOKEN, other, TOKEN])] == [TOKEN, other, None]


@pytest.mark.parametrize(
    "text", ["https://example.org/menu", "104-482913", TOKEN.upper(), TOKEN + "0", "WIFI:S:a;P:b;;"]
)
def test_other_codes_are_passed_over(text: str) -> None:
    assert BadgeFinder().find(room(text), 0.0) is None


def test_it_looks_two_or_three_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    finder, picture = BadgeFinder(), room()
    looks: list[Image] = []
    monkeypatch.setattr(finder, "_read", lambda image: looks.append(image) or "")  # type: ignore[func-returns-value]
    for frame in range(91):
        finder.find(picture, frame / 30)
    assert len(looks) in range(6, 10)


def test_what_takes_long_is_looked_at_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    finder, picture = BadgeFinder(), room()
    looks = []

    def look_long(_: Image) -> str:
        looks.append(None)
        time.sleep(0.1)
        return ""

    monkeypatch.setattr(finder, "_read", look_long)
    for frame in range(60):
        finder.find(picture, frame / 30)
    assert len(looks) == 2


@pytest.mark.parametrize("seed", range(20))
def test_no_picture_is_too_strange(seed: int) -> None:
    """Torn and smeared badges, stripes, noise, pictures of a few pixels."""
    rng = np.random.default_rng(seed)
    finder = BadgeFinder()
    picture = room(TOKEN)
    top, left = rng.integers(0, 600, 2)
    picture[top : top + 120, left : left + 600] = rng.integers(0, 255, (120, 600, 3))
    stripes: Image = np.repeat(rng.integers(0, 2, (9, 9, 1)) * 255, 3, axis=2).astype(np.uint8)
    tiny: Image = rng.integers(0, 255, (int(rng.integers(1, 5)), int(rng.integers(1, 5)), 3)).astype(np.uint8)
    strange = [picture, np.kron(stripes, np.ones((40, 40, 1), np.uint8)).astype(np.uint8), tiny, picture[:, ::7]]
    assert {finder.find(np.ascontiguousarray(image), float(n)) for n, image in enumerate(strange)} <= {None, TOKEN}
