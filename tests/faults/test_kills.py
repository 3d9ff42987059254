"""SIGKILL of the daemon at any instant of its life, with a broker that comes and goes."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from broker import Mosquitto, wait_for
from command_line import Kiosk

from faults.conftest import Record, Scale
from faults.consumer import Consumer
from faults.doors import last_seq, make_door, read_facts, told_seqs, unsent_up_to

pytestmark = pytest.mark.faults

DEVICES = ("door-1", "door-2")
"""At once: starting costs most, and a machine has more than one core."""
START_S = (0.0, 1.5)
"""A quarter of the lives end so soon after the start, within it and a little later."""
START_SHARE = 0.25
WATCH_S = (0.0, 2.0)
"""The others end so long after their first check-in, however slow the machine."""
STOPS_PER_KILL = 0.25
DOWN_S = (0.1, 2.0)
KILLED_SHARE = 0.4
"""Of the broker's ends these are kill -9, the others orderly."""
MAX_DUPLICATE_SHARE = 0.03
WINDOW = 20
"""Messages in flight when a kill hits the worst instant; of few events that alone is a large share."""
DRAIN_S = 60.0
FIRST_CHECK_IN_S = 20.0


class Weather:
    """The broker's ends, as many as the kills so far ask for."""

    def __init__(self, broker: Mosquitto, rng: np.random.Generator) -> None:
        self._broker = broker
        self._rng = rng
        self._over = threading.Event()
        self.kills = 0
        """Of daemons, counted by whoever kills them."""
        self.stopped = 0
        self.killed = 0

    def blow(self) -> None:
        """Until :meth:`end`."""
        while not self._over.wait(self._rng.uniform(0.1, 1.0)):
            if self.stopped + self.killed < self.kills * STOPS_PER_KILL:
                self._one_outage()

    def end(self) -> None:
        self._over.set()

    def _one_outage(self) -> None:
        if self._rng.random() < KILLED_SHARE:
            self._broker.kill()
            self.killed += 1
        else:
            self._broker.stop()
            self.stopped += 1
        time.sleep(self._rng.uniform(*DOWN_S))
        self._broker.start()


@dataclass(frozen=True, slots=True)
class Life:
    """Of a process, until it is killed; ``seconds`` count from its start, or from its first check-in."""

    from_start: bool
    seconds: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Self:
        from_start = bool(rng.random() < START_SHARE)
        return cls(from_start, rng.uniform(*(START_S if from_start else WATCH_S)))


def kill_again_and_again(kiosk: Kiosk, lives: list[Life], note_kill: Callable[[], None]) -> list[int]:
    """Start the daemon and kill it, once for every life; the events it had told of."""
    told: list[int] = []
    for life in lives:
        before = last_seq(kiosk.store)
        process = kiosk.start("run")
        deadline_s = time.monotonic() + FIRST_CHECK_IN_S
        while not life.from_start and last_seq(kiosk.store) == before and time.monotonic() < deadline_s:
            time.sleep(0.05)
        time.sleep(life.seconds)
        assert process.poll() is None, f"the daemon ended by itself: {process.communicate()[1]}"
        process.kill()
        told += told_seqs(process.communicate(timeout=10)[1])
        note_kill()
    return told


def finish(kiosk: Kiosk, device: str, consumer: Consumer) -> float:
    """The last run, which ends in order: everything is sent, and what the broker forgot is asked for again.

    How long until nothing old was unsent, from the first check-in on, seconds.
    """
    process = kiosk.start("run")
    try:
        before = last_seq(kiosk.store)
        wait_for(lambda: last_seq(kiosk.store) > before, 20, what="a check-in")
        last, began_s = last_seq(kiosk.store), time.monotonic()
        wait_for(lambda: unsent_up_to(kiosk.store, last) == 0, DRAIN_S, what=f"an outbox of {device} sent up to {last}")
        drained_s = time.monotonic() - began_s
        wait_for(lambda: any(a.seq >= last for a in consumer.ledger.of(device)), 10, what=f"event {last} of {device}")
        consumer.fill_gaps(device, last)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0, log
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=10)
    return drained_s


def test_kill_9_at_any_instant_loses_and_invents_nothing(
    tmp_path: Path,
    enrolled: Kiosk,
    visits: Path,
    broker: Mosquitto,
    consumer: Consumer,
    scale: Scale,
    rng: np.random.Generator,
    record: Record,
) -> None:
    doors = {device: make_door(tmp_path / device, enrolled, device, visits, broker.port) for device in DEVICES}
    lives = {device: [Life.draw(rng) for _ in range(-(-scale.kills // len(DEVICES)))] for device in DEVICES}
    weather = Weather(broker, rng)
    counting = threading.Lock()

    def note_kill() -> None:
        with counting:
            weather.kills += 1

    began_s = time.monotonic()
    with ThreadPoolExecutor(len(DEVICES) + 1) as pool:
        blowing = pool.submit(weather.blow)
        killing = {
            device: pool.submit(kill_again_and_again, doors[device], lives[device], note_kill) for device in DEVICES
        }
        try:
            told = {device: future.result() for device, future in killing.items()}
        finally:
            weather.end()
        blowing.result()
    took_s = time.monotonic() - began_s
    consumer.wait_subscribed()
    backlog, drained_s = {}, {}
    for device, kiosk in doors.items():
        backlog[device] = read_facts(kiosk.store).unsent
        drained_s[device] = round(finish(kiosk, device, consumer), 1)
        last = _last_sent(kiosk.store)
        wait_for(lambda d=device, n=last: any(a.seq >= n for a in consumer.ledger.of(d)), 10, what="the last event")

    facts = {device: read_facts(kiosk.store) for device, kiosk in doors.items()}
    # What came in during the last run's very end may wait for the next start: it is neither lost nor to be expected.
    committed = {d: {e for s, e in f.attendance.items() if s <= _last_sent(doors[d].store)} for d, f in facts.items()}
    arrived = {d: {a.event_id for a in consumer.ledger.of(d)} for d in DEVICES}
    summary = consumer.ledger.summary()
    never_arrived = sum(len(committed[d] - arrived[d]) for d in DEVICES)
    invented = sum(len(arrived[d] - set(facts[d].attendance.values())) for d in DEVICES)
    forgotten = sum(len(set(told[d]) - set(facts[d].attendance)) for d in DEVICES)
    record(
        "kills",
        kills=weather.kills,
        broker_stops=weather.stopped,
        broker_kills=weather.killed,
        took_s=round(took_s, 1),
        backlog_at_the_end=backlog,
        drained_s=drained_s,
        committed=sum(map(len, committed.values())),
        told_in_the_log=sum(map(len, told.values())),
        told_and_forgotten=forgotten,
        never_arrived=never_arrived,
        invented=invented,
        seq_gaps=sum(f.seq_gaps for f in facts.values()),
        mismatches=sum(f.mismatches for f in facts.values()),
        duplicate_share=round(summary.duplicate_share, 4),
        **asdict(summary),
    )
    assert weather.kills >= scale.kills
    assert weather.stopped + weather.killed >= 0.2 * scale.kills
    assert sum(map(len, told.values())) > 0
    assert summary.doors_opened > 0
    assert {d: f.integrity for d, f in facts.items()} == dict.fromkeys(DEVICES, "ok")
    assert (forgotten, never_arrived, invented) == (0, 0, 0)
    assert [f.seq_gaps for f in facts.values()] == [0] * len(DEVICES)
    assert [f.mismatches for f in facts.values()] == [0] * len(DEVICES)
    assert (summary.out_of_order, summary.missing, summary.conflicts) == (0, 0, 0)
    assert summary.stale_as_fresh == 0
    assert summary.duplicates <= MAX_DUPLICATE_SHARE * summary.arrivals + WINDOW


def _last_sent(store: Path) -> int:
    """The highest number up to which everything was acknowledged."""
    facts = read_facts(store)
    return max(facts.attendance, default=0) - facts.unsent
