"""Cameras that are there: network streams, video files and folders; and how it is told that one is not."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from mjpeg import Fault, MjpegServer, number_of, numbered

from kiosk.biometrics import Frame
from kiosk.camera import LiveCamera, OpenedCamera, open_camera, shown_source
from kiosk.clip import Scene, write_clip
from kiosk.clock import SystemClock
from kiosk.errors import CameraError
from kiosk.opencv import cv2
from kiosk.ports import Camera, EndOfStream

_FPS = 20
_FRAMES = 12


@pytest.fixture
def server() -> Iterator[MjpegServer]:
    with MjpegServer() as running:
        yield running


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return _write_video(tmp_path / "clip.avi")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    for number, name in enumerate(["a.png", "b.JPG", "c.jpeg", "d.bmp"]):
        cv2.imwrite(str(path / name), numbered(number))
    (path / "notes.txt").write_text("not a picture")
    return path


def _write_video(path: Path, *, codec: str = "MJPG", frames: int = _FRAMES) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), _FPS, (64, 48))
    assert writer.isOpened()
    for number in range(frames):
        writer.write(numbered(number))
    writer.release()
    return path


def _open(server: MjpegServer, *, read_timeout_s: float = 0.6) -> LiveCamera:
    camera = open_camera(source=server.url, open_timeout_s=3, read_timeout_s=read_timeout_s)
    assert isinstance(camera, LiveCamera)
    return camera


def _next(camera: Camera, timeout_s: float = 5.0) -> Frame:
    frame = camera.read(timeout_s)
    assert frame is not None
    return frame


def _read_all(camera: OpenedCamera) -> list[Frame]:
    frames: list[Frame] = []
    with camera:
        while True:
            try:
                frame = camera.read(1.0)
            except EndOfStream:
                return frames
            assert frame is not None
            frames.append(frame)


def _wait_until(condition: Callable[[], bool], timeout_s: float = 40.0) -> float:
    """Seconds until the condition held."""
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < timeout_s, "waited in vain"
        time.sleep(0.01)
    return time.monotonic() - started_s


# Streams


def test_stream_delivers_frames_as_they_come(server: MjpegServer) -> None:
    before_s = SystemClock().boottime_s()
    with _open(server) as camera:
        frames = [_next(camera) for _ in range(10)]
        assert camera.fault is None
    numbers = [number_of(frame.image) for frame in frames]
    assert numbers == sorted(set(numbers))
    assert frames[0].image.shape == (48, 64, 3)
    assert frames[0].image.dtype == np.uint8
    assert all(a.captured_s < b.captured_s and a.index < b.index for a, b in itertools.pairwise(frames))
    assert before_s < frames[0].captured_s
    assert frames[-1].captured_s < SystemClock().boottime_s()


def test_newest_frame_wins(server: MjpegServer) -> None:
    with _open(server, read_timeout_s=5) as camera:
        first = _next(camera)
        # A slow reader: meanwhile the camera goes on.
        sent = server.sent
        _wait_until(lambda: server.sent >= sent + 25)
        frame, sent = _next(camera), server.sent
        # What lies on the way: the server's, the kernel's and FFmpeg's buffers.
        assert sent - number_of(frame.image) <= 6
        assert SystemClock().boottime_s() - frame.captured_s < 0.5
        assert frame.index - first.index >= 20


def test_read_waits_no_longer_than_asked(server: MjpegServer) -> None:
    with _open(server, read_timeout_s=30) as camera:
        _next(camera)
        server.stall()
        _wait_until(lambda: camera.read(0.3) is None)
        started_s = time.monotonic()
        assert camera.read(0.2) is None
        assert 0.15 < time.monotonic() - started_s < 1.0


def test_stall_is_told_in_time_and_recovered_from(server: MjpegServer) -> None:
    with _open(server, read_timeout_s=0.6) as camera:
        _next(camera)
        server.stall()
        assert _wait_until(lambda: camera.fault is not None) < 1.5
        assert camera.read(0.05) is None
        assert camera.name in str(camera.fault)
        server.resume()
        _wait_until(lambda: camera.read(0.1) is not None, 15)
        assert camera.fault is None


def test_stale_frame_from_before_a_stall_is_dropped(server: MjpegServer) -> None:
    with _open(server, read_timeout_s=0.4) as camera:
        _next(camera)
        sent = server.sent
        # A frame waits unread when the stream stalls.
        _wait_until(lambda: server.sent > sent + 3)
        server.stall()
        _wait_until(lambda: camera.fault is not None)
        assert camera.read(0.0) is None


def test_camera_that_goes_and_comes_back(server: MjpegServer) -> None:
    with _open(server) as camera:
        _next(camera)
        server.stop()
        _wait_until(lambda: "connection refused" in str(camera.fault))
        server.start()
        assert _wait_until(lambda: camera.read(0.1) is not None) < 8
        assert camera.fault is None


def test_retries_are_few(server: MjpegServer) -> None:
    with _open(server) as camera:
        _next(camera)
        server.suffer(Fault.DROP)
        before = server.connections
        started_s = time.monotonic()
        _wait_until(lambda: server.connections >= before + 4)
        # Waits of 0.2 (a frame had come), 0.4, 0.8, …
        assert time.monotonic() - started_s > 0.4
        assert camera.fault is not None


def test_close_does_not_wait_for_a_read_that_hangs(server: MjpegServer) -> None:
    camera = _open(server, read_timeout_s=30)
    _next(camera)
    server.stall()
    _wait_until(lambda: camera.read(0.3) is None)
    started_s = time.monotonic()
    camera.close()
    camera.close()
    assert time.monotonic() - started_s < 4
    assert camera.read(5) is None


def test_close_wakes_a_reader(server: MjpegServer) -> None:
    camera = _open(server, read_timeout_s=30)
    server.stall()
    _wait_until(lambda: camera.read(0.3) is None)
    reader = threading.Thread(target=camera.read, args=(60.0,))
    reader.start()
    camera.close()
    reader.join(5)
    assert not reader.is_alive()


@pytest.mark.parametrize(("rotate", "shape"), [(0, (48, 64)), (90, (64, 48)), (180, (48, 64)), (270, (64, 48))])
def test_stream_is_turned(server: MjpegServer, rotate: Literal[0, 90, 180, 270], shape: tuple[int, int]) -> None:
    with open_camera(source=server.url, rotate=rotate) as camera:
        assert _next(camera).image.shape[:2] == shape


# Nobody there


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (250, "/dev/video250: no such camera; plug it in, or set camera.source"),
        ("250", "/dev/video250: no such camera"),
        ("/dev/video251", "/dev/video251: no such camera"),
        ("/dev/null", "/dev/null: cannot be opened"),
        ("/nowhere/clip.mp4", "/nowhere/clip.mp4: no such file or folder"),
        ("x" * 300, "x: cannot be read: File name too long"),
        ("ftp://camera/clip", "ftp:// is not supported; use rtsp://"),
        ("file:///etc/passwd", "file:// is not supported"),
        ("rtsp://", "unknown host"),
        ("http://[", "http://***: not a valid address"),
        ("rtsp://127.0.0.1:99999/", "not a valid address"),
        ("http://camera.invalid/", "http://camera.invalid: unknown host"),
    ],
)
def test_nothing_there(source: int | str, told: str) -> None:
    _not_opened(source, told)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("rtsp://10.0.0.7:554", "rtsp://10.0.0.7:554"),
        ("rtsp://10.0.0.7/", "rtsp://10.0.0.7"),
        ("rtsp://10.0.0.7/user=admin_password=secret", "rtsp://10.0.0.7/***"),
        ("http://cam.local:80/secret?token=secret#secret", "http://cam.local:80/***"),
        ("http://cam.local?token=secret", "http://cam.local/***"),
        ("rtsp://admin:secret@[fe80::1]:554/live", "rtsp://[fe80::1]:554/***"),
        ("rtsp://admin:secret@cam", "rtsp://cam/***"),
        # Whichever of these is the host, none of the rest is shown.
        ("rtsp://admin:se/cret@cam/live", "rtsp://***"),
        ("rtsp://admin:se@cret@cam/live", "rtsp://***"),
        ("rtsp://cam/admin:secret@live", "rtsp://***"),
        ("rtsp://admin:secret", "rtsp://***"),
        ("rtsp://cam:554\nsecret", "rtsp://***"),
        ("/srv/clips/a?b.avi", "/srv/clips/a?b.avi"),
        (2, "2"),
    ],
)
def test_an_address_is_shown_without_anything_a_login_could_be_in(source: int | str, shown: str) -> None:
    assert shown_source(source) == shown


@pytest.mark.parametrize("address", ["rtsp://{}/live", "http://{}/camera.mjpg"])
def test_nobody_listens(address: str) -> None:
    with socket.socket() as reserved:
        # Bound and not listening: nobody else can take the port, and connections are refused.
        reserved.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{reserved.getsockname()[1]}"
        took_s = _not_opened(address.format(place), "connection refused; is the camera on")
        assert took_s < 2
        message = f"{address.partition('{')[0]}{place}/***: connection refused"
        _not_opened(address.format(f"admin:secret@{place}") + "?token=secret", message)


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_server_that_says_nothing(scheme: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/live"
        assert _not_opened(url, "takes the connection but sends no video; restart the camera", open_timeout_s=0.5) < 4


def _not_opened(source: int | str, told: str, open_timeout_s: float = 2.0) -> float:
    """Seconds it took to be told."""
    started_s = time.monotonic()
    with pytest.raises(CameraError) as caught:
        open_camera(source=source, open_timeout_s=open_timeout_s)
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 69
    return time.monotonic() - started_s


def test_libraries_write_nothing_to_stderr(tmp_path: Path, repo: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from kiosk.camera import open_camera; from kiosk.errors import *\n"
        "from kiosk.photo import read_photo\n"
        "for source in sys.argv[1:]:\n"
        "    try: open_camera(source=source, open_timeout_s=1)\n"
        "    except CameraError: pass\n"
        "    try: read_photo(Path(source))\n"
        "    except InputError: pass\n"
    )
    _, png = cv2.imencode(".png", numbered(1))
    (tmp_path / "cut.png").write_bytes(png.tobytes()[:-20])
    (tmp_path / "cut.avi").write_bytes(_write_video(tmp_path / "whole.avi").read_bytes()[:3000])
    (tmp_path / "text.mp4").write_text("no video")
    sources = ["rtsp://127.0.0.1:9/x", "http://127.0.0.1:9/x", "250", *sorted(map(str, tmp_path.iterdir()))]
    command = [sys.executable, "-c", program, *sources]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=30, check=True)
    assert (done.stdout, done.stderr) == ("", "")


# Files and folders


@pytest.mark.parametrize(("name", "codec"), [("clip.avi", "MJPG"), ("clip.mp4", "mp4v"), ("a:b %d.avi", "MJPG")])
def test_fast_gives_every_frame_in_order(tmp_path: Path, name: str, codec: str) -> None:
    video = _write_video(tmp_path / name, codec=codec)
    before_s = SystemClock().boottime_s()
    frames = _read_all(open_camera(source=str(video), pace="fast"))
    assert [number_of(frame.image) for frame in frames] == list(range(_FRAMES))
    assert [frame.index for frame in frames] == list(range(_FRAMES))
    media_s = [frame.captured_s - frames[0].captured_s for frame in frames]
    assert media_s == pytest.approx([n / _FPS for n in range(_FRAMES)], abs=1e-3)
    assert 0 <= frames[0].captured_s - before_s < 5


def test_relative_path(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(video.parent)
    assert len(_read_all(open_camera(source="clip.avi", pace="fast"))) == _FRAMES


def test_end_of_stream_stays_the_end(video: Path) -> None:
    with open_camera(source=str(video), pace="fast") as camera:
        for _ in range(_FRAMES):
            _next(camera)
        for _ in range(3):
            with pytest.raises(EndOfStream):
                camera.read(1)


def test_realtime_keeps_the_recorded_pace(video: Path) -> None:
    camera = open_camera(source=str(video))
    started_s = time.monotonic()
    frames = _read_all(camera)
    assert time.monotonic() - started_s >= (_FRAMES - 1) / _FPS
    numbers = [number_of(frame.image) for frame in frames]
    assert numbers == sorted(set(numbers))
    media_s = [frame.captured_s - frames[0].captured_s for frame in frames]
    assert media_s == pytest.approx([(number - numbers[0]) / _FPS for number in numbers], abs=1e-3)


def test_realtime_skips_what_is_late(video: Path) -> None:
    with open_camera(source=str(video)) as camera:
        first = _next(camera)
        _wait_until(lambda: SystemClock().boottime_s() > first.captured_s + 0.3)
        late = _next(camera)
        behind_s = SystemClock().boottime_s() - late.captured_s
        assert number_of(late.image) >= 5
        assert late.index == number_of(late.image)
        assert behind_s < 0.2


def test_realtime_read_returns_when_nothing_is_due(folder: Path) -> None:
    with open_camera(source=str(folder), fps=1) as camera:
        _next(camera)
        started_s = time.monotonic()
        assert camera.read(0.1) is None
        assert 0.08 < time.monotonic() - started_s < 0.5
        assert number_of(_next(camera, 2.0).image) == 1


def test_loop_goes_on_monotonically(video: Path) -> None:
    with open_camera(source=str(video), loop=True, pace="fast") as camera:
        frames = [_next(camera) for _ in range(3 * _FRAMES)]
    assert [number_of(frame.image) for frame in frames] == [*range(_FRAMES)] * 3
    steps_s = [b.captured_s - a.captured_s for a, b in itertools.pairwise(frames)]
    assert steps_s == pytest.approx([1 / _FPS] * len(steps_s), abs=1e-3)
    assert frames[-1].index == 3 * _FRAMES - 1


def test_loop_over_a_file_that_disappears(video: Path) -> None:
    with open_camera(source=str(video), loop=True, pace="fast") as camera:
        for _ in range(_FRAMES):
            _next(camera)
        video.unlink()
        with pytest.raises(CameraError, match=r"clip\.avi"):
            camera.read(1)


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_file_is_turned_clockwise(video: Path, rotate: Literal[0, 90, 180, 270]) -> None:
    with (
        open_camera(source=str(video), pace="fast") as camera,
        open_camera(source=str(video), pace="fast", rotate=rotate) as turned,
    ):
        assert np.array_equal(np.rot90(_next(camera).image, -rotate // 90), _next(turned).image)


def test_folder_is_played_by_name(folder: Path) -> None:
    frames = _read_all(open_camera(source=str(folder), pace="fast", fps=4))
    assert [number_of(frame.image) for frame in frames] == [0, 1, 2, 3]
    media_s = [frame.captured_s - frames[0].captured_s for frame in frames]
    assert media_s == pytest.approx([0, 0.25, 0.5, 0.75])


def test_damaged_image_in_a_folder_is_told_and_passed_over(folder: Path) -> None:
    (folder / "b.JPG").write_bytes(b"")
    with open_camera(source=str(folder), pace="fast") as camera:
        assert number_of(_next(camera).image) == 0
        assert camera.read(1) is None
        assert camera.fault == f"{folder}: picture 2 is damaged"
        assert number_of(_next(camera).image) == 2
        assert camera.fault is None


def test_condition_of_a_folder(folder: Path) -> None:
    (folder / "d.bmp").write_bytes(b"")
    with open_camera(source=str(folder), pace="fast") as camera:
        assert camera.condition.last_frame_age_s is None
        for _ in range(3):
            _next(camera)
        condition = camera.condition
        assert (condition.fault, condition.frames, condition.attempts) == (None, 3, 3)
        assert condition.last_frame_age_s is not None
        assert 0 <= condition.last_frame_age_s < 5
        assert camera.read(1) is None
        assert (camera.condition.fault, camera.condition.attempts) == (f"{folder}: picture 4 is damaged", 4)
        assert (condition.reconnects, condition.stalls) == (0, 0)


def test_no_pictures(tmp_path: Path) -> None:
    _not_opened(str(tmp_path), "holds no images (.bmp, .jpeg")
    (tmp_path / "text.mp4").write_text("no video")
    _not_opened(str(tmp_path / "text.mp4"), "not a video that can be read")
    (tmp_path / "empty.avi").write_bytes(b"")
    _not_opened(str(tmp_path / "empty.avi"), "not a video that can be read")


def test_a_playlist_leads_nowhere(tmp_path: Path) -> None:
    """FFmpeg by itself would open whatever it names."""
    write_clip(tmp_path / "clip.avi", [Scene(0.5)])
    (tmp_path / "list.ffconcat").write_text("ffconcat version 1.0\nfile clip.avi\n")
    _not_opened(str(tmp_path / "list.ffconcat"), "not a video that can be read")


def test_closed_file_gives_nothing(video: Path) -> None:
    camera = open_camera(source=str(video))
    camera.close()
    camera.close()
    assert camera.read(1) is None
    assert camera.fault is None


def test_close_interrupts_a_wait(folder: Path) -> None:
    camera = open_camera(source=str(folder), fps=1, loop=True)
    _next(camera)
    reader = threading.Thread(target=lambda: [camera.read(60) for _ in range(3)])
    reader.start()
    started_s = time.monotonic()
    camera.close()
    reader.join(5)
    assert not reader.is_alive()
    assert time.monotonic() - started_s < 2
