"""Power cut at any instant: what the person was told is in the file, whole, and nothing else is."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
from broker import Mosquitto, wait_for

from faults.conftest import Record, Scale
from faults.consumer import Consumer
from faults.disks import Disk, disk_with_a_plug
from faults.doors import StoreFacts, read_facts_of_copy
from faults.writer import DEVICE

pytestmark = pytest.mark.faults

LIFE_S = (0.0, 0.35)
"""From the start of the process to the cut, uniform; it writes after some hundredths."""
CUTS_PER_DISK = 50
"""Then a new one: checking a larger and larger file would take most of the time."""
SMALL_CHECKPOINTS = "PRAGMA wal_autocheckpoint = 20"
"""Pages; so small that many cuts hit a checkpoint."""
CARELESS = "PRAGMA synchronous = OFF"
CARELESS_CUTS = 10
_REPO = Path(__file__).resolve().parent.parent.parent

Told = dict[int, str]
"""``event_id`` by ``seq``."""


class Writer:
    """The forking program; see :mod:`faults.writer`."""

    def __init__(self, port: int) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{_REPO}{os.pathsep}{_REPO / 'tests'}"}
        self._program = subprocess.Popen(
            [sys.executable, "-m", "faults.writer", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env=environment,
        )
        self._lines: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self, store: Path, pragmas: list[str]) -> int:
        """The id of the process that writes from now on."""
        assert self._program.stdin is not None
        self._program.stdin.write(json.dumps({"store": str(store), "pragmas": pragmas}) + "\n")
        self._program.stdin.flush()
        # A fork may speak before its parent.
        self._told: Told = {}
        return int(self._until("started"))

    def told(self) -> Told:
        """What the process committed before its end, for which this waits."""
        self._until("ended")
        return self._told

    def close(self) -> None:
        assert self._program.stdin is not None
        self._program.stdin.close()
        self._program.wait(10)
        self._reader.join(10)
        assert self._program.stdout is not None
        self._program.stdout.close()

    def _until(self, word: str) -> str:
        while True:
            first, *rest = self._lines.get(timeout=20)
            if first == "told":
                self._told[int(rest[0])] = rest[1]
            if first == word:
                return rest[0]

    def _read(self) -> None:
        assert self._program.stdout is not None
        for line in self._program.stdout:
            self._lines.put(line.split())


@contextmanager
def writer_of(port: int) -> Iterator[Writer]:
    writer = Writer(port)
    try:
        yield writer
    finally:
        writer.close()


@dataclass(slots=True)
class Tally:
    """What came of the cuts."""

    cuts: int = 0
    commits: int = 0
    """Told check-ins."""
    cuts_with_losses: int = 0
    lost: int = 0
    """Told, and not in the file after a cut; each is counted once."""
    corrupt: int = 0
    mismatches: int = 0
    seq_gaps: int = 0
    write_ahead_logs_left: int = 0
    """Cuts after which the file had to be put together from its write-ahead log."""
    sent: int = 0
    delivered_unknown: int = 0
    """Received by the consumer, and not in the file."""


def cut_once(disk: Disk, writer: Writer, life_s: float, pragmas: list[str]) -> Told:
    """Mount, write for a while, cut; afterwards it is mounted again, recovered. What was told until the cut."""
    pid = writer.start(disk.root / "kiosk.db", pragmas)
    time.sleep(life_s)
    assert Path(f"/proc/{pid}").exists(), f"the writer ended before the cut: {writer.told()}"
    disk.cut_power()
    # The cut may have ended it already.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    told = writer.told()
    disk.unmount()
    disk.mount()
    return told


def cut_again_and_again(
    disk: Disk, writer: Writer, lives_s: list[float], pragmas: list[str], folder: Path, tally: Tally
) -> dict[str, int]:
    """One disk's life; the check-ins at its end, ``seq`` by ``event_id``."""
    disk.format()
    disk.mount()
    told: Told = {}
    for life_s in lives_s:
        news = cut_once(disk, writer, life_s, pragmas)
        told |= news
        tally.cuts += 1
        tally.commits += len(news)
        tally.write_ahead_logs_left += _size(disk.root / "kiosk.db-wal") > 0
        facts = _look(disk.root / "kiosk.db", folder)
        _judge(facts, told, tally)
    disk.unmount()
    tally.sent += len(facts.outbox) - facts.unsent
    return {event_id: seq for seq, event_id in facts.attendance.items()}


def _look(store: Path, folder: Path) -> StoreFacts:
    """An empty or half-made file is what an early cut may leave."""
    if _size(store) == 0 and _size(Path(f"{store}-wal")) == 0:
        return StoreFacts({}, {}, 0, "ok")
    return read_facts_of_copy(store, folder)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _judge(facts: StoreFacts, told: Told, tally: Tally) -> None:
    lost = [seq for seq, event_id in told.items() if facts.attendance.get(seq) != event_id]
    tally.cuts_with_losses += bool(lost)
    tally.lost += len(lost)
    for seq in lost:
        del told[seq]
    tally.corrupt += facts.integrity != "ok"
    tally.mismatches += facts.mismatches
    tally.seq_gaps += facts.seq_gaps


def test_a_power_cut_at_any_instant_loses_nothing_that_was_told(
    tmp_path: Path, broker: Mosquitto, consumer: Consumer, scale: Scale, rng: np.random.Generator, record: Record
) -> None:
    tally = Tally()
    began_s = time.monotonic()
    with disk_with_a_plug(tmp_path / "disk") as disk, writer_of(broker.port) as writer:
        for first in range(0, scale.power_cuts, CUTS_PER_DISK):
            lives_s = rng.uniform(*LIFE_S, size=min(CUTS_PER_DISK, scale.power_cuts - first)).tolist()
            known = cut_again_and_again(disk, writer, lives_s, [SMALL_CHECKPOINTS], tmp_path / "copy", tally)
            wait_for(lambda: _at_rest(consumer), what="the end of the messages")
            arrivals = consumer.ledger.of(DEVICE)
            tally.delivered_unknown += sum(known.get(arrival.event_id) != arrival.seq for arrival in arrivals)
            consumer.ledger.arrivals.clear()
    record("power-cuts", took_s=round(time.monotonic() - began_s, 1), **asdict(tally))
    assert tally.cuts == scale.power_cuts
    # Cuts that hit nothing would prove nothing.
    assert tally.commits > 3 * tally.cuts
    assert tally.write_ahead_logs_left > tally.cuts / 2
    assert tally.sent > 0
    assert (tally.lost, tally.corrupt, tally.mismatches, tally.seq_gaps, tally.delivered_unknown) == (0, 0, 0, 0, 0)


def test_the_same_cuts_do_lose_what_was_not_flushed(
    tmp_path: Path, broker: Mosquitto, rng: np.random.Generator, record: Record
) -> None:
    """The counter-check: without flushing, the very same harness finds losses."""
    tally = Tally()
    lives_s = rng.uniform(LIFE_S[1] / 2, LIFE_S[1], size=CARELESS_CUTS).tolist()
    with disk_with_a_plug(tmp_path / "disk") as disk, writer_of(broker.port) as writer:
        cut_again_and_again(disk, writer, lives_s, [SMALL_CHECKPOINTS, CARELESS], tmp_path / "copy", tally)
    record("power-cuts-careless", **asdict(tally))
    assert tally.cuts_with_losses > CARELESS_CUTS / 2


def _at_rest(consumer: Consumer) -> bool:
    before = len(consumer.ledger.arrivals)
    time.sleep(0.3)
    return len(consumer.ledger.arrivals) == before
