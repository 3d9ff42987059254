"""``kiosk camera``: what is listed, what is written and for whom, and what is told while a camera is mounted."""

from __future__ import annotations

import contextlib
import json
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Kiosk
from pi_camera import PiCamera
from runner import assert_one_line_error, run_in_process

from kiosk.biometrics import Frame
from kiosk.camera._devices import list_usb
from kiosk.commands.camera_advice import Display
from kiosk.mounting import Finding, Level, Topic
from kiosk.opencv import cv2
from kiosk.photo import read_photo
from kiosk.preview import Preview, socket_path
from kiosk.store import Store


@pytest.fixture
def watching(kiosk: Kiosk, samples: Path, monkeypatch: pytest.MonkeyPatch) -> Kiosk:
    """A kiosk whose camera sees one photo again and again; commands in this process use its configuration."""
    pictures = kiosk.folder / "pictures"
    pictures.mkdir()
    (pictures / "1.jpg").write_bytes((samples / "obama.jpg").read_bytes())
    kiosk.configure(camera={"source": str(pictures), "loop": True})
    monkeypatch.setenv("KIOSK_CONFIG", str(kiosk.config))
    monkeypatch.chdir(kiosk.folder)
    return kiosk


@contextlib.contextmanager
def _daemon(kiosk: Kiosk, photo: Path) -> Iterator[None]:
    """One that shows this photo to whoever asks."""
    image, ended = read_photo(photo), threading.Event()
    preview = Preview(socket_path(kiosk.store))

    def show() -> None:
        index = 0
        while not ended.wait(0.02):
            index += 1
            preview.show(Frame(image, 100 + index / 15, index), ())

    with Store.open(kiosk.store) as store, store.daemon_lock():
        preview.start()
        thread = threading.Thread(target=show)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            preview.stop()


# preview


def test_a_picture_is_for_its_owner_only_and_the_only_one(
    watching: Kiosk, samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(watching.folder.rglob("*"))
    Path("seen.jpg").write_bytes(b"of yesterday, for everybody")
    Path("seen.jpg").chmod(0o644)
    assert run_in_process("camera", "preview", "--once", "seen.jpg") == 0
    assert capsys.readouterr().out == "seen.jpg: 576 x 720 pixels\n"
    assert stat.S_IMODE(Path("seen.jpg").stat().st_mode) == 0o600
    assert run_in_process("camera", "preview", "--once", "boxes.png", "--boxes") == 0
    assert {path.name for path in set(watching.folder.rglob("*")) - before} == {"seen.jpg", "boxes.png"}
    photo = read_photo(samples / "obama.jpg")
    plain, boxed = cv2.imread("seen.jpg"), cv2.imread("boxes.png")
    assert plain is not None
    assert boxed is not None
    # The JPEG is the photo but for its compression; what is drawn is green and more than that.
    assert cv2.absdiff(plain, photo).max() < 60
    assert (boxed == (80, 175, 30)).all(axis=2).sum() > 500


def test_the_running_kiosk_shows_its_own_camera(watching: Kiosk, samples: Path) -> None:
    with _daemon(watching, samples / "collins.jpg"):
        assert run_in_process("camera", "preview", "--once", "seen.png") == 0
    seen = cv2.imread("seen.png")
    assert seen is not None
    assert (seen == read_photo(samples / "collins.jpg")).all()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--once", "seen.webp"], 64, "--once seen.webp: the name must end in .png or .jpg"),
        ([], 64, "Missing option '--once'"),
        (["--once", "nowhere/seen.jpg"], 74, "nowhere/seen.jpg: cannot be written: no folder nowhere"),
    ],
)
def test_a_picture_that_cannot_be_written_is_not_taken(
    watching: Kiosk, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, told: str
) -> None:
    watching.configure(camera={"source": "/dev/video250"})
    assert run_in_process("camera", "preview", *arguments) == code
    assert told in assert_one_line_error(capsys.readouterr().err)


def test_without_a_camera_there_is_no_picture(watching: Kiosk, capsys: pytest.CaptureFixture[str]) -> None:
    watching.configure(camera={"source": "/dev/video250"})
    for command in (["preview", "--once", "seen.jpg"], ["advise", "--seconds", "1"]):
        assert run_in_process("camera", *command) == 69
        assert "/dev/video250: no such camera" in assert_one_line_error(capsys.readouterr().err)
    assert not Path("seen.jpg").exists()


# advise


def test_advice_as_one_document(watching: Kiosk, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(watching.folder.rglob("*"))
    assert run_in_process("camera", "advise", "--json", "--seconds", "1.5") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["frames"] == document["frames_with_face"] > 5
    assert document["seconds"] >= 1.5
    levels = {one["topic"]: one["level"] for one in document["findings"]}
    assert levels == dict.fromkeys(("aim", "focus", "light", "size", "angle", "rate"), "good")
    assert set(watching.folder.rglob("*")) == before


def test_advice_through_the_running_kiosk_in_lines(
    watching: Kiosk, samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lying = cv2.rotate(read_photo(samples / "obama.jpg"), cv2.ROTATE_90_CLOCKWISE)
    cv2.imwrite("lying.png", lying)
    with _daemon(watching, Path("lying.png")):
        assert run_in_process("camera", "advise", "--seconds", "1.8") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "BAD  rotation faces stand upright only in the picture turned by 270 degrees: set camera.rotate to 270" in (
        lines[-2].removesuffix(" (now 0)")
    )
    assert lines[-1].startswith("ok   rate     15.0 frames a second")


def test_on_a_terminal_the_findings_stay_in_their_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    display = Display()
    display.show([Finding(Topic.LIGHT, Level.BAD, "face 7 of 255", "too dark: " + "put light on the faces " * 4)])
    first = capsys.readouterr().out
    assert first.startswith("\rBAD  light    face 7 of 255\x1b[K\n")
    rows = first.count("\n")
    assert rows >= 3
    assert max(len(row) for row in first.replace("\x1b[K", "").replace("\x1b[J", "").splitlines()) <= 60
    # A moment later nobody could have read it.
    display.show([Finding(Topic.LIGHT, Level.GOOD, "face 90 of 255")])
    assert capsys.readouterr().out == ""
    display.show([Finding(Topic.LIGHT, Level.GOOD, "face 90 of 255")], last=True)
    assert capsys.readouterr().out == f"\x1b[{rows}A\rok   light    face 90 of 255\x1b[K\n\x1b[J"


# list


def test_cameras_are_listed_as_the_configuration_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pi"
    folder.mkdir()
    pi = PiCamera(folder, monkeypatch)
    monkeypatch.setattr("kiosk.camera._devices._SYSTEM", tmp_path / "none")
    assert run_in_process("camera", "list") == 0
    assert capsys.readouterr().out == "picamera2  imx708_wide\npicamera2:1  ov5647\n"
    pi.python.unlink()
    assert run_in_process("camera", "list") == 0
    told = capsys.readouterr()
    assert told.out == "no camera found\n"
    assert told.err.startswith(f"note: picamera2: {pi.python} cannot be run (No such file or directory)")
    assert run_in_process("camera", "list", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["cameras"] == []
    assert document["problem"] == told.err.removeprefix("note: ").rstrip()


def test_usb_cameras_are_found_by_their_own_name(tmp_path: Path) -> None:
    system, by_id, dev = tmp_path / "video4linux", tmp_path / "by-id", tmp_path / "dev"
    for folder in (by_id, dev):
        folder.mkdir()
    # A webcam with its metadata, a second one without a link, and a stage of a Pi's own hardware.
    for number, name, index, bus in (
        (10, "HD Webcam", "0", "usb1/1-1"),
        (11, "HD Webcam", "1", "usb1/1-1"),
        (2, "Old Cam", "0", "usb2/2-1"),
        (13, "bcm2835-isp", "0", "platform/isp"),
    ):
        device = system / f"video{number}"
        hardware = tmp_path / "devices" / bus
        hardware.mkdir(parents=True, exist_ok=True)
        device.mkdir(parents=True)
        (device / "device").symlink_to(hardware)
        (device / "name").write_text(f"{name}\n")
        (device / "index").write_text(f"{index}\n")
        (dev / f"video{number}").touch()
    (by_id / "usb-HD-video-index0").symlink_to(dev / "video10")
    found = [(one.source, one.name, one.device) for one in list_usb(system, by_id)]
    assert found == [
        ("/dev/video2", "Old Cam", "/dev/video2"),
        (str(by_id / "usb-HD-video-index0"), "HD Webcam", "/dev/video10"),
    ]
    assert list_usb(tmp_path / "nothing", tmp_path / "nothing") == []
