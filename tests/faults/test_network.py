"""The network between kiosk and broker broken in every way: nothing is lost, and what waited is sent soon after."""

from __future__ import annotations

import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broker import Mosquitto, wait_for
from command_line import Kiosk

from faults.conftest import Record, Scale
from faults.consumer import Consumer
from faults.doors import last_seq, make_door, read_facts, unsent_up_to
from faults.proxy import KILLED_BROKER, Fault, Proxy

pytestmark = pytest.mark.faults

DEVICE = "door-1"
BETWEEN_S = 0.5
"""Of good network before the next fault."""
MAX_DRAIN_S = 30.0
"""From the end of a fault until everything committed before it is acknowledged."""


class Network:
    """Breaks and mends what lies between kiosk and broker, and the broker."""

    def __init__(self, proxy: Proxy, broker: Mosquitto) -> None:
        self._proxy = proxy
        self._broker = broker
        self.history: list[tuple[float, str]] = []
        """What was broken from when on, seconds since 1970; an empty kind: nothing."""

    def break_by(self, kind: str) -> None:
        self.history.append((time.time(), kind))
        if kind == KILLED_BROKER:
            self._broker.kill()
        else:
            self._proxy.break_by(Fault(kind))

    def mend(self, kind: str) -> None:
        self.history.append((time.time(), ""))
        if kind == KILLED_BROKER:
            self._broker.start()
        else:
            self._proxy.mend()

    def kind_at(self, moment_s: float) -> str:
        return next((kind for began_s, kind in reversed(self.history) if began_s <= moment_s), "")


@contextmanager
def watching(kiosk: Kiosk) -> Iterator[subprocess.Popen[str]]:
    """``kiosk run``; ended in order where all goes well."""
    with (kiosk.folder / "log").open("w") as log:
        process = subprocess.Popen(
            kiosk._command(("run",)),
            env=kiosk._environment_with(None),
            cwd=kiosk.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def resources(process: subprocess.Popen[Any]) -> tuple[int, int]:
    """Open files and threads: the most of a second, for a clip in a loop is closed and opened again."""
    counts = []
    for _ in range(20):
        counts.append([len(list(Path(f"/proc/{process.pid}/{what}").iterdir())) for what in ("fd", "task")])
        time.sleep(0.05)
    files, threads = zip(*counts, strict=True)
    return max(files), max(threads)


def suffer(network: Network, kind: str, fault_s: float, store: Path) -> float:
    """One fault; how long until everything committed meanwhile was acknowledged, seconds."""
    network.break_by(kind)
    time.sleep(fault_s)
    network.mend(kind)
    mended_s = time.monotonic()
    last = last_seq(store)
    wait_for(lambda: unsent_up_to(store, last) == 0, 120, what=f"an empty outbox after {kind}")
    return time.monotonic() - mended_s


def play(
    network: Network, kinds: Callable[[], str | None], draw_s: Callable[[str], float], store: Path
) -> dict[str, list[float]]:
    """Fault after fault; the times to drain by kind."""
    drained_s: dict[str, list[float]] = defaultdict(list)
    while (kind := kinds()) is not None:
        drained_s[kind].append(suffer(network, kind, draw_s(kind), store))
        time.sleep(BETWEEN_S)
    return drained_s


def test_no_network_fault_loses_an_event(
    tmp_path: Path,
    enrolled: Kiosk,
    visits: Path,
    broker: Mosquitto,
    consumer: Consumer,
    scale: Scale,
    network_faults: list[str],
    rng: np.random.Generator,
    record: Record,
) -> None:
    ends_s = time.monotonic() + 60 * scale.network_minutes
    waiting = rng.permutation(network_faults).tolist()

    def next_kind() -> str | None:
        if not waiting and time.monotonic() < ends_s:
            waiting.extend(rng.permutation(network_faults).tolist())
        return waiting.pop() if waiting else None

    def draw_s(kind: str) -> float:
        return rng.uniform(*(scale.black_hole_s if kind == Fault.BLACK_HOLE else scale.fault_s))

    began_s = time.monotonic()
    with Proxy(broker.port) as proxy:
        network = Network(proxy, broker)
        kiosk = make_door(tmp_path / DEVICE, enrolled, DEVICE, visits, proxy.port, pace="realtime")
        with watching(kiosk) as process:
            wait_for(lambda: len(consumer.ledger.arrivals) >= 2, 20, what="two check-ins")
            before = resources(process)
            drained_s = play(network, next_kind, draw_s, kiosk.store)
            consumer.wait_subscribed()
            last = last_seq(kiosk.store)
            wait_for(lambda: any(a.seq >= last for a in consumer.ledger.of(DEVICE)), MAX_DRAIN_S, what=f"event {last}")
            after = resources(process)
            lost_by_the_broker = len(consumer.ledger.missing(DEVICE, last))
            consumer.fill_gaps(DEVICE, last)
        assert process.returncode == 0, (kiosk.folder / "log").read_text()
    facts, summary = read_facts(kiosk.store), consumer.ledger.summary()
    stale = [arrival for arrival in consumer.ledger.of(DEVICE) if arrival.stale_as_fresh]
    arrived = {arrival.event_id for arrival in consumer.ledger.of(DEVICE)}
    never_arrived = sum(event_id not in arrived for seq, event_id in facts.attendance.items() if seq <= last)
    slowest_s = max(max(times_s) for times_s in drained_s.values())
    record(
        "network",
        took_s=round(time.monotonic() - began_s, 1),
        faults={kind: len(times_s) for kind, times_s in drained_s.items()},
        fault_s=scale.fault_s,
        connections=proxy.connections,
        committed=len(facts.attendance),
        lost_by_the_broker=lost_by_the_broker,
        never_arrived=never_arrived,
        drained_within_s={kind: round(max(times_s), 2) for kind, times_s in drained_s.items()},
        slowest_drain_s=round(slowest_s, 2),
        files_and_threads_before=before,
        files_and_threads_after=after,
        stale=[(arrival.seq, round(arrival.age_s, 1), network.kind_at(arrival.occurred_s)) for arrival in stale],
        duplicate_share=round(summary.duplicate_share, 4),
        **asdict(summary),
    )
    assert set(drained_s) == set(network_faults)
    assert (never_arrived, summary.out_of_order, summary.conflicts) == (0, 0, 0)
    assert (facts.seq_gaps, facts.mismatches, facts.integrity) == (0, 0, "ok")
    assert summary.stale_as_fresh == 0
    assert summary.doors_opened > 0
    assert slowest_s <= MAX_DRAIN_S
    assert after == before
