"""SIGTERM at any instant, within a transaction too: the daemon ends in order and leaves nothing half-written."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from broker import Mosquitto, wait_for
from command_line import Kiosk

from faults.conftest import Record, Scale
from faults.consumer import Consumer
from faults.doors import last_seq, make_door, read_facts, told_seqs

pytestmark = pytest.mark.faults

DEVICE = "door-1"
LIFE_S = (0.0, 0.5)
"""After the first check-in."""


@pytest.fixture
def kiosk(tmp_path: Path, enrolled: Kiosk, visits: Path, broker: Mosquitto, consumer: Consumer) -> Kiosk:
    assert consumer.ledger.arrivals == []  # It listens: without anybody the outbox would be waited for in vain.
    return make_door(tmp_path / DEVICE, enrolled, DEVICE, visits, broker.port)


def test_sigterm_at_any_instant_ends_in_order(
    kiosk: Kiosk, scale: Scale, rng: np.random.Generator, record: Record
) -> None:
    lives_s = rng.uniform(*LIFE_S, size=scale.terminations).tolist()
    told: list[int] = []
    for life_s in lives_s:
        before = last_seq(kiosk.store)
        process = kiosk.start("run")
        try:
            wait_for(lambda n=before: last_seq(kiosk.store) > n, 20, what="a check-in")
            time.sleep(life_s)
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=20)
        finally:
            process.kill()
        assert process.returncode == 0, log
        assert "Traceback" not in log
        told += told_seqs(log)
        facts = read_facts(kiosk.store)
        assert (facts.integrity, facts.seq_gaps, facts.mismatches) == ("ok", 0, 0)
        # Everything committed was told, and the other way round: the end came between two visits.
        assert sorted(facts.attendance) == told
    record("terminations", terminations=len(lives_s), committed=len(told))


def test_sigterm_while_a_check_in_is_being_committed(kiosk: Kiosk) -> None:
    process = kiosk.start("run")
    try:
        wait_for(lambda: last_seq(kiosk.store) > 0, 20, what="a check-in")
        with contextlib.closing(sqlite3.connect(kiosk.store, isolation_level=None, timeout=10)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = last_seq(kiosk.store)
            # Visits go on: the daemon is now within the commit of the next one, waiting for the file.
            time.sleep(1)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert process.poll() is None
            assert last_seq(kiosk.store) == waiting
            other.execute("ROLLBACK")
            _, log = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0, log
    facts = read_facts(kiosk.store)
    assert len(facts.attendance) == waiting + 1
    assert told_seqs(log) == sorted(facts.attendance)
    assert (facts.integrity, facts.seq_gaps, facts.mismatches) == ("ok", 0, 0)
