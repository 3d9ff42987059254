"""Power cut at any instant: what the person was told is in the file, whole, and nothing else is."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
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
CUTS_PER_DISK = 25
"""Then a new one: checking a larger and larger file would take most of the time."""
BLOCKS_BYTES = (4096, 1024)
"""Of the file systems, in turns."""
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
    problems: list[str] = field(default_factory=list)
    """What SQLite says of the corrupt ones."""


class Cutter:
    """Cuts the power of one disk after the other and keeps the tally."""

    def __init__(self, disk: Disk, writer: Writer, folder: Path) -> None:
        self._disk = disk
        self._writer = writer
        self._folder = folder
        self._store = disk.root / "kiosk.db"
        self.tally = Tally()

    def wear_out(self, lives_s: list[float], pragmas: list[str], *, block_bytes: int) -> StoreFacts:
        """One disk with a cut at the end of each life; what is on it at last."""
        self._disk.format(block_bytes)
        self._disk.mount()
        told: Told = {}
        for life_s in lives_s:
            news = self._cut(life_s, pragmas)
            told |= news
            self.tally.cuts += 1
            self.tally.commits += len(news)
            self.tally.write_ahead_logs_left += _size(Path(f"{self._store}-wal")) > 0
            facts = self._look()
            self._judge(facts, told)
        self._disk.unmount()
        self.tally.sent += len(facts.outbox) - facts.unsent
        return facts

    def _cut(self, life_s: float, pragmas: list[str]) -> Told:
        """Write for a while, cut, mount again, which recovers the file system. What was told until the cut."""
        pid = self._writer.start(self._store, pragmas)
        time.sleep(life_s)
        assert Path(f"/proc/{pid}").exists(), f"the writer ended before the cut: {self._writer.told()}"
        self._disk.cut_power()
        # The cut may have ended it already.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        told = self._writer.told()
        self._disk.unmount()
        self._disk.mount()
        return told

    def _look(self) -> StoreFacts:
        """An early cut leaves an empty or half-made file, a bad one a damaged file."""
        try:
            return read_facts_of_copy(self._store, self._folder)
        except sqlite3.DatabaseError as error:
            half_made = "no such table" in str(error)
            return StoreFacts({}, {}, 0, "ok" if half_made else str(error))

    def _judge(self, facts: StoreFacts, told: Told) -> None:
        lost = [seq for seq, event_id in told.items() if facts.attendance.get(seq) != event_id]
        for seq in lost:
            del told[seq]
        self.tally.cuts_with_losses += bool(lost)
        self.tally.lost += len(lost)
        if facts.integrity != "ok":
            self.tally.corrupt += 1
            self.tally.problems.append(f"cut {self.tally.cuts}: {facts.integrity}")
        self.tally.mismatches += facts.mismatches
        self.tally.seq_gaps += facts.seq_gaps


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_a_power_cut_at_any_instant_loses_nothing_that_was_told(
    tmp_path: Path, broker: Mosquitto, consumer: Consumer, scale: Scale, rng: np.random.Generator, record: Record
) -> None:
    began_s = time.monotonic()
    with disk_with_a_plug(tmp_path / "disk") as disk, writer_of(broker.port) as writer:
        cutter = Cutter(disk, writer, tmp_path / "copy")
        tally = cutter.tally
        while tally.cuts < scale.power_cuts:
            lives_s = rng.uniform(*LIFE_S, size=min(CUTS_PER_DISK, scale.power_cuts - tally.cuts)).tolist()
            block_bytes = BLOCKS_BYTES[tally.cuts // CUTS_PER_DISK % len(BLOCKS_BYTES)]
            facts = cutter.wear_out(lives_s, [SMALL_CHECKPOINTS], block_bytes=block_bytes)
            wait_for(lambda: _at_rest(consumer), what="the end of the messages")
            delivered = {(arrival.seq, arrival.event_id) for arrival in consumer.ledger.of(DEVICE)}
            tally.delivered_unknown += len(delivered - set(facts.attendance.items()))
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
    lives_s = rng.uniform(LIFE_S[1] / 2, LIFE_S[1], size=CARELESS_CUTS).tolist()
    with disk_with_a_plug(tmp_path / "disk") as disk, writer_of(broker.port) as writer:
        cutter = Cutter(disk, writer, tmp_path / "copy")
        cutter.wear_out(lives_s, [SMALL_CHECKPOINTS, CARELESS], block_bytes=BLOCKS_BYTES[0])
    record("power-cuts-careless", **asdict(cutter.tally))
    assert cutter.tally.cuts_with_losses > CARELESS_CUTS / 2


def _at_rest(consumer: Consumer) -> bool:
    before = len(consumer.ledger.arrivals)
    time.sleep(0.3)
    return len(consumer.ledger.arrivals) == before
