"""Faults of live cameras, done to real sockets and real pipes, and how long it takes to notice and to get over them.

    python tests/camera_faults.py [SECONDS [ROUNDS]]

prints the table for the default time-outs: each fault lasts so long (default 20 s), the worst of the rounds counts. The
camera that fails runs in a process of its own, so that the CPU time is that of the kiosk's capture alone.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.managers import BaseManager
from pathlib import Path

from mjpeg import Fault, MjpegServer, as_part, numbered
from rtsp import RtspServer

from kiosk.camera import LiveCamera, open_camera
from kiosk.camera._sources import Capture, DecodingCapture
from kiosk.opencv import cv2

# What is wrong in the pixels is the same whichever way they came; a damaged JPEG's headers are made anew by RTP.
_HTTP_ONLY = {Fault.BLACK, Fault.WHITE, Fault.GARBAGE}
_LONGEST_DEAD_S = 10.0
READ_S = 0.5
"""How long the daemon waits for a frame."""


class PipeCamera:
    """A camera whose pictures come through a named pipe, and the source that reads them.

    It behaves as a device file does: gone when unplugged (reads fail at once), and able to hang a reader, or whoever
    opens it, in the kernel, where none of OpenCV's time-outs reaches.
    """

    def __init__(self, path: Path, *, fps: float = 25.0) -> None:
        self.path = path
        self._interval_s = 1 / fps
        self._ended = threading.Event()
        self._sending = threading.Event()
        self._fd = -1
        self._hung: list[int] = []
        self._dead: list[Path] = []
        self.tries = 0
        self.in_use: set[Path] = set()
        self._sent = 0
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return str(self.path)

    def open(self) -> Capture | None:
        self.tries += 1
        path = self.path
        if not path.exists() or path in self.in_use:
            return None
        # As with a device file it is the kernel that makes an opening wait, before OpenCV takes any lock.
        os.close(os.open(path, os.O_RDONLY))
        if path != self.path:
            return None
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        return _PipeCapture(capture, self, path) if capture.isOpened() else None

    def explain(self, waited_s: float) -> str:  # noqa: ARG002
        if not self.path.exists():
            return "no such camera"
        return "in use" if self.path in self.in_use else "cannot be opened"

    def plug(self, *, dead: bool = False) -> None:
        """Be there; ``dead``: whoever opens it waits for ever."""
        os.mkfifo(self.path)
        if not dead:
            # Opened for both, a pipe makes nobody wait for the other side.
            self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
            self._sending.set()

    def unplug(self) -> None:
        self._sending.clear()
        self.path.unlink()
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def hang(self) -> None:
        """Keep the pipe open and send nothing: reads never return."""
        self._sending.clear()

    def replace(self) -> None:
        """A new one in its place; what hangs on the old one goes on hanging."""
        if self._fd >= 0:
            self._hung.append(self._fd)
        else:
            self._dead.append(self.path)
        self.path = self.path.with_name(self.path.name + "+")
        self.plug()

    def release(self) -> None:
        """Let what hangs come back."""
        for fd in self._hung:
            os.close(fd)
        for path in self._dead:
            # Somebody who could send, if only for a moment.
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        self._hung, self._dead = [], []

    def close(self) -> None:
        self._ended.set()
        self._sending.set()
        self._thread.join()
        if self.path.exists():
            self.replace()
            self.unplug()
        self.release()

    def _send(self) -> None:
        while not self._ended.wait(self._interval_s):
            self._sending.wait()
            self._sent += 1
            try:
                # Less than a pipe takes in one piece.
                os.write(self._fd, as_part(cv2.imencode(".jpg", numbered(self._sent))[1].tobytes()))
            except OSError:
                continue


class _PipeCapture(DecodingCapture):
    """Like a video device a pipe has one reader at a time."""

    def __init__(self, capture: cv2.VideoCapture, camera: PipeCamera, path: Path) -> None:
        super().__init__(capture)
        self._camera = camera
        self._path = path
        camera.in_use.add(path)

    def release(self) -> None:
        super().release()
        self._camera.in_use.discard(self._path)


def open_pipe(
    source: PipeCamera, *, open_timeout_s: float = 5.0, read_timeout_s: float = 3.0, frozen_after_s: float = 4.0
) -> LiveCamera:
    camera = LiveCamera(
        source,
        rotate=0,
        open_timeout_s=open_timeout_s,
        read_timeout_s=read_timeout_s,
        frozen_after_s=frozen_after_s,
    )
    camera.start()
    return camera


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> float:
    """Seconds until the condition held."""
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < timeout_s, "waited in vain"
        time.sleep(0.01)
    return time.monotonic() - started_s


@dataclass(frozen=True, slots=True)
class Measured:
    """One fault: after how long it was told, in which words, and after how long pictures came again."""

    told: str
    told_after_s: float
    back_after_s: float
    retries_per_s: float
    cpu_percent: float
    threads: int


def measure(camera: LiveCamera, begin: Callable[[], None], end: Callable[[], None], hold_s: float) -> Measured:
    """Let a fault begin, last for ``hold_s`` after it was told, and end. The camera is read as the daemon reads it."""
    wait_until(lambda: camera.read(READ_S) is not None and camera.fault is None)
    started_s = time.monotonic()
    begin()
    wait_until(lambda: camera.read(0.01) is None and camera.fault is not None)
    told_after_s = time.monotonic() - started_s
    before, cpu_s, held_s = camera.condition, time.process_time(), time.monotonic()
    while time.monotonic() - held_s < hold_s:
        camera.read(READ_S)
    after = camera.condition
    lasted_s = max(time.monotonic() - held_s, 1e-9)
    cpu_percent = 100 * (time.process_time() - cpu_s) / lasted_s
    threads = sum(thread.name == "camera" for thread in threading.enumerate())
    told = (after.fault or "").removeprefix(f"{camera.name}: ")
    ended_s = time.monotonic()
    end()
    wait_until(lambda: camera.read(0.05) is not None and camera.fault is None)
    return Measured(
        told=told,
        told_after_s=told_after_s,
        back_after_s=time.monotonic() - ended_s,
        # Openings that went well count twice if they failed later: an upper bound.
        retries_per_s=((after.attempts - before.attempts) - (after.frames - before.frames)) / lasted_s,
        cpu_percent=cpu_percent,
        threads=threads,
    )


class _Elsewhere(BaseManager):
    """A process for the camera; has a method for each kind of server."""


for kind, cls in {"http": MjpegServer, "rtsp": RtspServer}.items():
    _Elsewhere.register(kind, cls, exposed=["start", "stop", "address", "suffer", "mend"])


@contextmanager
def _network_camera(kind: str) -> Iterator[tuple[LiveCamera, MjpegServer]]:
    with _Elsewhere() as elsewhere:
        server: MjpegServer = getattr(elsewhere, kind)()
        server.start()
        camera = open_camera(source=server.address())
        assert isinstance(camera, LiveCamera)
        with closing(camera):
            yield camera, server


@contextmanager
def _pipe_camera() -> Iterator[tuple[LiveCamera, PipeCamera]]:
    with tempfile.TemporaryDirectory(prefix="k-") as folder, closing(PipeCamera(Path(folder) / "camera")) as source:
        source.plug()
        with closing(open_pipe(source)) as camera:
            yield camera, source


def _network_fault(kind: str, fault: Fault, hold_s: float) -> Measured:
    with _network_camera(kind) as (camera, server):
        if fault is not Fault.SIZE:
            return measure(camera, lambda: server.suffer(fault), server.mend, hold_s)
        # No fault: how long until the new size is delivered, and the old one again.
        wait_until(lambda: camera.read(READ_S) is not None)
        server.suffer(fault)
        told_s = _await_shape(camera, (64, 48))
        server.mend()
        return Measured("(no fault: delivered in its true size)", told_s, _await_shape(camera, (48, 64)), 0, 0, 1)


def _await_shape(camera: LiveCamera, shape: tuple[int, int]) -> float:
    def seen() -> bool:
        frame = camera.read(READ_S)
        return frame is not None and frame.image.shape[:2] == shape

    return wait_until(seen)


def _unplugged(hold_s: float) -> Measured:
    with _pipe_camera() as (camera, source):
        return measure(camera, source.unplug, source.plug, hold_s)


def _hanging(hold_s: float) -> Measured:
    with _pipe_camera() as (camera, source):
        return measure(camera, source.hang, source.replace, hold_s)


def _dead(hold_s: float) -> Measured:
    """Unplugged, and whoever opens what is there waits for ever.

    For longer than three attempts to open take it would be the watchdog's turn.
    """

    def begin() -> None:
        source.unplug()
        source.plug(dead=True)

    with _pipe_camera() as (camera, source):
        return measure(camera, begin, source.replace, min(hold_s, _LONGEST_DEAD_S))


def main() -> None:
    hold_s = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    cases: list[tuple[str, Callable[[float], Measured]]] = [
        ("is unplugged (reads fail at once)", _unplugged),
        *((f"http: {fault}", partial(_network_fault, "http", fault)) for fault in Fault),
        *((f"rtsp: {fault}", partial(_network_fault, "rtsp", fault)) for fault in Fault if fault not in _HTTP_ONLY),
        ("a read never returns", _hanging),
        ("an opening never returns", _dead),
    ]
    print(f"{hold_s:g} s each, worst of {rounds}")
    print(f"{'the camera …':38} {'told s':>7} {'back s':>7} {'tries/s':>8} {'CPU %':>6} {'threads':>7}  told as")
    for name, case in cases:
        # Not always at the same place of the back-off.
        done = [case(hold_s + 1.7 * number) for number in range(rounds)]
        told, back = max(m.told_after_s for m in done), max(m.back_after_s for m in done)
        tries, cpu = max(m.retries_per_s for m in done), max(m.cpu_percent for m in done)
        threads = max(m.threads for m in done)
        print(f"{name:38} {told:7.2f} {back:7.2f} {tries:8.2f} {cpu:6.2f} {threads:7}  {done[0].told}", flush=True)


if __name__ == "__main__":
    main()
