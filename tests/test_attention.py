"""While nobody is there little is looked at; whoever comes is seen at once."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from mjpeg import Fault, MjpegServer

from kiosk.attention import Attention, Grey, MotionGate
from kiosk.biometrics import Box
from kiosk.camera import LiveCamera, open_camera
from kiosk.camera._sources import DecodingCapture, JpegCapture, StreamSource, shrink
from kiosk.clip import Person, Scene, Walk, draw_frames
from kiosk.clock import SystemClock
from kiosk.encoded import decode_frame, decode_glance
from kiosk.opencv import cv2
from kiosk.photo import read_photo

FPS = 5
SIZE = (640, 360)
KNOWN = 3
"""Glances after which the noise is."""


def glances(seconds: float, *walks: Walk) -> list[Grey]:
    return [shrink(frame) for frame in draw_frames([Scene(seconds, walks)], fps=FPS, size=SIZE)]


@pytest.fixture(scope="module")
def room() -> list[Grey]:
    """Glances at an empty room."""
    return glances(2.0)


@pytest.fixture(scope="module")
def person(samples: Path) -> Person:
    return Person(read_photo(samples / "obama2.jpg"), Box(115, 181, 181, 181))


def motion(greys: Iterable[Grey], gate: MotionGate | None = None, *, from_s: float = 0.0) -> list[bool]:
    """What the gate says of each."""
    gate = gate or MotionGate()
    return [gate.moved(grey, from_s + number / FPS) for number, grey in enumerate(greys)]


def lit(greys: list[Grey], seconds: float, gain: Callable[[float], object], *, noise: float = 1.0) -> Iterator[Grey]:
    """In another light. ``noise``: of a mean of 64 pixels."""
    random = np.random.default_rng(1)
    for number, grey in enumerate(itertools.islice(itertools.cycle(greys), round(seconds * FPS))):
        yield np.clip(grey * gain(number / FPS) + random.normal(0, noise, grey.shape), 0, 255).astype(np.uint8)


# Motion


@pytest.mark.parametrize(
    "gain",
    [
        pytest.param(lambda _: 1.0, id="noise"),
        pytest.param(lambda _: 0.15, id="dark"),
        pytest.param(lambda t: 0.8 + 0.2 * np.cos(t / 3), id="clouds"),
        pytest.param(lambda t: 0.7 if int(t / 2) % 2 else 1.0, id="exposure"),
    ],
)
def test_nothing_moves_where_only_the_light_changes(room: list[Grey], gain: Callable[[float], object]) -> None:
    first, *others = motion(lit(room, 12, gain))
    assert first  # nothing is known yet
    assert not any(others[KNOWN:])


def test_a_flickering_lamp_is_learned_and_whoever_comes_under_it_is_seen(room: list[Grey], person: Person) -> None:
    shine = np.linspace(0.2, 0, SIZE[0] // 8)
    random = np.random.default_rng(2)
    gate = MotionGate()
    flicker = motion(lit(room, 40, lambda _: 1 + shine * random.uniform(-1, 1)), gate)
    assert any(flicker[1:10])
    assert not any(flicker[-50:])
    coming = glances(1.6, Walk(person, x=(-0.1, 0.4), face_px=(90, 110)))
    assert any(motion(lit(coming, 1.6, lambda _: 1 + shine * random.uniform(-1, 1)), gate, from_s=40))


@pytest.mark.parametrize("gain", [1.0, 0.25])
@pytest.mark.parametrize(
    "walk",
    [
        {"x": (-0.15, 0.5), "face_px": (80, 110)},
        {"x": (1.1, -0.1), "face_px": (50, 50)},
        {"x": (0.5, 0.5), "y": (1.3, 0.45), "face_px": (90, 90)},
    ],
    ids=["walks in", "passes far away", "stands up"],
)
def test_whoever_comes_is_seen_before_their_face_is_in_the_picture(
    room: list[Grey], person: Person, walk: dict[str, tuple[float, float]], gain: float
) -> None:
    gate = MotionGate()
    assert not any(motion(lit(room, 4, lambda _: gain), gate)[KNOWN:])
    coming = glances(2.0, Walk(person, **walk))
    seen = motion(lit(coming, 2.0, lambda _: gain), gate, from_s=4)
    assert seen.index(True) <= 3


def test_a_badge_held_up_is_motion(room: list[Grey]) -> None:
    gate = MotionGate()
    motion(room, gate)
    badge = room[0].copy()
    badge[15:31, 32:48] = np.random.default_rng(4).choice([0, 255], (16, 16))
    assert gate.moved(badge, 2.0)


def test_somebody_who_has_passed_does_not_hide_the_next(room: list[Grey], person: Person) -> None:
    gate = MotionGate()
    passing = glances(3.0, Walk(person, x=(-0.2, 1.2), face_px=(90, 90)))
    motion(lit(room, 5, lambda _: 1.0), gate)
    assert any(motion(passing, gate, from_s=5))
    motion(lit(room, 5, lambda _: 1.0), gate, from_s=8)
    assert motion(passing, gate, from_s=13).index(True) <= 3


def test_a_real_cameras_noise_is_none_and_real_people_are(shared: Path) -> None:
    capture = cv2.VideoCapture(str(shared / "data" / "video" / "room_people_passing_intel.mp4"))
    gate, moved = MotionGate(), []
    for number in range(66):
        assert capture.grab()
        if number % 2 == 0:
            moved.append(gate.moved(shrink(np.asarray(capture.retrieve()[1], np.uint8)), number / 10))
    # Of ten frames a second: the room is empty until the 56th, where a shadow falls; a head appears with the 60th.
    assert not any(moved[1:26])
    assert any(moved[28:31])


def test_pictures_of_another_size_are_news(room: list[Grey]) -> None:
    gate = MotionGate()
    motion(room, gate)
    assert gate.moved(np.zeros((3, 4), np.uint8), 5.0)
    assert not gate.moved(np.zeros((3, 4), np.uint8), 5.2)
    assert gate.moved(np.zeros((400, 5), np.uint8), 5.4)


# What is wanted

STILL = np.full((90, 160), 90, np.uint8)
STIRRED = STILL.copy()
STIRRED[20:60, 20:60] = 200


def watch(attention: Attention, seconds: float, *, from_s: float, grey: Grey = STILL, fps: int = 15) -> list[bool]:
    """What is wanted of a camera's pictures."""
    wanted = []
    for number in range(round(seconds * fps)):
        now_s = from_s + number / fps
        if attention.glance_due(now_s):
            attention.glance(grey, now_s)
        wanted.append(attention.wants(now_s))
    return wanted


def test_goes_idle_after_a_while_and_then_looks_once_a_second_or_more() -> None:
    attention = Attention(after_s=3)
    assert all(watch(attention, 3, from_s=100))
    assert not attention.idle
    watch(attention, 0.3, from_s=103)
    assert attention.idle
    wanted = watch(attention, 10, from_s=103.4)
    assert 10 <= sum(wanted) <= 14
    looks = [number for number, one in enumerate(wanted) if one]
    # A face that stands still must not become a new visit from look to look.
    assert max(b - a for a, b in itertools.pairwise(looks)) / 15 < 1.0


def test_glances_are_fewer_where_they_are_dear() -> None:
    attention, due_s = Attention(after_s=3), []
    for took_s in (0.001, 0.012, 5.0):
        attention.glance(STILL, 10.0, took_s=took_s)
        due_s.append(next(t / 100 for t in range(100) if attention.glance_due(10 + t / 100)))
    assert due_s == pytest.approx([0.19, 0.4, 0.48])


def test_motion_wakes_with_the_picture_that_shows_it() -> None:
    attention = Attention(after_s=2)
    watch(attention, 4, from_s=0)
    assert attention.idle
    assert attention.glance_due(5.0)
    attention.glance(STIRRED, 5.0)
    assert not attention.idle
    assert all(attention.wants(5.0 + number / 15) for number in range(25))


def test_a_face_keeps_awake_though_nothing_moves() -> None:
    attention = Attention(after_s=2)
    watch(attention, 4, from_s=0)
    for second in range(4, 10):
        attention.saw([7], second)
        assert all(watch(attention, 1, from_s=second))
    watch(attention, 2.5, from_s=10)
    assert attention.idle


def test_a_picture_on_the_wall_keeps_nobody_awake_and_somebody_beside_it_does() -> None:
    attention = Attention(after_s=2)
    for second in range(40):
        attention.saw([7], second)
        watch(attention, 1, from_s=second)
    assert attention.idle
    attention.saw([7, 8], 40)
    assert not attention.idle
    watch(attention, 3, from_s=40)
    # It was away.
    attention.saw([], 43)
    attention.saw([7], 44)
    assert not attention.idle


def test_is_never_idle_where_that_is_off_or_nobody_takes_glances() -> None:
    off = Attention(after_s=None)
    assert all(watch(off, 20, from_s=0))
    assert not off.glance_due(30)
    assert not off.idle
    assert not Attention(after_s=1).idle


def test_rests_for_as_long_as_it_is_told_to() -> None:
    attention = Attention(after_s=None)
    attention.rest(10.5)
    assert [attention.wants(t) for t in (10.0, 10.4, 10.5, 10.6)] == [False, False, True, True]


# With a camera


def test_a_glance_is_the_picture_at_an_eighth_whichever_way_it_was_decoded(samples: Path) -> None:
    image = cv2.resize(read_photo(samples / "obama2.jpg"), (640, 480))
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    whole, glance = decode_frame(jpeg), decode_glance(jpeg)
    assert whole is not None
    assert glance is not None
    shrunk = shrink(whole)
    assert glance.shape == shrunk.shape == (60, 80)
    assert np.abs(glance.astype(int) - shrunk).mean() < 5
    assert decode_glance(jpeg[:100]) is None
    assert decode_glance(b"GIF89a") is None


def test_every_way_to_open_pictures_glances(tmp_path: Path) -> None:
    with MjpegServer(size=(320, 240)) as server:
        capture = StreamSource(server.url, 5, 5).open()
        assert isinstance(capture, JpegCapture)
        with closing(_Releasing(capture)):
            assert capture.grab()
            glance, image = capture.glance(), capture.retrieve()
    assert glance is not None
    assert image is not None
    assert (glance.shape, image.shape) == ((30, 40), (240, 320, 3))
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (320, 240))
    for level in (10, 200):
        writer.write(np.full((240, 320, 3), level, np.uint8))
    writer.release()
    decoding = DecodingCapture(cv2.VideoCapture(str(path)))
    for level in (10, 200):
        assert decoding.grab()
        grey, image = decoding.glance(), decoding.retrieve()
        assert grey is not None
        assert grey.shape == (30, 40)
        assert grey.mean() == pytest.approx(level, abs=3)
        # Decoded once for both.
        assert image is decoding.retrieve()
    assert not decoding.grab()
    decoding.release()


class _Releasing:
    def __init__(self, capture: DecodingCapture) -> None:
        self.close = capture.release


class StillServer(MjpegServer):
    """The same scene with noise, until somebody comes."""

    def __init__(self) -> None:
        super().__init__(fps=25, size=(160, 120))
        self.somebody = False

    def _jpeg(self, number: int) -> bytes:
        if self._fault is not None:
            return super()._jpeg(number)
        noise = np.random.default_rng(number).normal(120, 3, (120, 160, 3))
        if self.somebody:
            noise[30:100, 40:100] = 30
        return cv2.imencode(".jpg", np.clip(noise, 0, 255).astype(np.uint8))[1].tobytes()


def idle_camera(server: MjpegServer, attention: Attention, *, frozen_after_s: float = 4.0) -> LiveCamera:
    """Opened, and read until it is idle."""
    camera = open_camera(source=server.url, read_timeout_s=0.6, frozen_after_s=frozen_after_s, attention=attention)
    assert isinstance(camera, LiveCamera)
    deadline_s = time.monotonic() + 8
    while not attention.idle and time.monotonic() < deadline_s:
        camera.read(0.2)
    assert attention.idle
    return camera


def until(camera: LiveCamera, condition: Callable[[], bool], timeout_s: float) -> float:
    """Seconds until it held, while the camera is read."""
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < timeout_s, "waited in vain"
        camera.read(0.05)
    return time.monotonic() - started_s


def test_an_idle_camera_delivers_little_counts_all_and_wakes_at_once() -> None:
    attention = Attention(after_s=0.5)
    with StillServer() as server, idle_camera(server, attention) as camera:
        before = camera.condition
        frames, started_s = 0, time.monotonic()
        while time.monotonic() - started_s < 2:
            frames += camera.read(0.2) is not None
        after = camera.condition
        assert 1 <= frames <= 4
        # It has gone on grabbing: nothing waits in the stream.
        assert after.frames - before.frames >= 30
        assert after.attempts - before.attempts >= 30
        assert after.fault is None
        server.somebody = True
        assert until(camera, lambda: not attention.idle, 3) < 1
        frame = camera.read(1)
        assert frame is not None
        assert SystemClock().boottime_s() - frame.captured_s < 0.5


def test_faults_of_an_idle_camera_are_told_as_soon_as_ever() -> None:
    attention = Attention(after_s=0.5)
    with StillServer() as server, idle_camera(server, attention, frozen_after_s=1.0) as camera:
        server.suffer(Fault.FREEZE)
        # It is looked at whole every three quarters of a second.
        assert until(camera, lambda: "frozen" in str(camera.fault), 5) < 3
        server.mend()
        assert until(camera, lambda: camera.fault is None, 5) < 1.5
        server.stall()
        assert until(camera, lambda: camera.fault is not None, 5) < 1.5
        server.resume()
        until(camera, lambda: camera.read(0.1) is not None, 10)
        # Opened again: whatever it shows is news.
        assert not attention.idle
