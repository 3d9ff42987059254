"""What systemd's watchdog is fed for: work that is done. Hangs starve it, and a camera that is merely away does not."""

from __future__ import annotations

import fcntl
import itertools
import logging
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from broker import free_port
from camera_faults import PipeCamera, open_pipe, wait_until
from command_line import Kiosk
from mjpeg import Fault, MjpegServer

from kiosk.attendance import AttendanceBook, AttendanceSettings
from kiosk.biometrics import Box, Candidate, Decision, Face, Image, ModelId, Reason, SubjectId, Verdict
from kiosk.clip import Person, Scene, Walk, write_clip
from kiosk.clock import SystemClock
from kiosk.config import load
from kiosk.daemon import Daemon, GalleryWatcher, Retention
from kiosk.decision import RefractoryPeriod
from kiosk.events import EventType, Moment, Origin
from kiosk.opencv import cv2
from kiosk.pipeline import build_pipeline
from kiosk.ports import Camera, Detector, Message, Outcome, Receipt
from kiosk.preview import Preview, socket_path
from kiosk.publisher import Publisher
from kiosk.sdnotify import Heartbeat, Notifier
from kiosk.store import Store

pytestmark = pytest.mark.faults

LIMIT_S = 2.0
"""A watchdog more impatient than systemd's 30 s, so that nobody must wait that long."""


class Supervisor:
    """systemd's end of the notification socket."""

    def __init__(self) -> None:
        # A socket's path may have 107 bytes: pytest's folders can be longer.
        self._folder = tempfile.TemporaryDirectory(prefix="k-")
        self.address = f"{self._folder.name}/notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(0.1)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self.told: list[tuple[float, str]] = []

    def environ(self, limit_s: float = LIMIT_S) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.address, "WATCHDOG_USEC": str(round(limit_s * 1e6))}

    def feeds(self) -> list[float]:
        """When the watchdog was fed."""
        return [when_s for when_s, line in list(self.told) if line == "WATCHDOG=1"]

    def status(self) -> str:
        lines = [line for _, line in list(self.told) if line.startswith("STATUS=")]
        return lines[-1].removeprefix("STATUS=") if lines else ""

    def is_ready(self) -> bool:
        return "READY=1" in [line for _, line in list(self.told)]

    def assert_starved(self, for_s: float = 1.5 * LIMIT_S) -> None:
        """After what was on its way nothing comes any more: systemd would end the process."""
        time.sleep(0.6)
        fed = len(self.feeds())
        time.sleep(for_s)
        assert len(self.feeds()) == fed

    def await_feeds(self, count: int = 3) -> None:
        before = len(self.feeds())
        wait_until(lambda: len(self.feeds()) >= before + count)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()
        self._folder.cleanup()

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                lines = self._socket.recv(4096).decode().splitlines()
            except TimeoutError:
                continue
            self.told += [(time.monotonic(), line) for line in lines]


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    with Supervisor() as supervisor:
        yield supervisor


@pytest.fixture
def server() -> Iterator[MjpegServer]:
    with MjpegServer() as running:
        yield running


@pytest.fixture
def device(tmp_path: Path) -> Iterator[PipeCamera]:
    device = PipeCamera(tmp_path / "camera")
    device.plug()
    with closing(device):
        yield device


@contextmanager
def _running(kiosk: Kiosk, supervisor: Supervisor, limit_s: float = LIMIT_S) -> Iterator[None]:
    """``kiosk run``, from its first sign of life on; it must outlive the test."""
    process = kiosk.start("run", env=supervisor.environ(limit_s))
    try:
        wait_until(lambda: bool(supervisor.feeds()) or process.poll() is not None)
        yield
        assert process.poll() is None
        process.terminate()
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0, log
        assert "Traceback" not in log
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=10)


# The daemon as a process


def test_camera_that_is_away_does_not_starve_it(kiosk: Kiosk, supervisor: Supervisor, server: MjpegServer) -> None:
    # Longer than the longest pause between two attempts, and shorter than the camera is away.
    limit_s = 7.0
    # Nor does a broker that is away, too: its publisher rests and says so.
    kiosk.configure(camera={"source": server.url}, mqtt={"enabled": True, "host": "127.0.0.1", "port": free_port()})
    with _running(kiosk, supervisor, limit_s):
        left_s = time.monotonic()
        server.suffer(Fault.REFUSE)
        time.sleep(limit_s + 2)
        assert "no pictures" in supervisor.status()
        assert "connection refused" in supervisor.status()
        feeds = [left_s, *(feed for feed in supervisor.feeds() if feed > left_s), time.monotonic()]
        assert max(later - earlier for earlier, later in itertools.pairwise(feeds)) < limit_s
        server.mend()
        wait_until(lambda: supervisor.status().startswith("watching"))


def test_camera_without_a_single_good_picture_is_a_fault_and_not_a_failed_start(
    kiosk: Kiosk, supervisor: Supervisor, server: MjpegServer
) -> None:
    server.suffer(Fault.GARBAGE)
    kiosk.configure(camera={"source": server.url, "open_timeout_s": 0.5})
    with _running(kiosk, supervisor):
        wait_until(lambda: "sends damaged pictures" in supervisor.status())
        # Else systemd would restart it every TimeoutStartSec.
        assert supervisor.is_ready()
        supervisor.await_feeds()
        server.mend()
        wait_until(lambda: supervisor.status().startswith("watching"))


def test_capture_that_says_neither_picture_nor_fault_starves_it(
    kiosk: Kiosk, supervisor: Supervisor, server: MjpegServer
) -> None:
    kiosk.configure(camera={"source": server.url, "read_timeout_s": 60})
    with _running(kiosk, supervisor):
        server.suffer(Fault.STALL)
        supervisor.assert_starved()
        server.mend()
        supervisor.await_feeds()


def test_store_that_hangs_starves_it(kiosk: Kiosk, supervisor: Supervisor, samples: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.avi"
    obama = Person(cv2.imread(str(samples / "obama2.jpg")), Box(115, 181, 181, 181))  # type: ignore[arg-type]
    write_clip(clip, [Scene(1.0, (Walk(obama, x=(0.45, 0.55), face_px=(120, 130)),)), Scene(1.3)])
    assert kiosk("enroll", "obama", samples / "obama.jpg").returncode == 0
    kiosk.configure(camera={"source": str(clip), "pace": "fast", "loop": True}, match={"refractory_s": 1})
    with _running(kiosk, supervisor), Store.open(kiosk.store, writable=False) as store:
        wait_until(lambda: len(store.attendance()) > 0)
        with _store_is_locked(kiosk.store):
            supervisor.assert_starved()
        supervisor.await_feeds()


@contextmanager
def _store_is_locked(path: Path) -> Iterator[None]:
    """Another process that writes and does not come to an end."""
    with path.with_name(path.name + ".lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# The daemon's loop, with parts that can be made to hang


class HangingDetector:
    """Finds nobody, until it hangs."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.goes_on.set()

    def detect(self, image: Image) -> list[Face]:  # noqa: ARG002
        self.goes_on.wait()
        return []

    def refine(self, image: Image, face: Face) -> Face:  # noqa: ARG002
        return face


@contextmanager
def _watching(kiosk: Kiosk, camera: Camera, detector: Detector, supervisor: Supervisor) -> Iterator[None]:
    """The daemon's loop in a thread of this process."""
    config = load(kiosk.config, {})
    clock = SystemClock()
    stopping = threading.Event()
    with ExitStack() as stack:
        store = stack.enter_context(Store.open(kiosk.store))
        watcher = GalleryWatcher(config, replace(build_pipeline(config), detector=detector), store)
        book = AttendanceBook(
            store,
            AttendanceSettings(Origin("hq", "door-1", "UTC"), "check_in", outbox=False, include_name=False),
            clock=clock,
            boot_id=clock.boot_id(),
            refractory=RefractoryPeriod(60),
            on_check_in=lambda _: None,
            on_rejected=lambda _: None,
        )
        daemon = Daemon(
            camera=camera,
            watcher=watcher,
            book=book,
            store=store,
            notifier=Notifier(supervisor.environ()),
            heartbeat=Heartbeat("capture", "recognition"),
            retention=Retention(attendance_days=1, rejected_days=1),
            wake=threading.Event(),
            preview=Preview(socket_path(kiosk.store)),
        )
        thread = threading.Thread(target=daemon.watch, args=(stopping,))
        thread.start()
        try:
            supervisor.await_feeds()
            yield
        finally:
            stopping.set()
            thread.join(10)
        assert not thread.is_alive()


def test_read_that_never_returns_starves_it(kiosk: Kiosk, supervisor: Supervisor, device: PipeCamera) -> None:
    with (
        closing(open_pipe(device, read_timeout_s=0.3)) as camera,
        _watching(kiosk, camera, HangingDetector(), supervisor),
    ):
        device.hang()
        # The fault is told, others try beside the one that hangs, and yet nothing gets on.
        supervisor.assert_starved(4)
        assert "in use" in supervisor.status()
        device.replace()
        supervisor.await_feeds()


def test_inference_that_hangs_starves_it(kiosk: Kiosk, supervisor: Supervisor, device: PipeCamera) -> None:
    detector = HangingDetector()
    with closing(open_pipe(device)) as camera, _watching(kiosk, camera, detector, supervisor):
        detector.goes_on.clear()
        frames = camera.condition.frames
        supervisor.assert_starved()
        # The capture was not what hung.
        assert camera.condition.frames > frames + 20
        detector.goes_on.set()
        supervisor.await_feeds()


def test_camera_that_comes_and_goes_does_not_fill_the_log(
    kiosk: Kiosk, supervisor: Supervisor, device: PipeCamera, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kiosk.daemon")
    with closing(open_pipe(device)) as camera, _watching(kiosk, camera, HangingDetector(), supervisor):
        for _ in range(3):
            device.unplug()
            wait_until(lambda: "no such camera" in supervisor.status())
            device.plug()
            wait_until(lambda: supervisor.status().startswith("watching"))
    told = [record.getMessage() for record in caplog.records]
    assert told.count(f"no pictures: {device.name}: no such camera") == 1
    assert told.count("pictures are back") == 1


# The publisher


class AcknowledgingBroker:
    connected = True

    def publish(self, messages: Sequence[Message], *, timeout_s: float = 10.0) -> list[Receipt]:
        del timeout_s
        return [Receipt(Outcome.SENT)] * len(messages)

    def wait_connected(self, timeout_s: float) -> bool:
        del timeout_s
        return True


def test_publisher_beats_while_it_rests_and_not_while_its_store_hangs(tmp_path: Path) -> None:
    heartbeat, wake = Heartbeat("publisher"), threading.Event()
    with Store.open(tmp_path / "kiosk.db") as store:
        _check_in(store)
        publisher = Publisher(
            store, AcknowledgingBroker(), wake=wake, clock=SystemClock(), beat=lambda: heartbeat.beat("publisher")
        )
        publisher.start()
        assert publisher.drain(5)
        # Nothing to do, and nobody to wake it.
        for _ in range(3):
            wait_until(heartbeat.collect, 3)
        _check_in(store)
        with _store_is_locked(store.path):
            wake.set()
            time.sleep(0.5)
            heartbeat.collect()
            assert not _happens_within(2.5, heartbeat.collect)
        wait_until(heartbeat.collect, 3)
        assert publisher.drain(5)
        publisher.stop()


def _happens_within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        if condition():
            return True
        time.sleep(0.02)
    return False


def _check_in(store: Store) -> None:
    subject = SubjectId("E1")
    if not store.subjects():
        store.enroll(subject, [], name=None)
    clock = SystemClock()
    store.record_check_in(
        Decision(Verdict.IDENTIFIED, Reason.MATCH, 0.62, (Candidate(subject, 0.81),), frames=5),
        event_type=EventType.CHECK_IN,
        moment=Moment(clock.utc_ms(), clock.synchronized(), round(clock.boottime_s() * 1000), clock.boot_id()),
        origin=Origin("hq", "door-1", "UTC"),
        model_id=ModelId("test-int8@abcdef"),
        gallery_size=1,
    )
