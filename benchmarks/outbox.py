"""A week without a broker: how large the store gets, how fast it drains, and what the person at the door notices.

    python benchmarks/outbox.py [--events 20000] [--rate 15] [--idle-s 60] > outbox.json

Check-ins are committed with the evidence that the recognizer gives for the sample photos in a gallery of 50 (three
people and 47 random templates), while the publisher looks for a broker in vain. Then a real mosquitto and a subscriber
in a process of its own appear. Before and while the outbox drains, ``--rate`` frames a second are recognized and
recorded; what is compared are these times. As root it also counts what a check-in and its delivery write to a block
device (an ext4 on a loop device). Needs the test extra and mosquitto. The story on stderr, JSON on stdout.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

REPO = Path(__file__).parent.parent
sys.path.insert(0, str(REPO / "tests"))

from broker import Mosquitto, wait_for  # noqa: E402
from faults.consumer import Consumer  # noqa: E402
from faults.disks import Disk, why_no_power_can_be_cut  # noqa: E402
from faults.doors import write_visits  # noqa: E402

from kiosk.biometrics import Decision, Frame, SubjectId  # noqa: E402
from kiosk.clock import SystemClock  # noqa: E402
from kiosk.config import Config  # noqa: E402
from kiosk.events import EventType, Moment, Origin, Topics  # noqa: E402
from kiosk.mqtt import BrokerSettings, MqttBroker  # noqa: E402
from kiosk.opencv import cv2  # noqa: E402
from kiosk.photo import read_photo  # noqa: E402
from kiosk.pipeline import Pipeline, build_pipeline, build_recognizer  # noqa: E402
from kiosk.publisher import Publisher  # noqa: E402
from kiosk.recognition import Recognizer  # noqa: E402
from kiosk.store import NewTemplate, Store  # noqa: E402

SAMPLES = REPO / "kiosk" / "data" / "samples"
PEOPLE = {"obama": "obama.jpg", "biden": "biden_portrait.jpg", "collins": "collins.jpg"}
GALLERY = 50
SEED = 4
DEVICE = "door-1"
ORIGIN = Origin("hq", DEVICE, "Asia/Seoul")
MIB = 1024 * 1024
LATE_DRAIN_S = 600.0
WEIGHED = 600
"""Check-ins whose writing is counted: some rounds of the write-ahead log."""
WARM_UP = 200
"""Check-ins before them: a new log grows, which costs more."""


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds, of ``count`` frames: recognizing one, committing its check-in, and both."""

    count: int
    recognized_p50: float
    committed_p50: float
    committed_p99: float
    both_p50: float
    both_p99: float

    @classmethod
    def of(cls, samples_ms: Sequence[tuple[float, float]]) -> Times:
        recognized, committed = np.array(samples_ms).T
        both = recognized + committed
        cuts = (recognized, 50), (committed, 50), (committed, 99), (both, 50), (both, 99)
        return cls(len(samples_ms), *(round(float(np.percentile(values, cut)), 2) for values, cut in cuts))


class Door:
    """What the daemon is made of, with the camera's frames at hand."""

    def __init__(self, store: Store, clip: Path, wake: threading.Event) -> None:
        config = Config()
        self._store = store
        self._wake = wake
        self._clock = SystemClock()
        self.clock_synchronized = True
        """As with a time server in reach, whatever this machine has."""
        pipeline = build_pipeline(config)
        enroll(store, pipeline)
        self._gallery = store.gallery(pipeline.embedder.model_id)
        self._recognizer: Recognizer = build_recognizer(config, pipeline, self._gallery)
        self._frames = itertools.cycle(read_frames(clip))
        self._decisions = itertools.cycle(self._decide())

    def commit(self) -> int:
        """Record a check-in; its number."""
        moment = Moment(
            self._clock.utc_ms(),
            self.clock_synchronized,
            round(self._clock.boottime_s() * 1000),
            self._clock.boot_id(),
        )
        event = self._store.record_check_in(
            next(self._decisions),
            event_type=EventType.CHECK_IN,
            moment=moment,
            origin=ORIGIN,
            model_id=self._gallery.model_id,
            gallery_size=len(self._gallery),
            threshold_source="threshold 0.524 and 0.5 of the mean score of the next 5 (FPIR 0.001 with 50 subjects)",
        )
        if event is None:
            raise RuntimeError("the subject is gone")
        self._wake.set()
        return event.seq

    def await_sent(self) -> None:
        """Wait until nothing is unsent; asked through the store itself, for another reader would hold up its log."""
        wait_for(lambda: self._store.unsent().pending == 0, 20, what="everything sent")

    def receive(self) -> tuple[float, float]:
        """Recognize a frame and record a check-in; milliseconds of both."""
        began_s = time.perf_counter()
        self._recognizer.process(next(self._frames))
        recognized_s = time.perf_counter()
        self.commit()
        return (recognized_s - began_s) * 1000, (time.perf_counter() - recognized_s) * 1000

    def receive_while(self, going_on: Callable[[], bool], rate: float) -> list[tuple[float, float]]:
        """``rate`` frames a second."""
        samples, due_s = [], time.monotonic()
        while going_on():
            samples.append(self.receive())
            due_s = max(due_s + 1 / rate, time.monotonic())
            time.sleep(due_s - time.monotonic() if due_s > time.monotonic() else 0)
        return samples

    def _decide(self) -> list[Decision]:
        """Those of one round through the clip."""
        decisions = [
            report.decision
            for _ in range(18)
            for report in self._recognizer.process(next(self._frames))
            if report.final and report.decision.subject_id is not None
        ]
        if len({decision.subject_id for decision in decisions}) != len(PEOPLE):
            raise RuntimeError(f"not everybody was recognized: {decisions}")
        return decisions


def enroll(store: Store, pipeline: Pipeline) -> None:
    for subject_id, photo in PEOPLE.items():
        image = read_photo(SAMPLES / photo)
        face = pipeline.detector.refine(image, pipeline.detector.detect(image)[0])
        template = NewTemplate(pipeline.embedder.model_id, pipeline.embedder.embed(image, face))
        store.enroll(SubjectId(subject_id), [template])
    rng = np.random.default_rng(SEED)
    length = len(template.embedding)
    for number in range(GALLERY - len(PEOPLE)):
        vector = rng.normal(size=length).astype(np.float32)
        store.enroll(
            SubjectId(f"E{number:04}"), [NewTemplate(pipeline.embedder.model_id, vector / np.linalg.norm(vector))]
        )


def read_frames(clip: Path) -> list[Frame]:
    """Two rounds of it, so that everybody is forgotten and comes again."""
    capture = cv2.VideoCapture(str(clip), cv2.CAP_FFMPEG)
    images = []
    while True:
        read, image = capture.read()
        if not read:
            break
        images.append(image)
    capture.release()
    return [Frame(image, index / 4, index) for index, image in enumerate(images * 2)]  # type: ignore[arg-type]


@contextlib.contextmanager
def listener(port: int) -> Iterator[subprocess.Popen[str]]:
    """A subscriber in a process of its own: here it would take time from what is measured."""
    command = [sys.executable, __file__, "--consume", str(port)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def await_subscriber(process: subprocess.Popen[str]) -> None:
    if process.stdout is None or not process.stdout.readline():
        raise RuntimeError("the subscriber ended")


def consume(port: int) -> None:
    """Until stdin is closed; then what arrived."""
    with Consumer(port) as consumer:
        print("ready", flush=True)
        sys.stdin.read()
        print(json.dumps(asdict(consumer.ledger.summary())), flush=True)


def unsent(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT COUNT(*) FROM outbox WHERE state <> 'sent'").fetchone()[0])


@contextlib.contextmanager
def door_of(path: Path, clip: Path, port: int) -> Iterator[Door]:
    """Store, publisher and connection as the daemon has them."""
    wake = threading.Event()
    with Store.open(path) as store:
        topics = Topics("kiosk/v1", ORIGIN.site, DEVICE)
        broker = MqttBroker(BrokerSettings("127.0.0.1", port, None, None), topics, on_change=wake.set)
        publisher = Publisher(store, broker, wake=wake, clock=SystemClock())
        door = Door(store, clip, wake)
        broker.start()
        publisher.start()
        try:
            yield door
        finally:
            publisher.stop()
            broker.stop()


def measure(folder: Path, events: int, rate: float, idle_s: float) -> dict[str, Any]:
    clip, path = folder / "clip.avi", folder / "kiosk.db"
    write_visits(clip, SAMPLES)
    mosquitto = Mosquitto(folder, extra="max_queued_messages 0")
    with door_of(path, clip, mosquitto.port) as door:
        figures = fill(door, path, events)
        say(f"recognizing and recording {rate:g} frames a second for {idle_s:g} s")
        ends_s = time.monotonic() + idle_s
        idle = Times.of(door.receive_while(lambda: time.monotonic() < ends_s, rate))
        with mosquitto, listener(mosquitto.port) as subscriber:
            draining, drained = drain(door, path, rate, subscriber)
    written, untimed = (weigh(folder, clip, clock_synchronized=known) for known in (True, False))
    worse_ms = round(draining.both_p99 - idle.both_p99, 2)
    return {
        **figures,
        **drained,
        "idle": asdict(idle),
        "draining": asdict(draining),
        "p99_worse_ms": worse_ms,
        "written_kib_an_event": written,
        "written_kib_an_event_clock_unknown": untimed,
    }


def weigh(folder: Path, clip: Path, *, clock_synchronized: bool) -> float | None:
    """What a check-in and its delivery write to the device, KiB; None where no device can be had.

    Events whose time may have to be corrected later cost more: they are in an index of their own.
    """
    reason = why_no_power_can_be_cut()
    if reason is not None:
        say(f"bytes written are not counted: {reason}")
        return None
    say(f"counting what {WEIGHED} check-ins write{'' if clock_synchronized else ' while the clock is not set'}")
    disk = Disk(folder / "disk")
    disk.format()
    disk.mount()
    try:
        mosquitto, path = Mosquitto(folder), disk.root / "kiosk.db"
        with mosquitto, listener(mosquitto.port) as subscriber, door_of(path, clip, mosquitto.port) as door:
            await_subscriber(subscriber)
            door.clock_synchronized = clock_synchronized
            for number in range(WARM_UP + WEIGHED):
                # A new write-ahead log grows, which costs more; a kiosk has its log's full size after the first day.
                if number == WARM_UP:
                    before = disk.written_bytes()
                # As at a door: the next one comes when this one is long sent.
                door.commit()
                door.await_sent()
        # Closing has brought the write-ahead log home: every byte is paid for.
        written = disk.written_bytes() - before
    finally:
        disk.release()
    return round(written / WEIGHED / 1024, 1)


def fill(door: Door, path: Path, events: int) -> dict[str, Any]:
    say(f"committing {events} check-ins with no broker there")
    began_s = time.monotonic()
    for _ in range(events):
        door.commit()
    took_s = time.monotonic() - began_s
    size = sum(file.stat().st_size for file in (path, Path(f"{path}-wal")))
    return {
        "events": events,
        "store_mib": round(size / MIB, 1),
        "store_bytes_an_event": round(size / events),
        "commits_per_s": round(events / took_s, 1),
    }


def drain(door: Door, path: Path, rate: float, subscriber: subprocess.Popen[str]) -> tuple[Times, dict[str, Any]]:
    await_subscriber(subscriber)
    waiting = unsent(path)
    wait_for(lambda: unsent(path) < waiting, 60, what="the first event sent")
    say(f"{waiting} events wait; draining, with {rate:g} new ones a second")
    began_s, end_s = time.monotonic(), [0.0]
    looking = threading.Event()

    def look() -> None:
        # A few new ones are always under way.
        while not looking.wait(0.5):
            if unsent(path) <= rate:
                end_s[0] = time.monotonic()
                return

    looker = threading.Thread(target=look)
    looker.start()
    try:
        times = door.receive_while(lambda: not end_s[0] and time.monotonic() < began_s + LATE_DRAIN_S, rate)
    finally:
        looking.set()
        looker.join()
    took_s = (end_s[0] or time.monotonic()) - began_s
    time.sleep(2)
    arrived = json.loads(subscriber.communicate()[0])
    sent = waiting + len(times) - unsent(path)
    figures = {"drained": bool(end_s[0]), "drain_s": round(took_s, 1), "drained_per_s": round(sent / took_s, 1)}
    return Times.of(times), {**figures, "arrived": arrived}


def say(text: str) -> None:
    print(f"outbox: {text}", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000, help="check-ins committed while there is no broker")
    parser.add_argument("--rate", type=float, default=15.0, help="frames a second that are recognized and recorded")
    parser.add_argument("--idle-s", type=float, default=60.0, help="how long that is measured before the broker comes")
    parser.add_argument("--consume", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.consume:
        consume(options.consume)
    else:
        with tempfile.TemporaryDirectory(prefix="outbox-") as temporary:
            figures = measure(Path(temporary), options.events, options.rate, options.idle_s)
        say(f"store {figures['store_mib']} MiB; drained at {figures['drained_per_s']} events/s;")
        say(f"a frame's p99 {figures['idle']['both_p99']} ms before, {figures['draining']['both_p99']} ms meanwhile")
        print(json.dumps(figures, indent=1))
