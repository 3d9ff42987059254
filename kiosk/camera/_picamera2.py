"""Cameras of the Raspberry Pi: picamera2 in a process of its own, run by the system's Python.

picamera2 and libcamera come from the system's packages, compiled for the system's Python and NumPy: the kiosk's
environment need not match them. Nor can a driver that hangs, hang the kiosk: the process is killed, and another is
started. Every wait here has an end.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import mmap
import os
import select
import subprocess
import time
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from kiosk.attention import Grey
from kiosk.biometrics import Image
from kiosk.camera._rotation import turn
from kiosk.camera._sources import shrink
from kiosk.clock import SystemClock
from kiosk.errors import CameraError

log = logging.getLogger(__name__)

LOADING_S = 5.0
"""Beyond the time to open: on a small board Python takes so long to load picamera2 and its libraries."""

# Isolated: neither the kiosk's environment nor what lies about may be taken for a package.
_PYTHON = ("/usr/bin/python3", "-I")
_SCRIPT = Path(__file__).with_name("_picamera2_helper.py")
_INSTALL = "sudo apt install -y python3-picamera2 --no-install-recommends"
_REFUSALS = {
    "missing": f"is not installed; `{_INSTALL}`",
    "foreign": f"cannot be loaded ({{}}); `{_INSTALL} --reinstall`",
    "absent": "no camera found; check its ribbon cable, then look at `rpicam-hello --list-cameras`",
    "place": "there is no such camera, only {}; set camera.source to picamera2",
    "busy": "is in use by another program (`sudo fuser -v /dev/media*` tells which); end that",
    "open": "cannot be opened: {}",
    "format": "does not take {}; change camera.width, camera.height and camera.fps",
}
"""By the helper's word for it, with its reason."""
_END_S = 1.0
_KILL_S = 0.5
_MAX_ANSWER_BYTES = 65536
_MAX_LINE = 300
# A camera in trouble writes a line a frame.
_RELAY_EVERY_S = 60.0
# Older, a picture was not just taken: its time is of another clock.
_MAX_AGE_S = 2.0


@dataclass(frozen=True, slots=True)
class Picamera2Settings:
    """How a camera of the Raspberry Pi is set.

    ``focus_m``: None focuses continuously, where the lens can be moved. ``exposure``: which the automatic exposure
    prefers. ``ev``: brighter or darker than it would have it, in stops. ``longest_exposure_ms``: None: 1000 / fps.
    """

    focus_m: float | None = None
    exposure: Literal["normal", "short", "long"] = "normal"
    ev: float = 0.0
    longest_exposure_ms: float | None = None


class Picamera2Source:
    """A camera by its place in libcamera's list. ``upside_down``: turned by 180 degrees, by the sensor if it can."""

    def __init__(
        self,
        index: int,
        size: tuple[int, int],
        fps: int,
        *,
        upside_down: bool,
        settings: Picamera2Settings,
        open_timeout_s: float,
        read_timeout_s: float,
    ) -> None:
        self._index = index
        self._size = size
        self._fps = fps
        self._upside_down = upside_down
        self._settings = settings
        self._open_timeout_s = open_timeout_s
        self._read_timeout_s = read_timeout_s
        self._problem = ""
        self._told: set[str] = set()

    @property
    def name(self) -> str:
        return "picamera2" if self._index == 0 else f"picamera2:{self._index}"

    def open(self) -> Picamera2Capture | None:
        wishes = asdict(self._settings) | {
            "index": self._index,
            "size": self._size,
            "fps": self._fps,
            "upside_down": self._upside_down,
        }
        try:
            helper = Helper(self.name, wishes)
        except OSError as error:
            self._problem = _no_python(error)
            return None
        try:
            opened = helper.answer(self._open_timeout_s)
        except _NoAnswerError as error:
            helper.end()
            self._problem = _explain(error)
            return None
        self._note(opened)
        width, height = opened["size"]
        turned = self._upside_down and not opened["turned"]
        return Picamera2Capture(helper, (height, width, 3), self._read_timeout_s, turned=turned)

    def explain(self, waited_s: float) -> str:  # noqa: ARG002 - the helper says it better
        return self._problem

    def _note(self, opened: dict[str, Any]) -> None:
        """Say once what the camera is, and what came of the settings."""
        width, height = opened["size"]
        told = {f"{opened['model']}, {width} x {height} pixels": logging.INFO}
        if (width, height) != self._size:
            told[f"delivers {width} x {height} pixels instead of {self._size[0]} x {self._size[1]}"] = logging.WARNING
        for setting in opened["ignored"]:
            told[f"camera.picamera2.{setting} has no effect: this camera has nothing to set there"] = logging.WARNING
        for text, level in told.items():
            if text not in self._told:
                self._told.add(text)
                log.log(level, "%s: %s", self.name, _line(text))


class Picamera2Capture:
    """The helper's pictures, one whenever one is wanted: so the newest, and nothing is copied that nobody wants."""

    def __init__(self, helper: Helper, shape: tuple[int, int, int], read_timeout_s: float, *, turned: bool) -> None:
        self._helper = helper
        self._read_timeout_s = read_timeout_s
        self._turned = turned
        self._picture = helper.map_picture(shape)
        self.captured_s: float | None = None

    def grab(self) -> bool:
        try:
            answer = self._helper.ask(self._read_timeout_s)
        except _NoAnswerError:
            return False
        self.captured_s = to_boottime_s(answer.get("taken_ns"))
        return True

    def retrieve(self) -> Image | None:
        # Either is a copy: the helper writes the next picture into the same memory.
        return turn(self._picture, 180) if self._turned else self._picture.copy()

    def glance(self) -> Grey | None:
        # Which way up is all the same to whoever looks for motion.
        return shrink(self._picture)

    def release(self) -> None:
        self._helper.end()


class _NoAnswerError(Exception):
    """The helper refused (``refused``: what, in its word for it), fell silent or ended."""

    def __init__(self, message: str, refused: str = "") -> None:
        super().__init__(message)
        self.refused = refused


class Helper:
    """The process that has the camera, and the memory that it writes pictures into.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, name: str, wishes: dict[str, Any]) -> None:
        self._name = name
        self._answers = b""
        self._errors = b""
        self._last_error = ""
        self._relayed_s = float("-inf")
        self._memory_fd = os.memfd_create(f"kiosk-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        wishes = wishes | {"memory": self._memory_fd, "parent": os.getpid()}
        try:
            self._process = subprocess.Popen(  # noqa: S603 - both are ours
                [*_PYTHON, str(_SCRIPT), json.dumps(wishes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[self._memory_fd],
                env=_environment(),
                cwd="/",
                bufsize=0,
            )
        except OSError:
            os.close(self._memory_fd)
            raise
        self._asking = cast("FileIO", self._process.stdin)
        self._answering = cast("FileIO", self._process.stdout)
        self._erring = cast("FileIO", self._process.stderr)
        for pipe in (self._answering, self._erring):
            os.set_blocking(pipe.fileno(), False)

    def ask(self, timeout_s: float) -> dict[str, Any]:
        """Have the newest picture put into the memory.

        Raises:
            _NoAnswerError: it was not, within ``timeout_s``.
        """
        try:
            self._asking.write(b"?")
        except OSError:
            raise self._ended() from None
        return self.answer(timeout_s)

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """The next line that it says.

        Raises:
            _NoAnswerError: it says none within ``timeout_s``, refuses, or has ended.
        """
        deadline_s = time.monotonic() + timeout_s
        waiting = select.poll()
        waiting.register(self._answering, select.POLLIN)
        waiting.register(self._erring, select.POLLIN)
        while b"\n" not in self._answers:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or len(self._answers) > _MAX_ANSWER_BYTES:
                raise _NoAnswerError(f"has not answered for {timeout_s:g} s; check the camera's cable")
            ready = {fd for fd, _ in waiting.poll(left_s * 1000)}
            if self._erring.fileno() in ready and not self._relay():
                waiting.unregister(self._erring)
            if self._answering.fileno() in ready:
                said = self._answering.read(_MAX_ANSWER_BYTES)
                if said == b"":
                    self._relay()
                    raise self._ended()
                self._answers += said or b""
        line, _, self._answers = self._answers.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise _NoAnswerError(_line(answer["why"]), answer["refused"])
        return answer

    def map_picture(self, shape: tuple[int, int, int]) -> Image:
        """The memory as a picture; it is overwritten with each that is asked for."""
        # What is mapped must not be taken away.
        fcntl.fcntl(self._memory_fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        height, width, channels = shape
        memory = mmap.mmap(self._memory_fd, height * width * channels, prot=mmap.PROT_READ)
        return np.frombuffer(memory, np.uint8).reshape(shape)

    def end(self) -> None:
        """Let it release the camera; kill it if it does not."""
        with contextlib.suppress(OSError):
            self._asking.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            # One that hangs in the kernel outlives even that for a while.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_KILL_S)
        self._answering.close()
        self._erring.close()
        with contextlib.suppress(OSError):
            os.close(self._memory_fd)
        self._memory_fd = -1

    def _ended(self) -> _NoAnswerError:
        reason = f": {self._last_error}" if self._last_error else ""
        return _NoAnswerError(f"its process has ended{reason}")

    def _relay(self) -> bool:
        """Pass on what it wrote to standard error. False: it has closed that."""
        written = self._erring.read(_MAX_ANSWER_BYTES)
        *lines, self._errors = (self._errors + (written or b"")).split(b"\n")
        self._errors = self._errors[-_MAX_LINE:]
        for line in lines:
            self._last_error = _line(line.decode(errors="replace"))
            now_s = time.monotonic()
            quiet = now_s - self._relayed_s < _RELAY_EVERY_S
            log.log(logging.DEBUG if quiet else logging.WARNING, "%s: %s", self._name, self._last_error)
            if not quiet:
                self._relayed_s = now_s
        return written != b""


def list_picamera2(timeout_s: float = 5.0) -> list[str]:
    """The models of the cameras that libcamera knows, in its order.

    Raises:
        CameraError: picamera2 cannot be used.
    """
    try:
        helper = Helper("picamera2", {"index": None})
    except OSError as error:
        raise CameraError(f"picamera2: {_no_python(error)}") from error
    try:
        models: list[str] = helper.answer(timeout_s + LOADING_S)["cameras"]
    except _NoAnswerError as error:
        raise CameraError(f"picamera2: {_explain(error)}") from error
    finally:
        helper.end()
    return [_line(model) for model in models]


def to_boottime_s(taken_ns: int | None) -> float:
    """When a picture was taken, on the kiosk's clock (``CLOCK_BOOTTIME``), from the sensor's time stamp.

    libcamera's documents call that CLOCK_BOOTTIME, too; the kernel's drivers use CLOCK_MONOTONIC, which stands still
    while the machine sleeps. The one by which the picture has just been taken is right.
    """
    now_s = SystemClock().boottime_s()
    if taken_ns is None:
        return now_s
    ages = (time.clock_gettime(clock) - taken_ns / 1e9 for clock in (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME))
    return now_s - next((age_s for age_s in ages if 0 <= age_s <= _MAX_AGE_S), 0.0)


def _environment() -> dict[str, str]:
    """Without the kiosk's secrets, and with no more than errors from libcamera, which tells much at every start."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("LIBCAMERA_")}
    return {"PATH": os.defpath, "LANG": "C.UTF-8", "LIBCAMERA_LOG_LEVELS": "*:ERROR"} | kept


def _explain(error: _NoAnswerError) -> str:
    """Why there is no camera, and what to do."""
    if error.refused == "absent" and _media_refused():
        return "cameras may not be opened by this user; add the user to the group video"
    return _REFUSALS.get(error.refused, "{}").format(error)


def _no_python(error: OSError) -> str:
    return f"{_PYTHON[0]} cannot be run ({error.strerror}): picamera2 needs the system's Python; `{_INSTALL}`"


def _media_refused() -> bool:
    devices = list(Path("/dev").glob("media*"))
    return bool(devices) and not any(os.access(device, os.R_OK | os.W_OK) for device in devices)


def _line(text: str) -> str:
    """One line, whatever a library had to say."""
    return "".join(c if c.isprintable() else " " for c in text).strip()[:_MAX_LINE]
