"""docs/mosquitto as it ships: attacked by insiders while a real kiosk works, killed, and used with certificates."""

from __future__ import annotations

import contextlib
import getpass
import json
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from broker import Mosquitto, Subscriber, make_certificates, wait_for
from command_line import Kiosk
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from runner import copy_store, dump
from test_store import ANA, check_in

from kiosk.biometrics import Box
from kiosk.clip import Person, Scene, Walk, write_clip
from kiosk.clock import SystemClock
from kiosk.events import ATTENDANCE, Health, Topics
from kiosk.mqtt import BrokerSettings, MqttBroker, Tls, check_broker
from kiosk.opencv import cv2
from kiosk.ports import Command, Message, Outcome
from kiosk.publisher import Publisher
from kiosk.store import Store

SEED = 20
HOSTILE = 2100
"""So many that more than a thousand get past the broker's rules, to the kiosk."""
DOOR, NEIGHBOUR = Topics("kiosk/v1", "hq", "door-1"), Topics("kiosk/v1", "hq", "door-2")
PASSWORDS = {name: f"{name} canary" for name in ("hq/door-1", "hq/door-2", "attendance", "dashboard", "admin")}
# Whoever runs the broker can give himself this.
ADMINISTRATOR = "\nuser admin\ntopic readwrite #\n"
NOT_AUTHORIZED = 0x87
KIOSK_CLIENT = "kiosk-hq-door-1"


class SampleBroker(Mosquitto):
    """The shipped files with their paths and the listener replaced, and an administrator among the users."""

    def __init__(self, folder: Path, sample: Path, *, certificates_only: bool = False) -> None:
        super().__init__(folder, users=PASSWORDS)
        self._sample = sample
        self._certificates_only = certificates_only
        self.shipped_acl = (sample / "acl").read_text(encoding="utf-8") + ADMINISTRATOR
        self._acl = self.shipped_acl
        make_certificates(folder, "broker", "hq/door-1")
        (folder / "data").mkdir()

    def _write_config(self) -> Path:
        text = (self._sample / "mosquitto.conf").read_text(encoding="utf-8")
        changes = {
            "listener 8883": f"listener {self.port} 127.0.0.1\nuser {getpass.getuser()}\nlog_type debug",
            "/etc/mosquitto/kiosk": str(self._folder),
            "/var/lib/mosquitto/": f"{self._folder}/data/",
        }
        if self._certificates_only:
            changes |= {
                "password_file ": "#password_file ",
                "#require_certificate true": "require_certificate true",
                "#use_identity_as_username true": "use_identity_as_username true",
            }
        for shipped, here in changes.items():
            assert shipped in text, shipped
            text = text.replace(shipped, here)
        (self._folder / "acl").write_text(self._acl or "")
        (self._folder / "acl").chmod(0o600)
        self._write_passwords()
        config = self._folder / "mosquitto.conf"
        config.write_text(text)
        return config

    def client(self, user: str, topic: str = "#") -> Subscriber:
        return Subscriber(self.port, topic, username=user, password=PASSWORDS[user], ca_file=self._folder / "ca.crt")


@pytest.fixture
def sample(repo: Path) -> Path:
    return repo / "docs" / "mosquitto"


@pytest.fixture
def broker(tmp_path: Path, sample: Path) -> Iterator[SampleBroker]:
    folder = tmp_path / "broker"
    folder.mkdir()
    with SampleBroker(folder, sample) as broker:
        yield broker


def settings(broker: SampleBroker, folder: Path, user: str = "hq/door-1") -> BrokerSettings:
    path = folder / "password"
    path.write_text(PASSWORDS[user])
    path.chmod(0o600)
    return BrokerSettings("localhost", broker.port, user, path, Tls(broker._folder / "ca.crt"))


# --- insiders


@dataclass(frozen=True, slots=True)
class Attack:
    """One hostile message. ``refused``: the broker must not take it."""

    user: str
    topic: str
    payload: bytes
    retain: bool = False
    refused: bool = False

    @property
    def arrives(self) -> bool:
        """Whether it must come through to the kiosk, which listens to this topic alone."""
        return self.topic == DOOR.replay and not self.refused


def attacks(random_: random.Random, count: int) -> list[Attack]:
    makers = (_forged, _foreign_command, _retained, _repeated_id, _malformed, _oversize, _unknown_topic)
    return [makers[number % len(makers)](random_, number) for number in range(count)]


def _command(random_: random.Random, command_id: str) -> bytes:
    first = random_.randrange(1, 5)
    return json.dumps({"from_seq": first, "to_seq": first + random_.randrange(1000), "id": command_id}).encode()


def _forged(random_: random.Random, number: int) -> Attack:
    """Another kiosk, or a mere reader, speaks for this one."""
    topic = random_.choice([DOOR.attendance, DOOR.status, DOOR.info, DOOR.below("health"), DOOR.rejected])
    event = {"event_type": "check_in", "event_id": f"forged-{number}", "seq": number, "subject": {"id": "mallory"}}
    payload = b"offline" if topic == DOOR.status else json.dumps(event).encode()
    user = random_.choice(["hq/door-2", "dashboard", "attendance"])
    return Attack(user, topic, payload, retain=random_.random() < 0.5, refused=True)


def _foreign_command(random_: random.Random, number: int) -> Attack:
    user = random_.choice(["hq/door-2", "dashboard"])
    return Attack(user, DOOR.replay, _command(random_, f"foreign-{number}"), refused=True)


def _retained(random_: random.Random, number: int) -> Attack:
    return Attack("attendance", DOOR.replay, _command(random_, f"retained-{number}"), retain=True)


def _repeated_id(random_: random.Random, _number: int) -> Attack:
    return Attack("attendance", DOOR.replay, _command(random_, "obeyed"))


def _malformed(random_: random.Random, number: int) -> Attack:
    good = _command(random_, f"malformed-{number}")
    payload = random_.choice(
        [
            b"",
            b"null",
            b"[]",
            b"\x00" * 8,
            random_.randbytes(random_.randrange(1, 200)),
            good[: random_.randrange(len(good))],
            good + b"}",
            b"\xef\xbb\xbf" + good,
            good.decode().encode("utf-16"),
            good.replace(b'"from_seq": ', b'"from_seq": -'),
            good.replace(b'"from_seq"', b'"from"'),
            good.replace(b"}", b', "subject": "obama"}'),
            good.replace(b"malformed-", b"../"),
            b'{"from_seq": NaN, "to_seq": 1, "id": "a"}',
            b'{"from_seq": 1.0, "to_seq": 2, "id": "a"}',
            b'{"from_seq": true, "to_seq": 2, "id": "a"}',
            b'{"from_seq": "1", "to_seq": "2", "id": "a"}',
            b'{"from_seq": 9, "to_seq": 2, "id": "a"}',
            b'{"from_seq": 1, "to_seq": ' + b"9" * 3000 + b', "id": "a"}',
            b'{"from_seq": 1, "to_seq": 2, "id": "a\\n"}',
            b'{"from_seq": 1, "to_seq": 2, "id": "\\ud800"}',
            b"[" * 4000,
            b'{"a":' * 800,
        ]
    )
    return Attack("attendance", DOOR.replay, payload)


def _oversize(random_: random.Random, number: int) -> Attack:
    """Valid, but for its length, which the broker lets pass."""
    padding = b" " * random_.choice([4096, 8000, 15_000, 17_000, 60_000])
    return Attack("attendance", DOOR.replay, _command(random_, f"oversize-{number}") + padding)


def _unknown_topic(random_: random.Random, number: int) -> Attack:
    """What no kiosk obeys over MQTT, whoever asks; the administrator may send it everywhere."""
    order = random_.choice(
        ["enroll", "remove", "threshold", "config", "status", "retry", "run", "replay/x", "../replay"]
    )
    payload = json.dumps({"id": f"order-{number}", "subject": "obama", "threshold": -1, "name": "Mallory"}).encode()
    return Attack("admin", DOOR.below(f"cmd/{order}"), payload, retain=random_.random() < 0.3)


@pytest.fixture
def door(kiosk: Kiosk, _home: Kiosk, broker: SampleBroker, samples: Path) -> Kiosk:
    """Obama comes by every two seconds; the password is a systemd credential."""
    copy_store(_home, kiosk)
    clip = kiosk.folder / "visits.avi"
    obama = Person(cv2.imread(str(samples / "obama2.jpg")), Box(115, 181, 181, 181))  # type: ignore[arg-type]
    write_clip(clip, [Scene(1.0, (Walk(obama, x=(0.45, 0.55), face_px=(120, 130)),)), Scene(1.2)])
    kiosk.configure(
        camera={"source": str(clip), "loop": True},
        match={"refractory_s": 0},
        mqtt={
            "enabled": True,
            "host": "localhost",
            "port": broker.port,
            "username": "hq/door-1",
            "tls": {"ca_file": str(broker._folder / "ca.crt")},
        },
    )
    (kiosk.folder / "mqtt-password").write_text(PASSWORDS["hq/door-1"])
    return kiosk


@contextlib.contextmanager
def _running(kiosk: Kiosk) -> Iterator[Path]:
    """``kiosk run``, ended by SIGTERM with code 0, and where its log goes."""
    # A pipe that nobody empties would hold up the kiosk.
    log = kiosk.folder / "kiosk.log"
    process = kiosk.start("run", env={"CREDENTIALS_DIRECTORY": str(kiosk.folder)}, log=log)
    try:
        yield log
        assert process.poll() is None, log.read_text()
        process.send_signal(signal.SIGTERM)
        process.wait(15)
        assert process.returncode == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _take_over(broker: SampleBroker) -> None:
    """Cut the kiosk off by its client id, which any valid login can."""
    thief = Client(CallbackAPIVersion.VERSION2, client_id=KIOSK_CLIENT, protocol=MQTTProtocolVersion.MQTTv5)
    thief.username_pw_set("dashboard", PASSWORDS["dashboard"])
    thief.tls_set(str(broker._folder / "ca.crt"))
    connected: list[object] = []
    thief.on_connect = lambda *_: connected.append(1)
    thief.connect("localhost", broker.port)
    thief.loop_start()
    wait_for(lambda: connected)
    thief.disconnect()
    thief.loop_stop()


def _people(kiosk: Kiosk) -> object:
    tables = dump(kiosk.store)
    return tables["subjects"], tables["templates"]


def _replays(kiosk: Kiosk) -> list[str]:
    return [str(row[0]) for row in dump(kiosk.store)["replays"]]


def _acknowledged(broker: SampleBroker) -> int:
    """How many messages the kiosk has taken from the broker: it hears commands, and nothing else."""
    return broker.log_text().count(f"Received PUBACK from {KIOSK_CLIENT} ")


def test_a_thousand_hostile_messages_move_nothing(
    door: Kiosk, broker: SampleBroker, record_property: Callable[[str, object], None]
) -> None:
    people = _people(door)
    planned = attacks(random.Random(SEED), HOSTILE)  # noqa: S311 - the same every time
    refused, arriving = (sum(getattr(attack, kind) for attack in planned) for kind in ("refused", "arrives"))
    with contextlib.ExitStack() as stack:
        consumer = stack.enter_context(broker.client("attendance", DOOR.attendance))
        users = {user: stack.enter_context(broker.client(user, "none")) for user in sorted(PASSWORDS)}
        # An order that waits for the kiosk before it has come: nothing retained is ever obeyed.
        users["attendance"].publish(DOOR.replay, b'{"from_seq": 1, "to_seq": 9, "id": "waiting"}', retain=True)
        log = stack.enter_context(_running(door))
        consumer.wait_for(ATTENDANCE, 1, 30)
        users["attendance"].publish(DOOR.replay, b'{"from_seq": 1, "to_seq": 1, "id": "obeyed"}')
        wait_for(lambda: [m for m in consumer.on(ATTENDANCE) if m.json()["replayed"]])
        wait_for(lambda: _acknowledged(broker) == 1)
        before = {user: len(client.reasons) for user, client in users.items()}

        for attack in planned:
            sent = users[attack.user].send(attack.topic, attack.payload, retain=attack.retain)
            assert sent.rc == 0
        for user, client in users.items():
            mine = [attack for attack in planned if attack.user == user]
            wait_for(partial(client.has_answers, before[user] + len(mine)), 60, what=f"answers to {user}")
            denials = client.reasons[before[user] :].count(NOT_AUTHORIZED)
            assert denials == sum(attack.refused for attack in mine), user
        wait_for(lambda: _acknowledged(broker) >= 1 + arriving, 60, what="every command that arrives")
        # What came in order is heard in order: of all of these the kiosk obeys the last.
        users["attendance"].publish(DOOR.replay, b'{"from_seq": 1, "to_seq": 1, "id": "afterwards"}')
        wait_for(lambda: "afterwards" in _replays(door), 20)
        assert _acknowledged(broker) == arriving + 2

        _take_over(broker)
        # It still delivers, and what it delivers is its own.
        consumer.wait_for(ATTENDANCE, len(consumer.on(ATTENDANCE)) + 2, 30)
        users["attendance"].publish(DOOR.replay, b'{"from_seq": 1, "to_seq": 1, "id": "last"}')
        wait_for(lambda: "last" in _replays(door), 20)
        events = [message.json() for message in consumer.on(ATTENDANCE)]
    record_property("hostile", {"sent": len(planned), "refused by the broker": refused, "at the kiosk": arriving})
    assert len(planned) - refused >= 1000
    assert arriving >= 1000
    # A replay is on record before it is obeyed; the log names each.
    assert _replays(door) == ["obeyed", "afterwards", "last"]
    told = log.read_text()
    assert re.findall(r"replay (\S+): events", told) == ["obeyed", "afterwards", "last"]
    assert _people(door) == people
    with Store.open(door.store, writable=False) as store:
        recorded = {row.event_id: row.seq for row in store.attendance()}
    assert all(recorded[event["event_id"]] == event["seq"] for event in events)
    first = list(dict.fromkeys(event["seq"] for event in events))
    assert first == list(range(1, len(first) + 1))
    assert "Traceback" not in told
    assert len(told.splitlines()) < 100, "an insider can fill the log"
    assert "canary" not in told + broker.log_text()


def test_more_than_any_message_needs_stops_at_the_broker(broker: SampleBroker) -> None:
    with broker.client("admin", DOOR.replay) as listener, broker.client("attendance", "none") as sender:
        sender.send(DOOR.replay, b" " * 70_000)
        wait_for(lambda: "due to oversize packet" in broker.log_text() or "packet too large" in broker.log_text())
        listener.publish(DOOR.replay, b"small")
        wait_for(lambda: listener.messages)
        assert [message.payload for message in listener.messages] == [b"small"]


def test_an_event_the_broker_denies_is_kept_and_reported(door: Kiosk, broker: SampleBroker) -> None:
    assert "pattern write kiosk/v1/%u/event/+\n" in broker.shipped_acl
    broker.set_acl(broker.shipped_acl.replace("pattern write kiosk/v1/%u/event/+\n", ""))
    with broker.client("attendance", f"{DOOR.prefix}/#") as consumer, _running(door):
        with Store.open(door.store, writable=False) as store:
            wait_for(lambda: store.outbox_counts().last_error, 30)
            counts = store.outbox_counts()
        assert "Not authorized" in (counts.last_error or "")
        assert counts.sent == 0
        assert "Not authorized" in door("outbox", "list").stdout
        health = consumer.wait_for("/health", 1, 20)
        wait_for(lambda: any(b"Not authorized" in message.payload for message in consumer.on("/health")), 20)
        assert health
        assert not consumer.on(ATTENDANCE)
        broker.set_acl(broker.shipped_acl)
        consumer.wait_for(ATTENDANCE, 2, 40)
    events = [message.json() for message in consumer.on(ATTENDANCE)]
    assert [event["seq"] for event in events][:2] == [1, 2]
    assert events[0]["replayed"]


def test_check_finds_that_the_broker_takes_nothing(kiosk: Kiosk, broker: SampleBroker) -> None:
    """A valid login, for another door: no event has to be risked to find that out."""
    (kiosk.folder / "mqtt-password").write_text(PASSWORDS["hq/door-2"])
    (kiosk.folder / "mqtt-password").chmod(0o400)
    kiosk.configure(
        device={"site": "hq", "id": "door-1"},
        mqtt={
            "enabled": True,
            "host": "localhost",
            "port": broker.port,
            "username": "hq/door-2",
            "tls": {"ca_file": str(broker._folder / "ca.crt")},
        },
    )

    def check(**env: str) -> dict[str, str]:
        result = kiosk("check", "--json", env={"CREDENTIALS_DIRECTORY": str(kiosk.folder), **env})
        (found,) = [one for one in json.loads(result.stdout)["checks"] if one["name"] == "broker"]
        return found  # type: ignore[no-any-return]

    with broker.client("attendance", "kiosk/v1/#") as consumer:
        refused = check()
        assert refused["status"] == "fail"
        for word in (DOOR.below("health"), "'hq/door-2'", "Not authorized", "device.site", "mqtt.username", "ACL"):
            assert word in refused["message"]
        assert not consumer.messages
        assert check(KIOSK_DEVICE__ID="door-2")["status"] == "ok"
        consumer.wait_for("/health")
    (told,) = consumer.messages
    assert (told.topic, told.retain) == (NEIGHBOUR.below("health"), False)
    document = Health.model_validate(told.json())
    assert [problem.what for problem in document.problems if "kiosk check" in problem.what]


def test_commands_that_expired_before_they_were_read_are_not_obeyed(broker: SampleBroker, tmp_path: Path) -> None:
    heard: list[Command] = []
    link = MqttBroker(settings(broker, tmp_path), DOOR)
    with Store.open(tmp_path / "kiosk.db") as store, broker.client("attendance", "none") as backend:
        publisher = Publisher(store, link, wake=threading.Event(), clock=SystemClock())
        # Something to ask for.
        store.enroll(ANA, [])
        store.mark_sent([check_in(store).seq])

        def hear(command: Command) -> None:
            heard.append(command)
            publisher.obey(command)

        def say(command_id: str, expires_in_s: int) -> None:
            command = {"from_seq": 1, "to_seq": 1, "id": command_id}
            backend.publish(DOOR.replay, json.dumps(command).encode(), expires_in_s=expires_in_s)

        def obeyed() -> list[str]:
            return [str(row[0]) for row in dump(tmp_path / "kiosk.db")["replays"]]

        link.hear_replays(hear)
        link.start()
        try:
            assert link.wait_connected(5)
            # The broker may take the first ones before it takes the subscription.
            wait_for(lambda: say(f"old-{len(heard)}", 1) or len(heard) >= 10)
            time.sleep(1.1)
            publisher.start()
            say("new", 60)
            wait_for(lambda: "new" in obeyed())
        finally:
            publisher.stop()
            link.stop()
        assert obeyed() == ["new"]


# --- what the files promise


def test_what_was_acknowledged_survives_a_crash_of_the_broker(broker: SampleBroker, tmp_path: Path) -> None:
    """With Debian's settings all of it is gone (tests/faults/test_broker_loss.py)."""
    received: list[bytes] = []

    def consumer() -> Client:
        client = Client(CallbackAPIVersion.VERSION2, client_id="consumer", protocol=MQTTProtocolVersion.MQTTv5)
        client.username_pw_set("attendance", PASSWORDS["attendance"])
        client.tls_set(str(broker._folder / "ca.crt"))
        client.on_message = lambda _c, _u, message: received.append(message.payload)
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = 3600
        client.connect("localhost", broker.port, clean_start=False, properties=session)
        client.loop_start()
        return client

    def leave(client: Client) -> None:
        client.disconnect()
        client.loop_stop()

    there = consumer()
    subscribed: list[object] = []
    there.on_subscribe = lambda *_: subscribed.append(1)
    there.subscribe(DOOR.attendance, qos=1)
    wait_for(lambda: subscribed)
    leave(there)
    payloads = [f"event {number}".encode() for number in range(40)]
    kiosk = MqttBroker(settings(broker, tmp_path), DOOR)
    kiosk.start()
    try:
        assert kiosk.wait_connected(5)
        receipts = [*kiosk.publish([Message(ATTENDANCE, p) for p in payloads[:15]])]
        for payload in payloads[len(receipts) :]:
            receipts += kiosk.publish([Message(ATTENDANCE, payload)])
        # A moment after the acknowledgement of the last one.
        wait_for(lambda: payloads[-1] in (broker._folder / "data" / "mosquitto.db").read_bytes())
    finally:
        broker.kill()
        kiosk.stop()
    assert {receipt.outcome for receipt in receipts} == {Outcome.SENT}
    broker.start()
    back = consumer()
    wait_for(lambda: len(received) >= len(payloads))
    leave(back)
    assert received == payloads


def test_certificates_instead_of_passwords(tmp_path: Path, sample: Path) -> None:
    with SampleBroker(tmp_path, sample, certificates_only=True) as broker:
        own = Tls(tmp_path / "ca.crt", tmp_path / "hq-door-1.crt", tmp_path / "hq-door-1.key")
        assert check_broker(BrokerSettings("localhost", broker.port, tls=Tls(tmp_path / "ca.crt"))) is not None
        outcomes = {}
        for topics in (DOOR, NEIGHBOUR):
            kiosk = MqttBroker(BrokerSettings("localhost", broker.port, tls=own), topics)
            kiosk.start()
            assert kiosk.wait_connected(5)
            (receipt,) = kiosk.publish([Message(ATTENDANCE, b"{}")])
            outcomes[topics] = receipt.outcome
            kiosk.stop()
    assert outcomes == {DOOR: Outcome.NO_SUBSCRIBER, NEIGHBOUR: Outcome.REFUSED}


@pytest.mark.parametrize("user", [None, "hq/door-1"])
def test_nobody_without_a_name_and_a_password(broker: SampleBroker, user: str | None) -> None:
    problem = check_broker(BrokerSettings("localhost", broker.port, user, tls=Tls(broker._folder / "ca.crt")))
    assert "refuses the login" in (problem or "")
    assert ("the systemd credential mqtt-password" in (problem or "")) == (user is not None)


def test_no_plain_listener(broker: SampleBroker) -> None:
    assert check_broker(BrokerSettings("localhost", broker.port), timeout_s=1) is not None
