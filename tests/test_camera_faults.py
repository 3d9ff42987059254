"""Cameras that fail: each fault is told in its own words and in time, costs next to nothing, and is got over."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from camera_faults import Measured, PipeCamera, measure, open_pipe, wait_until
from mjpeg import Fault, MjpegServer, number_of
from rtsp import RtspServer

from kiosk.biometrics import Image
from kiosk.camera import LiveCamera, _grabber, _live, open_camera, shown_source
from kiosk.camera._pictures import BLACK, FROZEN, WHITE, PictureWatch
from kiosk.opencv import cv2

pytestmark = pytest.mark.faults

LONGEST_TO_TELL_S = 5
LONGEST_TO_RECOVER_S = 10
MOST_RETRIES_PER_S = 10
MOST_CPU_PERCENT = 5


@pytest.fixture
def server() -> Iterator[MjpegServer]:
    with MjpegServer() as running:
        yield running


@pytest.fixture
def camera(server: MjpegServer) -> Iterator[LiveCamera]:
    camera = open_camera(source=server.url, open_timeout_s=0.8, read_timeout_s=0.5, frozen_after_s=0.4)
    assert isinstance(camera, LiveCamera)
    with closing(camera):
        yield camera


@pytest.fixture
def device(tmp_path: Path) -> Iterator[PipeCamera]:
    device = PipeCamera(tmp_path / "camera")
    device.plug()
    with closing(device):
        yield device


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that hang are left behind sooner."""
    monkeypatch.setattr(_grabber, "GRACE_S", 0.8)


def _grabbers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "camera"}


def _file_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _assert_within_limits(measured: Measured, told: str) -> None:
    assert told in measured.told
    assert "\n" not in measured.told
    assert measured.told_after_s < LONGEST_TO_TELL_S
    assert measured.back_after_s < LONGEST_TO_RECOVER_S
    assert measured.retries_per_s <= MOST_RETRIES_PER_S


@pytest.mark.parametrize(
    ("fault", "hold_s", "told"),
    [
        (Fault.REFUSE, 1, "connection refused; is the camera on, and camera.source right?"),
        (Fault.SILENT, 2, "takes the connection but sends no video; restart the camera"),
        (Fault.STALL, 0, "no picture for more than 0.5 s; trying to open it again"),
        (Fault.DROP, 1, "no video to be had; check path, user and password"),
        (Fault.FREEZE, 0.5, "the picture is frozen"),
        (Fault.BLACK, 0.5, "the picture is black; uncover the lens"),
        (Fault.GARBAGE, 0, "sends damaged pictures; trying to open it again"),
    ],
)
def test_network_camera_that_fails(
    server: MjpegServer, camera: LiveCamera, fault: Fault, hold_s: float, told: str
) -> None:
    _suffer(server, camera, fault, hold_s, told)


@pytest.mark.parametrize(
    ("fault", "hold_s", "told"),
    [
        (Fault.REFUSE, 0.5, "connection refused; is the camera on"),
        (Fault.SILENT, 3.5, "takes the connection but sends no video"),
        (Fault.STALL, 0, "no picture for more than 0.5 s"),
        (Fault.DROP, 0.5, "no video to be had"),
        (Fault.FREEZE, 0, "the picture is frozen"),
    ],
)
def test_rtsp_camera_that_fails(fault: Fault, hold_s: float, told: str) -> None:
    with (
        RtspServer() as server,
        open_camera(source=server.url, open_timeout_s=3, read_timeout_s=0.5, frozen_after_s=0.4) as camera,
    ):
        assert isinstance(camera, LiveCamera)
        _suffer(server, camera, fault, hold_s, told)


def _suffer(server: MjpegServer, camera: LiveCamera, fault: Fault, hold_s: float, told: str) -> None:
    measured = measure(camera, lambda: server.suffer(fault), server.mend, hold_s)
    _assert_within_limits(measured, told)
    assert camera.fault is None
    if fault is Fault.REFUSE:
        # With the other faults the server of this process would count, too.
        assert measured.cpu_percent < MOST_CPU_PERCENT


def test_device_that_is_unplugged_and_plugged_in_again(device: PipeCamera) -> None:
    with closing(open_pipe(device, read_timeout_s=0.5)) as camera:
        measured = measure(camera, device.unplug, device.plug, 1.5)
        _assert_within_limits(measured, "no such camera")
        # Reads fail at once now: no reason to ask again and again.
        assert measured.cpu_percent < MOST_CPU_PERCENT
        assert camera.condition.reconnects == 1


def test_every_fault_is_counted(server: MjpegServer, camera: LiveCamera) -> None:
    wait_until(lambda: camera.read(0.1) is not None)
    condition = camera.condition
    assert (condition.fault, condition.reconnects, condition.stalls) == (None, 0, 0)
    assert condition.frames >= 1
    assert condition.last_frame_age_s is not None
    assert condition.last_frame_age_s < 0.5
    server.suffer(Fault.STALL)
    wait_until(lambda: camera.condition.stalls == 1)
    assert "no picture" in str(camera.condition.fault)
    server.mend()
    wait_until(lambda: camera.condition.fault is None)
    server.suffer(Fault.REFUSE)
    wait_until(lambda: "refused" in str(camera.condition.fault))
    attempts = camera.condition.attempts
    wait_until(lambda: camera.condition.attempts > attempts)
    wait_until(lambda: (camera.condition.last_frame_age_s or 0) > 0.5)
    server.mend()
    wait_until(lambda: camera.condition.fault is None)
    assert (camera.condition.reconnects, camera.condition.stalls) == (2, 1)


# Hanging calls


@pytest.mark.usefixtures("impatience")
def test_read_that_never_returns_is_left_behind(device: PipeCamera) -> None:
    before = _grabbers()
    with closing(open_pipe(device, read_timeout_s=0.4)) as camera:
        measured = measure(camera, device.hang, device.replace, 2)
        _assert_within_limits(measured, "in use")
        assert measured.told_after_s < 1
        # The one that hangs, and the one that works.
        assert len(_grabbers() - before) == 2
        assert camera.condition.stalls == 1
        device.release()
        wait_until(lambda: len(_grabbers() - before) == 1)
        # What came back too late has no say.
        assert camera.read(1) is not None
        assert camera.fault is None


@pytest.mark.usefixtures("impatience")
def test_trying_a_device_that_a_hanging_read_keeps_is_no_progress(device: PipeCamera) -> None:
    with closing(open_pipe(device, read_timeout_s=0.2)) as camera:
        wait_until(lambda: camera.read(0.1) is not None)
        device.hang()
        wait_until(lambda: camera.read(0.1) is None and "in use" in str(camera.fault))
        attempts, tries = camera.condition.attempts, device.tries
        wait_until(lambda: device.tries >= tries + 2)
        assert "in use" in str(camera.fault)
        assert camera.condition.attempts == attempts
        device.replace()
        wait_until(lambda: camera.read(0.1) is not None and camera.condition.attempts > attempts)


@pytest.mark.usefixtures("impatience")
def test_openings_that_never_return_are_few(device: PipeCamera) -> None:
    before = _grabbers()
    with closing(open_pipe(device, open_timeout_s=0.1, read_timeout_s=0.3)) as camera:
        wait_until(lambda: camera.read(0.1) is not None)
        device.unplug()
        device.plug(dead=True)
        wait_until(lambda: camera.read(0.1) is None and len(_grabbers() - before) == 3)
        wait_until(lambda: camera.read(0.1) is None and "only a restart of the kiosk can help" in str(camera.fault))
        condition, descriptors = camera.condition, _file_descriptors()
        started_s = time.monotonic()
        while time.monotonic() - started_s < 2:
            assert camera.read(0.3) is None
        # Neither a thread more nor any sign of life: that is what the watchdog goes by.
        assert len(_grabbers() - before) == 3
        assert _file_descriptors() == descriptors
        assert camera.condition.attempts == condition.attempts
        device.replace()
        device.release()
        wait_until(lambda: camera.read(0.1) is not None)
        wait_until(lambda: len(_grabbers() - before) == 1)


# Pictures that show nothing of what is there


def test_frozen_picture_is_not_delivered(server: MjpegServer, camera: LiveCamera) -> None:
    wait_until(lambda: camera.read(0.1) is not None)
    server.suffer(Fault.FREEZE)
    wait_until(lambda: camera.fault is not None)
    connections, frames = server.connections, camera.condition.frames
    started_s = time.monotonic()
    while time.monotonic() - started_s < 1:
        assert camera.read(0.1) is None
    # The connection is kept, so that the first picture that differs is seen at once.
    assert server.connections == connections
    assert camera.condition.frames > frames
    server.mend()
    assert wait_until(lambda: camera.read(0.1) is not None) < 0.5


def test_frozen_camera_is_opened_again_now_and_then(
    server: MjpegServer, camera: LiveCamera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_live, "_REOPEN_FROZEN_S", 0.6)
    wait_until(lambda: camera.read(0.1) is not None)
    server.suffer(Fault.FREEZE)
    before = server.connections
    wait_until(lambda: server.connections >= before + 2)


def _noisy(rng: np.random.Generator, level: float, deviation: float) -> Image:
    return np.clip(rng.normal(level, deviation, (72, 128, 3)), 0, 255).astype(np.uint8)


def test_still_scene_with_a_sensors_noise_is_not_frozen() -> None:
    rng = np.random.default_rng(1)
    watch = PictureWatch(2.0)
    for step in range(100):
        image = np.full((720, 1280, 3), 120, np.uint8)
        # A very clean sensor: one pixel in fifty differs by one grey level.
        image += (rng.random(image.shape) < 0.02).astype(np.uint8)
        assert watch.judge(image, step * 0.1) is None


def test_somebody_who_walks_in_ends_the_freeze() -> None:
    watch = PictureWatch(2.0)
    still = np.full((720, 1280, 3), 120, np.uint8)
    verdicts = [watch.judge(still, step * 0.5) for step in range(6)]
    assert verdicts == [None] * 5 + [FROZEN]
    with_face = still.copy()
    with_face[300:380, 600:680] = 90
    assert watch.judge(with_face, 3.0) is None
    assert watch.judge(with_face, 5.0) is None
    assert watch.judge(with_face, 5.1) == FROZEN


def test_freeze_can_be_switched_off() -> None:
    watch = PictureWatch(0)
    still = np.full((48, 64, 3), 120, np.uint8)
    assert [watch.judge(still, now_s) for now_s in (0.0, 100.0, 10_000.0)] == [None] * 3


@pytest.mark.parametrize(
    ("level", "deviation", "told"),
    [
        (2, 1, BLACK),
        (0, 0, BLACK),
        (254, 1, WHITE),
        (255, 0, WHITE),
        (12, 1, None),  # a dark room
        (5, 8, None),  # night, with a lamp's noise
        (240, 1, None),  # a white wall
    ],
)
def test_obscured_is_black_or_white_without_structure(level: float, deviation: float, told: str | None) -> None:
    rng = np.random.default_rng(2)
    watch = PictureWatch(2.0)
    assert watch.judge(_noisy(rng, 120, 20), 0.0) is None
    pictures = [_noisy(rng, level, deviation) for _ in range(5)]
    # One step after the other, beginning at 1 s.
    assert [watch.judge(picture, 1.0 + step) for step, picture in enumerate(pictures)] == [None] * 3 + [told] * 2
    assert watch.judge(_noisy(rng, 120, 20), 6.0) is None


def test_from_black_to_white_counts_anew() -> None:
    watch = PictureWatch(2.0)
    black, white = (np.full((48, 64, 3), level, np.uint8) for level in (0, 255))
    assert watch.judge(black, 0.0) is None
    assert watch.judge(black, 3.0) == BLACK
    assert watch.judge(white, 3.1) is None
    assert watch.judge(white, 6.2) == WHITE


# Another size


def test_changed_size_is_told_once_and_delivered_as_it_is(
    server: MjpegServer, camera: LiveCamera, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    wait_until(lambda: camera.read(0.1) is not None)
    connections = server.connections
    server.suffer(Fault.SIZE)
    sent = server.sent
    wait_until(lambda: (frame := camera.read(0.5)) is not None and frame.image.shape == (64, 48, 3))
    frames = [camera.read(0.5) for _ in range(20)]
    assert {frame.image.shape for frame in frames if frame is not None} == {(64, 48, 3)}
    # Not squeezed into the first picture's size: both halves are where they were drawn.
    assert frames[-1] is not None
    assert sent < number_of(frames[-1].image) <= server.sent
    assert camera.fault is None
    assert server.connections == connections
    told = [record.getMessage() for record in caplog.records if "size" in record.getMessage()]
    assert told == [f"{shown_source(server.url)}: the picture's size has changed from 64 × 48 to 48 × 64"]


def test_single_damaged_picture_is_passed_over(server: MjpegServer, camera: LiveCamera) -> None:
    wait_until(lambda: camera.read(0.1) is not None)
    connections, frames = server.connections, camera.condition.frames
    sent = server.sent
    server.suffer(Fault.GARBAGE)
    wait_until(lambda: server.sent > sent + 2)
    server.mend()
    wait_until(lambda: camera.condition.frames > frames + 10)
    assert server.connections == connections


def test_camera_that_opens_but_delivers_nothing_is_tried_ever_less(server: MjpegServer, camera: LiveCamera) -> None:
    wait_until(lambda: camera.read(0.1) is not None)
    server.suffer(Fault.GARBAGE)
    openings = [time.monotonic()]
    for _ in range(4):
        before = server.connections
        wait_until(lambda before=before: server.connections > before)  # type: ignore[misc]
        openings.append(time.monotonic())
    # 0.2, 0.4, 0.8, 1.6 s from opening to opening, and no less than the time-out of an opening.
    assert openings[-1] - openings[-2] > 1.4


def test_looking_at_a_picture_costs_next_to_nothing() -> None:
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 255, (720, 1280, 3), np.uint8) for _ in range(2)]
    watch = PictureWatch(2.0)
    started_s = time.process_time()
    for step in range(200):
        watch.judge(pictures[step % 2], step * 0.1)
    # Decoding one takes several milliseconds.
    assert (time.process_time() - started_s) / 200 < 0.002


def test_black_from_a_jpeg_is_black() -> None:
    _, jpeg = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))
    decoded: Image = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)  # type: ignore[assignment]
    watch = PictureWatch(2.0)
    watch.judge(decoded, 0.0)
    assert watch.judge(decoded, 3.0) == BLACK
