"""A broker that loses what it has acknowledged: the consumer notices by ``seq``, asks, and gets everything."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from broker import Mosquitto, wait_for
from command_line import Kiosk

from faults.conftest import Record
from faults.consumer import Consumer
from faults.doors import commit_check_ins, last_seq, make_door, read_facts, unsent_up_to
from faults.test_network import watching

pytestmark = pytest.mark.faults

DEVICE = "door-1"
EVENTS = 500


def test_what_a_killed_broker_forgot_is_replayed(
    tmp_path: Path, enrolled: Kiosk, visits: Path, broker: Mosquitto, consumer: Consumer, record: Record
) -> None:
    kiosk = make_door(tmp_path / DEVICE, enrolled, DEVICE, visits, broker.port, pace="realtime")
    with watching(kiosk) as process:
        wait_for(lambda: consumer.ledger.arrivals, 20, what="the first check-in")
        process.terminate()
        process.wait(20)
    live = len(consumer.ledger.arrivals)
    consumer.leave()
    # From here on the broker has the consumer's session on its disk, but nothing of what it queues for it.
    broker.stop()
    broker.start()
    commit_check_ins(kiosk.store, EVENTS, device=DEVICE)
    with watching(kiosk) as process:
        last = last_seq(kiosk.store)
        wait_for(lambda: unsent_up_to(kiosk.store, last) == 0, 60, what="everything acknowledged")
        broker.kill()
        broker.start()
        consumer.come_back()
        # Only a later event shows that earlier ones are missing.
        wait_for(lambda: len(consumer.ledger.arrivals) > live, 30, what="an event after the broker's restart")
        forgotten = consumer.ledger.missing(DEVICE, last)
        assert len(forgotten) >= EVENTS
        consumer.fill_gaps(DEVICE)
    assert process.returncode == 0
    again = [a for a in consumer.ledger.of(DEVICE) if a.seq in set(forgotten)]
    summary, facts = consumer.ledger.summary(), read_facts(kiosk.store)
    record("broker-loss", acknowledged=last, forgotten=len(forgotten), **asdict(summary))
    assert summary.filled_by_replay >= len(forgotten)
    assert [a.seq for a in again] == forgotten
    assert all(a.replayed for a in again)
    assert {(a.seq, a.event_id) for a in again} <= set(facts.attendance.items())
    assert (summary.out_of_order, summary.conflicts, summary.stale_as_fresh) == (0, 0, 0)
