"""A program that commits check-ins and sends them until it is killed: what the daemon does, without the camera.

    python -m faults.writer BROKER_PORT

For every line of JSON on stdin (``{"store": PATH, "pragmas": [...]}``) it forks a process that opens the store, starts
the publisher, and records check-ins without end. Each committed one is told on stdout as ``told SEQ EVENT_ID``, after
the commit, as the person at the door is told. ``started PID`` comes before, ``ended STATUS`` after it. Forked, for
starting Python for every power cut would take most of the time.
"""

from __future__ import annotations

import gc
import itertools
import json
import logging
import os
import sys
import threading
from pathlib import Path

from kiosk.biometrics import Candidate, Decision, ModelId, Reason, SubjectId, Verdict
from kiosk.clock import SystemClock
from kiosk.errors import KioskError
from kiosk.events import EventType, Moment, Origin, Topics
from kiosk.mqtt import BrokerSettings, MqttBroker
from kiosk.publisher import Publisher
from kiosk.store import Store

DEVICE = "door-1"
_SUBJECT = SubjectId("E1042")
_ORIGIN = Origin("hq", DEVICE, "Asia/Seoul")
_DECISION = Decision(Verdict.IDENTIFIED, Reason.MATCH, 0.62, (Candidate(_SUBJECT, 0.81),), frames=5)


def serve(port: int) -> None:
    # What it has to say when its disk is gone is known.
    logging.disable()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            # The parent's objects are not ours to tidy up.
            gc.freeze()
            _work(Path(order["store"]), order["pragmas"], port)
        _say(f"started {child}")
        _, status = os.waitpid(child, 0)
        _say(f"ended {status}")


def _work(path: Path, pragmas: list[str], port: int) -> None:
    """Never returns."""
    try:
        _record(path, pragmas, port)
    except KioskError as error:
        # The file system is gone; so will this process be in a moment.
        _say(f"stopped {error}")
        os._exit(1)
    finally:
        os._exit(2)


def _record(path: Path, pragmas: list[str], port: int) -> None:
    clock, wake = SystemClock(), threading.Event()
    store = Store.open(path)
    with store._reading() as db:
        for pragma in pragmas:
            db.execute(pragma)
    if store.subject(_SUBJECT) is None:
        store.enroll(_SUBJECT, [])
    settings = BrokerSettings("127.0.0.1", port, None, None)
    broker = MqttBroker(settings, Topics("kiosk/v1", "hq", DEVICE), on_change=wake.set)
    publisher = Publisher(store, broker, wake=wake, clock=clock)
    broker.start()
    publisher.start()
    for _ in itertools.count():
        moment = Moment(clock.utc_ms(), clock.synchronized(), round(clock.boottime_s() * 1000), clock.boot_id())
        event = store.record_check_in(
            _DECISION,
            event_type=EventType.CHECK_IN,
            moment=moment,
            origin=_ORIGIN,
            model_id=ModelId("test-int8@abcdef"),
            gallery_size=1,
        )
        if event is not None:
            _say(f"told {event.seq} {event.event_id}")
        wake.set()


def _say(line: str) -> None:
    """Whole at once and unbuffered: a killed process has told what it has told."""
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    serve(int(sys.argv[1]))
