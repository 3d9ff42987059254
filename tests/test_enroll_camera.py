"""``kiosk enroll --camera``: real processes before a clip; the daemon's camera and one of its own."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

import pytest
from broker import wait_for
from command_line import Kiosk
from runner import assert_one_line_error, run_in_process

from kiosk.biometrics import Box, Frame
from kiosk.camera import open_camera
from kiosk.clip import Person, Scene, Walk, write_clip
from kiosk.commands.enroll_camera import capture
from kiosk.config import load
from kiosk.errors import CameraError, InputError
from kiosk.guidance import Guidance
from kiosk.opencv import cv2
from kiosk.pipeline import build_guide, build_pipeline
from kiosk.ports import CameraCondition
from kiosk.preview import socket_path
from kiosk.store import Store

CHIRAC = {
    "front": ("0022", Box(78, 78, 118, 118)),
    "left": ("0030", Box(64, 88, 99, 99)),
    "right": ("0033", Box(87, 81, 108, 108)),
}


def standing(photo: Path, face: Box, seconds: float = 1.5) -> Scene:
    person = Person(cv2.imread(str(photo)), face)  # type: ignore[arg-type]
    return Scene(seconds, (Walk(person, x=(0.5, 0.5), face_px=(190, 190)),))


@pytest.fixture(scope="module")
def turning(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    """Somebody who looks at the camera, to the left and to the right."""
    path = tmp_path_factory.mktemp("clip") / "turning.avi"
    photos = shared / "data" / "lfw-view1" / "images" / "Jacques_Chirac"
    write_clip(path, [standing(photos / f"Jacques_Chirac_{number}.jpg", face) for number, face in CHIRAC.values()])
    return path


@pytest.fixture(scope="module")
def facing(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Path:
    """Somebody who looks straight into the camera, whatever is asked for."""
    path = tmp_path_factory.mktemp("clip") / "facing.avi"
    write_clip(path, [standing(samples / "obama.jpg", Box(224, 92, 173, 173), 2.0)])
    return path


def watch(kiosk: Kiosk, clip: Path, *, loop: bool = True) -> None:
    kiosk.configure(camera={"source": str(clip), "loop": loop, "pace": "realtime"})


@contextmanager
def running(kiosk: Kiosk) -> Iterator[subprocess.Popen[str]]:
    process = kiosk.start("run")
    try:
        wait_for(lambda: socket_path(kiosk.store).exists() or process.poll() is not None, 30, what="socket")
        yield process
    finally:
        process.terminate()
        sys.stderr.write(process.communicate(timeout=20)[1] or "")


def is_enrolled(kiosk: Kiosk, subject_id: str) -> bool:
    with Store.open(kiosk.store, writable=False) as store:
        return store.subject(subject_id) is not None  # type: ignore[arg-type]


@pytest.mark.stories
def test_a_person_turns_before_the_running_kiosks_camera(kiosk: Kiosk, turning: Path) -> None:
    watch(kiosk, turning)
    with running(kiosk) as daemon:
        enrolled = kiosk("enroll", "E7", "--camera", "--samples", "3", "--name", "Jacques", "--json")
        assert enrolled.returncode == 0, enrolled.stderr
        document = json.loads(enrolled.stdout)
        assert (document["subject_id"], document["new"]) == ("E7", True)
        assert sorted(sample["pose"] for sample in document["samples"]) == ["front", "left", "right"]
        yaws = {sample["pose"]: sample["quality"]["yaw"] for sample in document["samples"]}
        assert yaws["right"] < yaws["front"] < yaws["left"]
        # Where nobody looks at a terminal, every hint that stays is a line.
        assert "E7: 1 of 3 (front): turn your head a little to your left\n" in enrolled.stderr
        assert "3 of 3" in enrolled.stderr
        assert "\x1b" not in enrolled.stderr
        with Store.open(kiosk.store, writable=False) as store:
            infos = store.template_infos("E7")  # type: ignore[arg-type]
            assert len(infos) == 3
            assert all(info.quality is not None and info.source_sha256 is None for info in infos)
            # Who has just been enrolled is recognized, from the next look at the store on.
            wait_for(lambda: [row.subject_id for row in store.attendance()] == ["E7"], 20, what="check-in")
        twice = kiosk("enroll", "E8", "--camera", "--samples", "3")
        assert twice.returncode == 65
        assert "nothing was stored" in twice.stderr.splitlines()[-1]
        assert "already enrolled as E7" in twice.stderr.splitlines()[-1]
        assert not is_enrolled(kiosk, "E8")
        assert daemon.poll() is None


class DeadCamera:
    """One that is open and brings nothing."""

    fault = "/dev/video0: has stopped delivering"
    condition = CameraCondition(fault, 0, 1, 0, None, 1)

    def read(self, timeout_s: float) -> Frame | None:
        time.sleep(min(timeout_s, 0.05))
        return None

    def close(self) -> None: ...


def test_what_is_missing_when_the_time_is_over(path: Path, facing: Path) -> None:
    config = load(None, {"KIOSK_STORE__PATH": str(path)})
    guide = build_guide(config, build_pipeline(config), samples=2)
    shown: list[Guidance | str] = []
    with (
        closing(open_camera(source=str(facing), loop=True)) as camera,
        pytest.raises(InputError, match=r"2 s are over: 1 of 2 pictures taken, missing: left; turn your head .* left;"),
    ):
        capture(camera, guide, show=shown.append, timeout_s=2, check=lambda _: None)
    assert shown
    with pytest.raises(CameraError, match=r"no picture came in 0\.2 s, nothing was stored: /dev/video0: has stopped"):
        capture(DeadCamera(), guide, show=shown.append, timeout_s=0.2, check=lambda _: None)
    assert shown[-1] == DeadCamera.fault


def test_a_clip_that_ends_enrolls_nobody_by_halves(kiosk: Kiosk, facing: Path) -> None:
    watch(kiosk, facing, loop=False)
    result = kiosk("enroll", "E7", "--camera")
    assert result.returncode == 65
    assert "nothing was stored: the camera's file has ended: 1 of 5 pictures taken" in result.stderr.splitlines()[-1]
    assert not is_enrolled(kiosk, "E7")


class Terminal:
    """A command on a terminal of its own: what it shows, and keys that are pressed there."""

    def __init__(self, kiosk: Kiosk, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        self.shown = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kiosk", *arguments],
            env={**os.environ, "KIOSK_CONFIG": str(kiosk.config), "COLUMNS": "100"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 nothing else makes it ours
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def await_text(self, text: bytes, timeout_s: float = 30) -> None:
        deadline_s = time.monotonic() + timeout_s
        while text not in self.shown:
            assert time.monotonic() < deadline_s, self.shown
            self._read()

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def end(self) -> int:
        """The exit code, after all that is still to be shown."""
        code = self.process.wait(15)
        while self._read():
            pass
        return code

    def _read(self) -> bytes:
        """Nothing: nothing came, or nobody has the other end any more."""
        try:
            chunk = os.read(self._master, 4096) if select.select([self._master], [], [], 0.2)[0] else b""
        except OSError:
            return b""
        self.shown += chunk
        return chunk


def test_on_a_terminal_one_line_is_rewritten_and_control_c_stores_nothing(kiosk: Kiosk, facing: Path) -> None:
    watch(kiosk, facing)
    asked = "E7: 1 of 5 (front): turn your head a little to your left"
    with Terminal(kiosk, "enroll", "E7", "--camera") as terminal:
        terminal.await_text(asked.encode())
        terminal.press(b"\x03")
        assert terminal.end() == 130
    shown = terminal.shown.decode()
    assert "\r\nE7: interrupted, nothing was stored\r\n" in shown
    assert "Traceback" not in shown
    hints = shown.partition("interrupted")[0].split("\r")
    # The bell rings for what was taken: who turns the head does not see the screen.
    # "^C" is the terminal's own echo.
    assert [hint.removesuffix("^C") for hint in hints if "\a" in hint] == [
        "E7: 1 of 5 (front): turn your head a little to your left\x1b[K\a"
    ]
    assert "E7: 0 of 5: hold still\x1b[K" in hints
    assert not is_enrolled(kiosk, "E7")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["enroll", "E7", "--camera", "photo.jpg"], "leave out IMAGE and --from-dir"),
        (["enroll", "--camera"], "say who"),
        (["enroll", "E7", "photo.jpg", "--samples", "3"], "--samples and --timeout-s need --camera"),
        (["enroll", "E7", "--camera", "--samples", "0"], "--samples"),
        (["enroll", "E7", "--camera", "--timeout-s", "0"], "--timeout-s"),
    ],
)
def test_what_does_not_go_together(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_in_process(*arguments) == 64
    assert told in assert_one_line_error(capsys.readouterr().err)


def test_a_kiosk_that_shows_nothing_keeps_its_camera(kiosk: Kiosk, facing: Path) -> None:
    """An older version, say: two processes cannot have one camera."""
    watch(kiosk, facing)
    with Store.open(kiosk.store) as store, store.daemon_lock():
        result = kiosk("enroll", "E7", "--camera")
    assert result.returncode == 69
    assert f"a kiosk daemon (process {os.getpid()}) has the camera" in assert_one_line_error(result.stderr)


def test_without_consent_nobody_is_looked_at(kiosk: Kiosk) -> None:
    # There is no such camera either: it is not asked for.
    watch(kiosk, kiosk.folder / "nothing.avi")
    kiosk.configure(privacy={"require_consent": True})
    result = kiosk("enroll", "E7", "--camera")
    assert result.returncode == 65
    assert "consent" in assert_one_line_error(result.stderr)
    result = kiosk("enroll", "E7", "--camera", "--consent", "F-1")
    assert result.returncode == 69
    assert "nothing.avi: no such file" in assert_one_line_error(result.stderr)
