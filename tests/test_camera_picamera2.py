"""Raspberry Pi cameras: a real helper process, real shared memory, and a stand-in for picamera2's documented calls."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import restrictions
from camera_faults import measure, wait_until
from pi_camera import PiCamera, number_in

from kiosk.biometrics import Frame
from kiosk.camera import LiveCamera, Picamera2Settings, _picamera2, open_camera
from kiosk.camera._picamera2 import Picamera2Source, list_picamera2, to_boottime_s
from kiosk.camera._picamera2_helper import _choose_controls, _lens_position, _widest_mode
from kiosk.clock import SystemClock
from kiosk.errors import CameraError

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture
def pi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PiCamera:
    folder = tmp_path / "pi"
    folder.mkdir()
    return PiCamera(folder, monkeypatch)


@pytest.fixture
def camera(pi: PiCamera) -> Iterator[LiveCamera]:  # noqa: ARG001 - it is what opens
    with closing(_open()) as camera:
        yield camera


def _open(
    source: str = "picamera2",
    *,
    width: int = 64,
    rotate: Literal[0, 90, 180, 270] = 0,
    open_timeout_s: float = 10.0,
    settings: Picamera2Settings | None = None,
) -> LiveCamera:
    camera = open_camera(
        source=source,
        width=width,
        height=48,
        fps=25,
        rotate=rotate,
        open_timeout_s=open_timeout_s,
        read_timeout_s=0.5,
        frozen_after_s=0.4,
        picamera2=settings or Picamera2Settings(),
    )
    assert isinstance(camera, LiveCamera)
    return camera


def _next(camera: LiveCamera) -> Frame:
    frame = camera.read(5)
    assert frame is not None
    return frame


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# Pictures


def test_pictures_are_blue_green_red_in_order_and_timed_by_the_sensor(pi: PiCamera, camera: LiveCamera) -> None:
    frames = [_next(camera) for _ in range(8)]
    now_s = SystemClock().boottime_s()
    picture = frames[0].image
    assert (picture.shape, picture.dtype) == ((48, 64, 3), np.uint8)
    # Brightest blue above, grey below: neither colours nor rows nor their padding are mixed up.
    assert np.abs(picture[1:24].mean(axis=(0, 1)) - [191, 141, 91]).max() < 1
    assert np.abs(picture[24:].mean(axis=(0, 1)) - 91).max() < 1
    numbers = [number_in(frame.image) for frame in frames]
    assert numbers == sorted(set(numbers))
    assert all(earlier.captured_s < later.captured_s for earlier, later in itertools.pairwise(frames))
    # The sensor began 20 ms before the picture could be had.
    assert 0.015 < now_s - frames[-1].captured_s < 1
    assert camera.fault is None
    assert pi.asked["camera"] == 0
    assert pi.asked["main"] == {"size": [64, 48], "format": "RGB888"}


def test_newest_picture_wins_and_is_never_written_to_again(camera: LiveCamera) -> None:
    first = _next(camera)
    number, pixels = number_in(first.image), first.image.copy()
    time.sleep(0.5)
    frame = _next(camera)
    assert number_in(frame.image) - number >= 11
    assert SystemClock().boottime_s() - frame.captured_s < 0.3
    assert np.array_equal(first.image, pixels)


def test_while_nothing_moves_pictures_are_glanced_at(pi: PiCamera) -> None:  # noqa: ARG001
    source = Picamera2Source(
        0, (64, 48), 25, upside_down=False, settings=Picamera2Settings(), open_timeout_s=10, read_timeout_s=2
    )
    capture = source.open()
    assert capture is not None
    with closing(SimpleNamespace(close=capture.release)):
        assert capture.grab()
        grey = capture.glance()
    assert grey is not None
    assert (grey.shape, grey.dtype) == ((6, 8), np.uint8)
    # Blue above, grey below.
    assert grey[:3].mean() > grey[3:].mean() + 10


def test_closing_releases_the_camera_and_ends_the_process(pi: PiCamera) -> None:
    with closing(_open("picamera2:1")) as camera:
        _next(camera)
        assert pi.asked["camera"] == 1
        assert _runs(pi.pid)
    assert pi.closed
    wait_until(lambda: not _runs(pi.pid), 3)


def test_time_of_no_clock_is_now() -> None:
    monotonic_s, now_s = time.monotonic(), SystemClock().boottime_s()
    assert to_boottime_s(None) == pytest.approx(now_s, abs=0.1)
    assert to_boottime_s(round((monotonic_s - 0.5) * 1e9)) == pytest.approx(now_s - 0.5, abs=0.1)
    assert to_boottime_s(round((now_s - 0.5) * 1e9)) == pytest.approx(now_s - 0.5, abs=0.1)
    for foreign_s in (monotonic_s - 60, monotonic_s + 60, 0):
        assert to_boottime_s(round(foreign_s * 1e9)) == pytest.approx(now_s, abs=0.1)


@pytest.mark.parametrize("fault", ["", "unturned"])
def test_upside_down_is_turned_by_the_sensor_or_by_the_kiosk(pi: PiCamera, fault: str) -> None:
    pi.suffer(fault)
    with closing(_open(rotate=180)) as camera:
        picture = _next(camera).image
    assert pi.asked["transform"] == [1, 1]
    # Blue is below now, once.
    assert picture[30:].mean(axis=(0, 1))[0] > 180
    assert number_in(picture[::-1, ::-1]) > 0


def test_a_quarter_turn_is_the_kiosks(pi: PiCamera) -> None:
    with closing(_open(rotate=90)) as camera:
        assert _next(camera).image.shape == (64, 48, 3)
    assert pi.asked["transform"] == [0, 0]


# What is asked of it


def test_settings_reach_the_camera(pi: PiCamera) -> None:
    settings = Picamera2Settings(focus_m=0.8, exposure="short", ev=1.5, longest_exposure_ms=100)
    with closing(_open(settings=settings)):
        assert pi.asked["controls"] == {
            "FrameDurationLimits": [40_000, 100_000],
            "AfMode": "Manual",
            "LensPosition": 1.25,
            "AeExposureMode": "Short",
            "ExposureValue": 1.5,
        }
        # All of the view; picamera2 would have taken 1536 x 864, the middle.
        assert pi.asked["sensor"] == {"output_size": [2304, 1296], "bit_depth": 10}


def test_what_a_camera_cannot_do_is_told_once(pi: PiCamera, caplog: pytest.LogCaptureFixture) -> None:
    pi.suffer("fixed", "smaller")
    caplog.set_level(logging.INFO)
    with closing(_open(settings=Picamera2Settings(focus_m=0.5))) as camera:
        assert _next(camera).image.shape == (24, 32, 3)
        os.kill(pi.pid, signal.SIGKILL)
        wait_until(lambda: camera.condition.reconnects == 1)
    assert [record.getMessage() for record in caplog.records] == [
        "picamera2: imx708_wide, 32 x 24 pixels",
        "picamera2: delivers 32 x 24 pixels instead of 64 x 48",
        "picamera2: camera.picamera2.focus has no effect: this camera has nothing to set there",
    ]
    assert pi.asked["controls"].keys() == {"FrameDurationLimits"}


def test_a_lens_that_cannot_move_is_nothing_to_tell() -> None:
    modes = SimpleNamespace(Manual=0, Continuous=2, Short=1, Long=2)
    enums = SimpleNamespace(AfModeEnum=modes, AeExposureModeEnum=modes)
    wishes = {"fps": 15, "focus_m": None, "exposure": "normal", "ev": 0.0, "longest_exposure_ms": None}
    assert _choose_controls(wishes, {"FrameDurationLimits": ()}, enums) == ({"FrameDurationLimits": (66667, 66667)}, [])
    assert _choose_controls(wishes | {"ev": 1.0, "exposure": "long", "longest_exposure_ms": 100}, {}, enums) == (
        {},
        ["exposure", "ev", "longest_exposure_ms"],
    )


def test_focus_is_in_dioptres_and_no_nearer_than_the_lens_can() -> None:
    offered = {"LensPosition": (0.0, 10.0, 1.0)}
    assert [_lens_position(focus_m, offered) for focus_m in (1000, 2.0, 0.1, 0.05)] == [0.001, 0.5, 10.0, 10.0]


def test_mode_shows_all_the_sensor_sees() -> None:
    def mode(size: tuple[int, int], fps: float, crop: tuple[int, int, int, int], bits: int = 10) -> dict[str, object]:
        return {"size": size, "fps": fps, "crop_limits": crop, "bit_depth": bits}

    whole = (0, 0, 3280, 2464)
    binned, middle, full = (
        mode((1640, 1232), 41.85, whole),
        mode((1920, 1080), 47.57, (680, 692, 1920, 1080)),
        mode((3280, 2464), 21.19, whole),
    )
    modes = [
        mode((640, 480), 206.65, (1000, 752, 1280, 960)),
        mode((1640, 1232), 41.85, whole, 8),
        binned,
        middle,
        full,
    ]
    assert _widest_mode(modes, (1280, 720), 15) == binned
    assert _widest_mode(modes, (2560, 1440), 15) == full
    # Too fast for the whole view: rather a part than too few pictures.
    assert _widest_mode(modes, (1280, 720), 45) == middle
    assert _widest_mode(modes, (1280, 720), 100) is None
    assert _widest_mode([{"format": "MJPEG"}], (1280, 720), 15) is None


# Nobody there


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("foreign", "cannot be loaded (ValueError: numpy.dtype size changed, may indicate binary"),
        ("absent", "no camera found; check its ribbon cable, then look at `rpicam-hello --list-cameras`"),
        ("unstartable", "no camera found; check its ribbon cable"),
        ("busy", "is in use by another program (`sudo fuser -v /dev/media*` tells which); end that"),
        ("late", "has not answered for 0.6 s; check the camera's cable"),
    ],
)
def test_camera_that_cannot_be_opened(pi: PiCamera, monkeypatch: pytest.MonkeyPatch, fault: str, told: str) -> None:
    monkeypatch.setattr("kiosk.camera.LOADING_S", 0.5 if fault == "late" else 10)
    pi.suffer(fault)
    _not_opened("picamera2", told)


def test_place_that_is_empty_and_size_that_is_refused(pi: PiCamera) -> None:
    _not_opened("picamera2:2", "there is no such camera, only imx708_wide, ov5647; set camera.source to picamera2")
    _not_opened("picamera2", "does not take 65 x 48 pixels at 25/s: RuntimeError: width and height should be", width=65)
    assert not pi.closed


@pytest.mark.parametrize("source", ["picamera2:", "picamera2:x", "picamera2:10", "picamera2:-1"])
def test_place_that_is_none(source: str) -> None:
    with pytest.raises(CameraError, match=r"camera\.source: picamera2:.*: use picamera2, or picamera2:1"):
        open_camera(source=source)


def test_without_picamera2_or_without_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install = "`sudo apt install -y python3-picamera2 --no-install-recommends`"
    monkeypatch.setattr(_picamera2, "_PYTHON", (sys.executable, "-I"))
    _not_opened("picamera2", f"is not installed; {install}")
    monkeypatch.setattr(_picamera2, "_PYTHON", (str(tmp_path / "python3"),))
    _not_opened(
        "picamera2", f"{tmp_path}/python3 cannot be run (No such file or directory): picamera2 needs the system"
    )
    with pytest.raises(CameraError, match="picamera2 needs the system's Python"):
        list_picamera2(1)


def test_helper_that_is_no_python_ends_the_attempt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "python3"
    broken.write_text("#!/bin/sh\necho 'no module\tnamed encodings' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(_picamera2, "_PYTHON", (str(broken),))
    _not_opened("picamera2", "its process has ended: no module named encodings")


def _not_opened(source: str, told: str, *, width: int = 64) -> None:
    started_s = time.monotonic()
    with pytest.raises(CameraError) as failure:
        _open(source, width=width, open_timeout_s=0.1)
    assert str(failure.value).startswith(f"{source}: {told}")
    assert "\n" not in str(failure.value)
    assert time.monotonic() - started_s < 12


def test_cameras_are_listed(pi: PiCamera) -> None:
    assert list_picamera2(5) == ["imx708_wide", "ov5647"]
    pi.suffer("absent")
    assert list_picamera2(5) == []


# Faults


@pytest.mark.faults
@pytest.mark.parametrize(
    ("faults", "hold_s", "told"),
    [
        (["silent"], 0, "no picture for more than 0.5 s; trying to open it again"),
        # Neither an open pipe nor a polite word reaches a process whose interpreter is kept busy: it is killed.
        (["hangs"], 0, "no picture for more than 0.5 s; trying to open it again"),
        (["dies", "absent"], 0.6, "no camera found; check its ribbon cable"),
        (["raises", "busy"], 0.6, "is in use by another program"),
        (["frozen"], 0.3, "the picture is frozen"),
    ],
)
def test_camera_that_fails(pi: PiCamera, camera: LiveCamera, faults: list[str], hold_s: float, told: str) -> None:
    wait_until(lambda: camera.read(0.1) is not None)
    pid = pi.pid
    measured = measure(camera, lambda: pi.suffer(*faults), pi.mend, hold_s)
    assert measured.told.startswith(told)
    assert measured.told_after_s < 5
    assert measured.back_after_s < 10
    assert measured.retries_per_s <= 10
    # Nothing is left behind: neither a process nor a thread.
    assert measured.threads == 1
    assert (pid == pi.pid and _runs(pid)) if faults == ["frozen"] else not _runs(pid)
    assert camera.condition.stalls == (faults[0] in {"silent", "hangs"})


@pytest.mark.faults
def test_slow_camera_delivers_what_it_has(pi: PiCamera, camera: LiveCamera) -> None:
    _next(camera)
    pi.suffer("slow", "untimed")
    _next(camera)
    frames = [_next(camera) for _ in range(3)]
    assert all(0.3 < b.captured_s - a.captured_s < 0.6 for a, b in itertools.pairwise(frames))
    assert camera.condition.reconnects == 0


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["", "hangs"])
def test_helper_does_not_outlive_a_kiosk_that_is_killed(pi: PiCamera, fault: str) -> None:
    code = (
        "import sys, time; from kiosk.camera import _picamera2, open_camera\n"
        f"_picamera2._PYTHON = ({str(pi.python)!r},)\n"
        "camera = open_camera(source='picamera2', width=64, height=48, open_timeout_s=10, read_timeout_s=60)\n"
        "print(camera.read(5).index, flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPO, stdout=subprocess.PIPE) as kiosk:
        assert kiosk.stdout is not None
        assert kiosk.stdout.readline()
        pi.suffer(fault)
        time.sleep(0.2)
        pid = pi.pid
        assert _runs(pid)
        kiosk.kill()
    wait_until(lambda: not _runs(pid), 3)


def test_what_libraries_write_is_one_warning_a_minute(pi: PiCamera, caplog: pytest.LogCaptureFixture) -> None:
    with closing(_open()) as camera:
        _next(camera)
        pi.suffer("dies")
        wait_until(lambda: camera.condition.attempts and "stopped delivering" in str(camera.fault))
        pi.mend()
        wait_until(lambda: camera.condition.reconnects > 0)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings[0] == "picamera2: ERROR RPI pipeline_base.cpp:1 Camera frontend has timed out!"


def test_helper_runs_under_the_units_restrictions(pi: PiCamera, tmp_path: Path) -> None:
    unit = (REPO / "systemd" / "kiosk.service").read_text(encoding="utf-8")
    names = ("MemoryDenyWriteExecute", "NoNewPrivileges", "SystemCallFilter", "ProtectProc")
    settings = {
        name: [line.partition("=")[2] for line in unit.splitlines() if line.startswith(f"{name}=")] for name in names
    }
    code = (
        "from kiosk.camera import _picamera2, open_camera\n"
        f"_picamera2._PYTHON = ({str(pi.python)!r},)\n"
        "with open_camera(source='picamera2', width=64, height=48, open_timeout_s=10) as camera:\n"
        "    print(camera.read(5).image.shape)\n"
    )
    run = restrictions.run(settings, [sys.executable, "-c", code], tmp_path)
    assert (run.returncode, run.stdout) == (0, "(48, 64, 3)\n"), run.stderr
