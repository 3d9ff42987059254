"""From commit to subscriber: a real store, a real mosquitto, and the faults between them."""

import itertools
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jsonschema
import pytest
from broker import Message as Received
from broker import Mosquitto, Subscriber, listening, wait_for
from runner import dump

from kiosk.biometrics import Candidate, Decision, ModelId, Reason, SubjectId, Verdict
from kiosk.clock import SystemClock
from kiosk.errors import StoreError
from kiosk.events import ATTENDANCE, REJECTED, EventType, Moment, Origin, Topics, rejected_event
from kiosk.mqtt import BrokerSettings, MqttBroker
from kiosk.ports import Command, Message, OutboxRow, Outcome, Receipt, ReplayBatch
from kiosk.publisher import Publisher
from kiosk.store import Store

TOPICS = Topics("kiosk/v1", "hq", "door-1")
ORIGIN = Origin("hq", "door-1", "Asia/Seoul")
ANA = SubjectId("E1042")
CLOCK = SystemClock()
SCHEMAS = Path(__file__).resolve().parent.parent / "docs" / "schemas"


class Kiosk:
    """Store, broker connection and publisher wired as the daemon does it."""

    def __init__(self, path: Path, settings: BrokerSettings, *, include_names: bool = False) -> None:
        self.wake = threading.Event()
        self.store = Store.open(path)
        self.store.enroll(ANA, [], name="Ana")
        self.broker = MqttBroker(settings, TOPICS, on_change=self.wake.set)
        self.publisher = Publisher(self.store, self.broker, wake=self.wake, clock=CLOCK, include_names=include_names)
        self.broker.hear_replays(self.publisher.obey)

    def start(self) -> None:
        self.broker.start()
        self.publisher.start()

    def check_in(self, count: int = 1, *, name: str | None = None) -> list[int]:
        """Commit so many events; their numbers. ``name``: the subject's, sent along."""
        if name is not None:
            self.store.rename_subject(ANA, name)
        return [self._check_in(include_name=name is not None) for _ in range(count)]

    def stop(self) -> None:
        self.publisher.stop()
        self.broker.stop()
        self.store.close()

    def _check_in(self, *, include_name: bool) -> int:
        event = self.store.record_check_in(
            Decision(Verdict.IDENTIFIED, Reason.MATCH, 0.62, (Candidate(ANA, 0.81),), frames=5),
            event_type=EventType.CHECK_IN,
            moment=now(),
            origin=ORIGIN,
            model_id=ModelId("test-int8@abcdef"),
            gallery_size=1,
            include_name=include_name,
        )
        self.wake.set()
        assert event is not None
        return event.seq


def now() -> Moment:
    return Moment(CLOCK.utc_ms(), CLOCK.synchronized(), int(CLOCK.boottime_s() * 1000), CLOCK.boot_id())


Starter = Callable[..., Kiosk]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    started: list[Kiosk] = []

    def start(
        mosquitto: Mosquitto, username: str | None = None, password: str = "", *, include_names: bool = False
    ) -> Kiosk:
        password_file = tmp_path / "secret"
        password_file.write_text(password)
        password_file.chmod(0o600)
        settings = BrokerSettings("127.0.0.1", mosquitto.port, username, password_file)
        started.append(Kiosk(tmp_path / "kiosk.db", settings, include_names=include_names))
        started[-1].start()
        return started[-1]

    yield start
    for kiosk in started:
        kiosk.stop()


def numbers(messages: list[Received]) -> list[int]:
    return [message.json()["seq"] for message in messages]


def first_arrivals(messages: list[Received]) -> list[int]:
    """``seq`` in order of arrival, duplicates (by ``event_id``) left out, as a consumer does it."""
    return list({message.json()["event_id"]: message.json()["seq"] for message in messages}.values())


def more_than(subscriber: Subscriber, count: int) -> None:
    wait_for(lambda: len(subscriber.messages) > count, 20, what=f"more than {count} messages")


def valid(message: Received, name: str) -> dict[str, object]:
    document = message.json()
    jsonschema.validate(document, json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8")))
    return document


# --- against a real broker


def test_events_arrive_in_order_valid_and_not_retained(tmp_path: Path, start: Starter) -> None:
    with listening(tmp_path, TOPICS.attendance) as (mosquitto, subscriber):
        kiosk = start(mosquitto)
        expected = kiosk.check_in(20)
        assert kiosk.publisher.drain(10)
        messages = subscriber.wait_for(ATTENDANCE, 20)
        assert numbers(messages) == expected
        for message in messages:
            assert valid(message, "attendance")["replayed"] is False
            assert (message.qos, message.retain) == (1, False)
            assert b"Ana" not in message.payload
        assert kiosk.store.outbox_counts().sent == 20
        with Subscriber(mosquitto.port, TOPICS.prefix + "/event/#") as late:
            late.wait_subscribed()
            kiosk.check_in()
            late.wait_for(ATTENDANCE)
            assert [message.retain for message in late.messages] == [False]


def test_events_wait_for_a_broker_and_are_then_marked_as_late(tmp_path: Path, start: Starter) -> None:
    with Mosquitto(tmp_path) as mosquitto:
        mosquitto.stop()
        kiosk = start(mosquitto)
        kiosk.check_in(3)
        assert not kiosk.publisher.drain(0.2)
        kiosk.stop()  # a new process finds them
        mosquitto.start()
        with Subscriber(mosquitto.port, TOPICS.attendance) as subscriber:
            again = start(mosquitto)
            again.check_in()
            messages = subscriber.wait_for(ATTENDANCE, 4)
            assert numbers(messages) == [1, 2, 3, 4]
            assert [message.json()["replayed"] for message in messages] == [True, True, True, False]


def test_denied_events_stay_and_go_once_allowed(tmp_path: Path, start: Starter) -> None:
    acl = "user kiosk\ntopic write kiosk/v1/hq/door-1/status\n\nuser reader\ntopic read #\n"
    users = {"kiosk": "s", "reader": "r"}
    with (
        Mosquitto(tmp_path, users=users, acl=acl) as mosquitto,
        Subscriber(mosquitto.port, TOPICS.attendance, username="reader", password=users["reader"]) as subscriber,
    ):
        kiosk = start(mosquitto, "kiosk", users["kiosk"])
        kiosk.check_in(2)
        wait_for(lambda: kiosk.store.outbox_counts().last_error)
        counts = kiosk.store.outbox_counts()
        assert (counts.pending, counts.sent) == (2, 0)
        assert "Not authorized" in (counts.last_error or "")
        mosquitto.set_acl(acl.replace("door-1/status", "door-1/#"))
        messages = subscriber.wait_for(ATTENDANCE, 2)
        assert numbers(messages) == [1, 2]
        assert messages[0].json()["replayed"] is True
        assert kiosk.publisher.drain(5)


def test_events_nobody_subscribes_to_stay_until_somebody_does(tmp_path: Path, start: Starter) -> None:
    with Mosquitto(tmp_path) as mosquitto:
        kiosk = start(mosquitto)
        kiosk.check_in(2)
        wait_for(lambda: kiosk.store.outbox_counts().last_error)
        assert "nobody subscribes" in (kiosk.store.outbox_counts().last_error or "")
        assert kiosk.store.outbox_counts().pending == 2
        with Subscriber(mosquitto.port, TOPICS.attendance) as subscriber:
            assert numbers(subscriber.wait_for(ATTENDANCE, 2)) == [1, 2]
            assert kiosk.publisher.drain(5)


def test_broker_killed_again_and_again_loses_nothing(tmp_path: Path, start: Starter) -> None:
    with Mosquitto(tmp_path) as mosquitto, Subscriber(mosquitto.port, TOPICS.prefix + "/event/#", qos=0) as subscriber:
        kiosk = start(mosquitto)
        expected: list[int] = []
        for _ in range(4):
            subscriber.wait_subscribed()
            assert kiosk.broker.wait_connected(10)
            committing = threading.Thread(target=lambda: expected.extend(kiosk.check_in(40)))
            committing.start()
            more_than(subscriber, len(subscriber.messages) + 5)
            mosquitto.kill()
            committing.join()
            expected.extend(kiosk.check_in(5))
            mosquitto.start()
        subscriber.wait_subscribed()
        assert kiosk.publisher.drain(40)
        wait_for(lambda: len(first_arrivals(subscriber.messages)) >= len(expected))
        assert first_arrivals(subscriber.messages) == expected == list(range(1, 4 * 45 + 1))
        assert not any(message.retain for message in subscriber.messages)
        with Subscriber(mosquitto.port, "#") as late:
            late.wait_for("status")
            assert late.on(ATTENDANCE) == []


_CHILD = """
import sys
sys.path[:0] = sys.argv[4:]
from pathlib import Path
from kiosk.mqtt import BrokerSettings
from test_publisher import Kiosk
kiosk = Kiosk(Path(sys.argv[1]), BrokerSettings("127.0.0.1", int(sys.argv[2])))
kiosk.start()
while True:
    print(kiosk.check_in()[0], flush=True)
"""


@pytest.mark.stories
def test_process_killed_again_and_again_loses_nothing(tmp_path: Path, start: Starter) -> None:
    with listening(tmp_path, TOPICS.attendance) as (mosquitto, subscriber):
        told: list[int] = []
        for _ in range(3):
            seen = len(subscriber.messages)
            arguments = [str(tmp_path / "kiosk.db"), str(mosquitto.port), "", *sys.path]
            process = subprocess.Popen([sys.executable, "-c", _CHILD, *arguments], stdout=subprocess.PIPE, text=True)
            more_than(subscriber, seen + 20)
            process.send_signal(signal.SIGKILL)
            output, _ = process.communicate()
            told += [int(line) for line in output.splitlines()]
        kiosk = start(mosquitto)
        assert kiosk.publisher.drain(30)
        committed = [row.seq for row in kiosk.store.attendance()]
        wait_for(lambda: len(first_arrivals(subscriber.messages)) >= len(committed))
        assert set(told) <= set(committed)
        assert first_arrivals(subscriber.messages) == committed == list(range(1, len(committed) + 1))


def test_rejected_faces_are_told_once_and_not_kept(tmp_path: Path, start: Starter) -> None:
    decision = Decision(Verdict.UNKNOWN, Reason.UNKNOWN, 0.62, (Candidate(ANA, 0.4),))
    with listening(tmp_path, TOPICS.prefix + "/event/#") as (mosquitto, subscriber):
        kiosk = start(mosquitto)
        assert kiosk.broker.wait_connected(5)
        kiosk.publisher.offer(REJECTED, rejected_event(decision, moment=now(), origin=ORIGIN).payload())
        message = subscriber.wait_for(REJECTED)[0]
        assert valid(message, "rejected")["event_type"] == "unknown"
        assert b"E1042" not in message.payload
        assert kiosk.store.outbox_counts().pending == 0


def ask(subscriber: Subscriber, command_id: str, first: int, last: int, *, retain: bool = False) -> None:
    wish = {"from_seq": first, "to_seq": last, "id": command_id}
    subscriber.publish(TOPICS.replay, json.dumps(wish).encode(), retain=retain)


def test_a_broker_that_lost_what_it_acknowledged_gets_it_again(tmp_path: Path, start: Starter) -> None:
    with listening(tmp_path, TOPICS.attendance) as (mosquitto, subscriber):
        kiosk = start(mosquitto)
        assert kiosk.check_in(60) == list(range(1, 61))
        assert kiosk.publisher.drain(20)
        subscriber.wait_for(ATTENDANCE, 60)
        subscriber.messages.clear()
        ask(subscriber, "lost-it", 11, 1000)
        messages = subscriber.wait_for(ATTENDANCE, 50)
        assert numbers(messages) == list(range(11, 61))
        assert {valid(message, "attendance")["replayed"] for message in messages} == {True}
        # The same wish again, a retained one and nonsense change nothing; a new check-in is fresh as ever.
        ask(subscriber, "lost-it", 1, 60)
        ask(subscriber, "retained", 1, 60, retain=True)
        subscriber.publish(TOPICS.replay, b'{"from_seq": 9, "to_seq": 1, "id": "backwards"}')
        subscriber.publish(TOPICS.replay, b"[" * 10_000)
        (seq,) = kiosk.check_in()
        assert numbers(subscriber.wait_for(ATTENDANCE, 51))[50:] == [seq]
        assert subscriber.messages[-1].json()["replayed"] is False
        assert kiosk.store.next_replay(1) is None


@pytest.mark.parametrize("size", [4096, 17_000, 1_000_000])
def test_commands_that_are_too_large_make_nobody_deaf(tmp_path: Path, start: Starter, size: int) -> None:
    """More than the broker has in flight to us: what it sends must be taken off its hands, whatever it is."""
    with listening(tmp_path, TOPICS.attendance) as (mosquitto, subscriber):
        kiosk = start(mosquitto)
        kiosk.check_in()
        subscriber.wait_for(ATTENDANCE, 1)
        for number in range(25):
            wish = {"from_seq": 1, "to_seq": 1, "id": f"large-{number}"}
            subscriber.publish(TOPICS.replay, json.dumps(wish).encode() + b" " * size)
        ask(subscriber, "valid", 1, 1)
        subscriber.wait_for(ATTENDANCE, 2)
        assert [message.json()["replayed"] for message in subscriber.messages] == [False, True]
        assert [row[0] for row in dump(tmp_path / "kiosk.db")["replays"]] == ["valid"]


def test_the_end_of_a_replay_is_told_wherever_it_ends(
    tmp_path: Path, start: Starter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kiosk.publisher")
    with listening(tmp_path, TOPICS.attendance) as (mosquitto, subscriber):
        kiosk = start(mosquitto)
        kiosk.check_in(3)
        subscriber.wait_for(ATTENDANCE, 3)
        ask(subscriber, "within", 1, 2)
        ask(subscriber, "to-the-last", 1, 3)
        ask(subscriber, "beyond", 1, 9)
        subscriber.wait_for(ATTENDANCE, 3 + 2 + 3 + 3)
        wait_for(lambda: kiosk.store.next_replay(1) is None)
        wait_for(lambda: caplog.text.count(": done") == 3)
    assert [name for name in ("within", "to-the-last", "beyond") if f"replay {name}: done" not in caplog.text] == []


def test_a_replay_goes_on_after_a_restart_and_gives_way_to_what_is_new(tmp_path: Path, start: Starter) -> None:
    with listening(tmp_path, TOPICS.attendance) as (mosquitto, subscriber):
        kiosk = start(mosquitto)
        kiosk.check_in(10)
        assert kiosk.publisher.drain(10)
        subscriber.wait_for(ATTENDANCE, 10)
        kiosk.stop()
        with Store.open(tmp_path / "kiosk.db") as store:
            assert store.request_replay("a", 1, 10) is None
            store.advance_replay("a", 4)
        subscriber.messages.clear()
        again = start(mosquitto)
        (seq,) = again.check_in()
        messages = subscriber.wait_for(ATTENDANCE, 8)
        assert sorted(numbers(messages)) == [*range(4, 11), seq]
        assert [message.json()["replayed"] for message in messages if message.json()["seq"] != seq] == [True] * 7


def test_names_go_out_while_they_may_and_never_again_afterwards(tmp_path: Path, start: Starter) -> None:
    with listening(tmp_path, TOPICS.attendance) as (mosquitto, subscriber):
        kiosk = start(mosquitto, include_names=True)
        kiosk.check_in(name="Canary Old")
        first = subscriber.wait_for(ATTENDANCE)[0]
        assert first.json()["subject"] == {"id": ANA, "name": "Canary Old"}
        kiosk.store.rename_subject(ANA, "Canary New")
        kiosk.store.request_replay("renamed", 1, 1)
        kiosk.wake.set()
        again = subscriber.wait_for(ATTENDANCE, 2)[1]
        assert again.json()["subject"] == {"id": ANA, "name": "Canary New"}
        kiosk.publisher.stop()
        kiosk.check_in(name="Canary New")
        kiosk.stop()
        kiosk = start(mosquitto)
        kiosk.store.request_replay("without", 1, 1)
        kiosk.wake.set()
        for message in subscriber.wait_for(ATTENDANCE, 4)[2:]:
            assert valid(message, "attendance")["subject"] == {"id": ANA}


def test_an_event_too_large_for_the_broker_is_set_aside_and_the_others_arrive(tmp_path: Path, start: Starter) -> None:
    with Mosquitto(tmp_path, extra="max_packet_size 700") as mosquitto:
        kiosk = start(mosquitto, include_names=True)
        with Subscriber(mosquitto.port, TOPICS.attendance) as subscriber:
            first = kiosk.check_in()
            (large,) = kiosk.check_in(name="N" * 200)
            last = kiosk.check_in()
            assert numbers(subscriber.wait_for(ATTENDANCE, 2, timeout_s=20)) == [*first, *last]
            assert kiosk.publisher.drain(5)
        counts = kiosk.store.outbox_counts()
        assert (counts.pending, counts.parked, counts.sent) == (0, 1, 2)
        assert "larger than the 700 bytes" in (counts.last_error or "")
        assert kiosk.store.retry_parked() == [large]


# --- timing and faults a real broker cannot be asked for


class FakeBroker:
    """Answers as told; ``down`` raises what a defect would."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.connected = True
        self.sent: list[dict[str, object]] = []
        self.attempts_at: list[float] = []
        self.windows: list[int] = []
        self._outcomes = itertools.chain(outcomes, itertools.repeat(Outcome.SENT))

    def publish(self, messages: Sequence[Message], *, timeout_s: float = 10.0) -> list[Receipt]:
        assert timeout_s == 10.0
        self.attempts_at.append(time.monotonic())
        self.windows.append(len(messages))
        return [self._answer(message) for message in messages]

    def _answer(self, message: Message) -> Receipt:
        assert message.topic.startswith("event/")
        outcome = next(self._outcomes)
        if outcome is Outcome.SENT:
            self.sent.append(json.loads(message.payload))
        return Receipt(outcome, str(outcome))

    def wait_connected(self, timeout_s: float) -> bool:
        del timeout_s
        return self.connected


class FakeOutbox:
    """Rows in memory; the next ``failures`` calls fail as a full disk does."""

    def __init__(self, *rows: OutboxRow) -> None:
        self.rows = list(rows)
        self.parked: list[OutboxRow] = []
        self.parked_ever: list[int] = []
        self.failures = 0
        self.failed: list[str] = []
        self.looks = 0

    def next_pending(self) -> OutboxRow | None:
        self.looks += 1
        self._maybe_fail()
        return self.rows[0] if self.rows else None

    def lend_pending(self, limit: int) -> list[OutboxRow]:
        self.looks += 1
        self._maybe_fail()
        return self.rows[:limit]

    def next_parked(self) -> OutboxRow | None:
        return self.parked[0] if self.parked else None

    def mark_sent(self, seqs: Sequence[int]) -> None:
        self._maybe_fail()
        self.rows = [row for row in self.rows if row.seq not in seqs]
        self.parked = [row for row in self.parked if row.seq not in seqs]

    def mark_failed(self, seq: int, error: str, *, park: bool = False) -> None:
        self.failed.append(error)
        if park:
            assert self.rows[0].seq == seq
            self.parked.append(self.rows.pop(0))
            self.parked_ever.append(seq)

    def request_replay(self, command_id: str, from_seq: int, to_seq: int) -> str | None:
        raise AssertionError((command_id, from_seq, to_seq))

    def next_replay(self, limit: int) -> ReplayBatch | None:
        assert limit > 0

    def advance_replay(self, command_id: str, next_seq: int | None) -> None:
        raise AssertionError((command_id, next_seq))

    def _maybe_fail(self) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise StoreError("no space left")


def outbox_row(seq: int = 1, *, fresh: bool = True, age_s: float = 0.0) -> OutboxRow:
    return OutboxRow(
        seq, f"id-{seq}", ATTENDANCE, {"seq": seq, "replayed": False}, 0, fresh, CLOCK.boottime_s() - age_s
    )


Runner = Callable[[FakeOutbox, FakeBroker], tuple[Publisher, threading.Event]]


@pytest.fixture
def run() -> Iterator[Runner]:
    started: list[Publisher] = []

    def run(outbox: FakeOutbox, broker: FakeBroker) -> tuple[Publisher, threading.Event]:
        wake = threading.Event()
        started.append(Publisher(outbox, broker, wake=wake, clock=CLOCK))
        started[-1].start()
        return started[-1], wake

    yield run
    for publisher in started:
        publisher.stop()


@pytest.mark.parametrize(
    ("fresh", "age_s", "replayed"),
    [(True, 0, False), (False, 0, True), (True, 11, True)],
    ids=["now", "earlier process", "old"],
)
def test_replayed_is_decided_when_sending(run: Runner, age_s: float, *, fresh: bool, replayed: bool) -> None:
    broker = FakeBroker()
    publisher, _ = run(FakeOutbox(outbox_row(fresh=fresh, age_s=age_s)), broker)
    assert publisher.drain(5)
    assert broker.sent == [{"seq": 1, "replayed": replayed}]


def test_second_attempt_is_a_replay_even_if_the_store_could_not_note_the_first(run: Runner) -> None:
    broker = FakeBroker(Outcome.LOST)
    publisher, _ = run(FakeOutbox(outbox_row()), broker)
    assert publisher.drain(5)
    assert broker.sent == [{"seq": 1, "replayed": True}]


def test_failures_back_off_and_commits_do_not_hurry_them(run: Runner) -> None:
    broker = FakeBroker(*[Outcome.NO_SUBSCRIBER] * 2)
    outbox = FakeOutbox(outbox_row())
    publisher, wake = run(outbox, broker)
    for _ in range(100):
        wake.set()
        time.sleep(0.005)
    assert publisher.drain(5)
    first, second, third = broker.attempts_at
    assert second - first >= 0.5
    assert third - second >= 1.0
    assert outbox.failed == ["no_subscriber"] * 2


def test_new_connection_ends_the_waiting(run: Runner) -> None:
    broker = FakeBroker(*[Outcome.REFUSED] * 3)
    publisher, wake = run(FakeOutbox(outbox_row()), broker)
    wait_for(lambda: len(broker.attempts_at) == 3)  # the next one would be 2 s away
    began = time.monotonic()
    broker.connected = False
    wake.set()
    wait_for(lambda: not publisher._was_connected)
    broker.connected = True
    wake.set()
    assert publisher.drain(5)
    assert time.monotonic() - began < 1.5


def test_message_that_breaks_connections_is_not_retried_at_their_pace(run: Runner) -> None:
    broker = FakeBroker(*[Outcome.LOST] * 2)
    publisher, wake = run(FakeOutbox(outbox_row()), broker)
    for _ in range(20):
        broker.connected = not broker.connected
        wake.set()
        time.sleep(0.01)
    assert len(broker.attempts_at) <= 1
    broker.connected = True
    wake.set()
    assert publisher.drain(5)


def test_window_opens_while_all_goes_well_and_closes_at_once(run: Runner) -> None:
    broker = FakeBroker(*[Outcome.SENT] * 3, Outcome.REFUSED)
    publisher, _ = run(FakeOutbox(*[outbox_row(seq) for seq in range(1, 31)]), broker)
    assert publisher.drain(10)
    # One proves the connection; of the next twenty the third is refused, all others have arrived.
    assert broker.windows == [1, 20, 1, 9]
    assert sorted(document["seq"] for document in broker.sent) == list(range(1, 31))


def test_window_is_closed_again_by_idleness_and_a_new_connection(run: Runner) -> None:
    broker = FakeBroker()
    outbox = FakeOutbox(*[outbox_row(seq) for seq in range(1, 4)])
    publisher, wake = run(outbox, broker)
    assert publisher.drain(10)
    wait_for(lambda: broker.windows == [1, 2])
    outbox.rows += [outbox_row(seq) for seq in range(4, 7)]
    wake.set()
    wait_for(lambda: broker.windows == [1, 2, 1, 2])
    broker.connected = False
    wake.set()
    wait_for(lambda: not publisher._was_connected)
    outbox.rows += [outbox_row(seq) for seq in range(7, 10)]
    broker.connected = True
    wake.set()
    wait_for(lambda: broker.windows == [1, 2, 1, 2, 1, 2])


@pytest.mark.parametrize("between", [(), (Outcome.LOST,)], ids=["at once", "with the network down between"])
def test_an_event_that_breaks_three_connections_is_set_aside(run: Runner, between: tuple[Outcome, ...]) -> None:
    broker = FakeBroker(Outcome.BROKE, *between, Outcome.BROKE, Outcome.BROKE)
    outbox = FakeOutbox(outbox_row(1), outbox_row(2))
    run(outbox, broker)
    wait_for(lambda: broker.sent, 20)
    assert broker.sent[0]["seq"] == 2
    assert outbox.parked_ever == [1]


def test_what_was_set_aside_goes_as_soon_as_another_one_has(run: Runner) -> None:
    broker = FakeBroker(*[Outcome.BROKE] * 3)
    outbox = FakeOutbox(outbox_row(1), outbox_row(2))
    run(outbox, broker)
    wait_for(lambda: len(broker.sent) == 2, 20)
    assert [(document["seq"], document["replayed"]) for document in broker.sent] == [(2, False), (1, True)]


def test_breaks_that_hit_different_events_set_none_aside(run: Runner) -> None:
    broker = FakeBroker(Outcome.BROKE, Outcome.BROKE, Outcome.SENT, Outcome.BROKE, Outcome.BROKE)
    outbox = FakeOutbox(outbox_row(1), outbox_row(2), outbox_row(3))
    publisher, _ = run(outbox, broker)
    assert publisher.drain(20)
    assert outbox.parked_ever == []
    assert {document["seq"] for document in broker.sent} == {1, 2, 3}


def test_what_was_set_aside_is_tried_again_when_nothing_else_waits(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kiosk.publisher._PARKED_RETRY_MIN_S", 0.2)
    broker = FakeBroker(Outcome.TOO_LARGE, Outcome.SENT, Outcome.NO_SUBSCRIBER, Outcome.BROKE)
    outbox = FakeOutbox(outbox_row(1), outbox_row(2))
    run(outbox, broker)
    wait_for(lambda: len(broker.sent) == 2, 10)
    assert broker.sent == [{"seq": 2, "replayed": False}, {"seq": 1, "replayed": True}]
    wait_for(lambda: not outbox.parked)


def test_commands_outlive_a_store_that_fails_and_expire(run: Runner) -> None:
    asked: list[str] = []
    outbox = FakeOutbox()
    failures = iter([StoreError("no space left")])

    def request(command_id: str, from_seq: int, to_seq: int) -> None:
        for error in failures:
            raise error
        asked.append(f"{command_id} {from_seq} {to_seq}")

    outbox.request_replay = request  # type: ignore[method-assign]
    publisher, _ = run(outbox, FakeBroker())
    publisher.obey(Command(b'{"from_seq": 1, "to_seq": 5, "id": "old"}', expires_at_s=time.monotonic() - 1))
    publisher.obey(Command(b'{"from_seq": 1, "to_seq": 5, "id": "kept"}'))
    for nonsense in (b"", b"{}", b'{"from_seq": "1", "to_seq": 5, "id": "x"}', b'{"from_seq":0,"to_seq":5,"id":"x"}'):
        publisher.obey(Command(nonsense))
    publisher.obey(Command(b'{"from_seq": 2, "to_seq": 2, "id": "next"}'))
    wait_for(lambda: len(asked) == 2)
    assert asked == ["kept 1 5", "next 2 2"]


def test_whoever_floods_the_kiosk_with_commands_cannot_fill_its_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Obeyed or ignored, and one in turn with the other."""
    caplog.set_level(logging.INFO)
    with Store.open(tmp_path / "kiosk.db") as store:
        store.enroll(ANA, [])
        store.record_check_in(
            Decision(Verdict.IDENTIFIED, Reason.MATCH, 0.62, (Candidate(ANA, 0.81),), frames=5),
            event_type=EventType.CHECK_IN,
            moment=now(),
            origin=ORIGIN,
            model_id=ModelId("test-int8@abcdef"),
            gallery_size=1,
        )
        store.mark_sent([1])
        broker = FakeBroker()
        publisher = Publisher(store, broker, wake=threading.Event(), clock=CLOCK)
        caplog.clear()
        for number in range(100):
            for seq in (1, 9_000_000_000_000_000):
                wish = {"from_seq": seq, "to_seq": seq + 1, "id": f"{seq}-{number}"}
                publisher._hear(Command(json.dumps(wish).encode()))
            publisher._hear(Command(b"nonsense"))
            while publisher._send_something():
                pass
        assert len(broker.sent) == 100
    told = Counter(record.levelname for record in caplog.records)
    assert told == {"INFO": 20, "WARNING": 2}


def test_what_waits_of_a_command_that_is_too_large_is_not_large(run: Runner) -> None:
    publisher, _ = run(FakeOutbox(), FakeBroker())
    publisher.stop()
    publisher.obey(Command(b" " * 1_000_000))
    assert [len(command.payload) for command in publisher._commands] == [4097]


def test_idle_publisher_does_not_spin(run: Runner) -> None:
    outbox = FakeOutbox()
    publisher, _ = run(outbox, FakeBroker())
    assert publisher.drain(1)
    looks = outbox.looks
    time.sleep(0.3)
    assert outbox.looks <= looks + 2


def test_disconnected_publisher_leaves_the_store_alone(run: Runner) -> None:
    broker = FakeBroker()
    broker.connected = False
    outbox = FakeOutbox(outbox_row())
    _, wake = run(outbox, broker)
    wake.set()
    time.sleep(0.1)
    assert outbox.looks == 0


def test_store_errors_are_survived(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    outbox, broker = FakeOutbox(outbox_row(1), outbox_row(2)), FakeBroker()
    outbox.failures = 2
    run(outbox, broker)
    wait_for(lambda: not outbox.rows)
    assert list(dict.fromkeys(document["seq"] for document in broker.sent)) == [1, 2]
    assert "no space left" in caplog.text


def test_what_cannot_be_noted_as_sent_is_not_sent_without_a_pause(
    run: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    outbox, broker = FakeOutbox(outbox_row(1), outbox_row(2)), FakeBroker()

    def fail(seqs: Sequence[int]) -> None:
        raise StoreError(f"no space left for {len(seqs)}")

    outbox.mark_sent = fail  # type: ignore[method-assign]
    run(outbox, broker)
    time.sleep(3.2)
    # After 0, 0.5 and 1.5 s; the next would be after 3.5.
    assert len(broker.attempts_at) == 3
    assert len([line for line in caplog.messages if "no space left" in line]) <= 2


def test_defects_are_logged_and_survived(
    run: Runner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox, broker = FakeOutbox(outbox_row()), FakeBroker()
    calls = iter([RuntimeError("defect")])
    original = broker.publish

    def defective(*arguments: object, **options: object) -> Receipt:
        for error in calls:
            raise error
        return original(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(broker, "publish", defective)
    run(outbox, broker)
    wait_for(lambda: not outbox.rows)
    assert "RuntimeError: defect" in caplog.text


def test_side_channel_is_bounded_and_forgets(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = FakeBroker()
    broker.connected = False
    publisher, wake = run(FakeOutbox(), broker)
    for number in range(100):
        publisher.offer(REJECTED, {"number": number})
    broker.connected = True
    wake.set()
    assert publisher.drain(5)
    assert [document["number"] for document in broker.sent] == list(range(68, 100))
    broker.connected = False
    monkeypatch.setattr("kiosk.publisher._LATE_S", 0.0)
    publisher.offer(REJECTED, {"number": 100})
    time.sleep(0.01)
    broker.connected = True
    wake.set()
    assert publisher.drain(5)
    assert len(broker.sent) == 32


def test_stop_before_start_and_twice() -> None:
    publisher = Publisher(FakeOutbox(), FakeBroker(), wake=threading.Event(), clock=CLOCK)
    publisher.stop()
    publisher.start()
    publisher.stop()
    publisher.stop()
