"""The adapter against real mosquittos."""

import logging
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from broker import Mosquitto, ServerTls, Subscriber, free_port, listening, make_certificates, wait_for
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from kiosk.errors import ConfigError
from kiosk.events import ATTENDANCE, Topics, encode
from kiosk.home_assistant import discovery_document
from kiosk.mqtt import BrokerSettings, MqttBroker, Tls, check_broker
from kiosk.mqtt._problems import connect_problem, end_problem, login_problem
from kiosk.ports import Command, Message, Outcome, Receipt

TOPICS = Topics("kiosk/v1", "hq", "door-1")
Starter = Callable[..., MqttBroker]


def settings(port: int, **options: Any) -> BrokerSettings:
    return BrokerSettings("127.0.0.1", port, **options)


@pytest.fixture
def start() -> Iterator[Starter]:
    started: list[MqttBroker] = []

    def start(
        port: int, *, topics: Topics = TOPICS, births: Any = (), once: Any = (), on_change: Any = None, **options: Any
    ) -> MqttBroker:
        on_change = on_change or (lambda: None)
        broker = MqttBroker(settings(port, **options), topics, births=births, once=once, on_change=on_change)
        broker.start()
        started.append(broker)
        return broker

    yield start
    for broker in started:
        broker.stop()


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("s3cret\n")
    path.chmod(0o600)
    return path


def publish(kiosk: MqttBroker, payload: bytes, *, timeout_s: float = 10.0) -> Receipt:
    (receipt,) = kiosk.publish([Message(ATTENDANCE, payload)], timeout_s=timeout_s)
    return receipt


# --- being there


def test_births_are_retained_and_status_follows_the_process(tmp_path: Path, start: Starter) -> None:
    births = ((TOPICS.info, b'{"a":1}'), (TOPICS.discovery, encode(discovery_document(TOPICS, version="1"))))
    with Mosquitto(tmp_path) as mosquitto:
        kiosk = start(mosquitto.port, births=births)
        assert kiosk.wait_connected(5)
        with Subscriber(mosquitto.port) as first:
            first.wait_for("config")
        with Subscriber(mosquitto.port) as late:
            late.wait_for("config")
            by_topic = {message.topic: message for message in late.messages}
            assert by_topic[TOPICS.status].payload == b"online"
            assert by_topic[TOPICS.info].payload == b'{"a":1}'
            assert by_topic[TOPICS.discovery].json()["dev"]["ids"] == ["kiosk_hq_door-1"]
            assert all(message.retain for message in late.messages)
            kiosk.stop()
            assert late.wait_for("status", 2)[1].payload == b"offline"
        with Subscriber(mosquitto.port) as later:
            assert later.wait_for("status")[0].payload == b"offline"
    assert not kiosk.connected


def test_will_says_offline_when_the_process_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from kiosk.events import Topics; from kiosk.mqtt import BrokerSettings, MqttBroker\n"
        "b = MqttBroker(BrokerSettings('127.0.0.1', int(sys.argv[1])), Topics('kiosk/v1', 'hq', 'door-1'))\n"
        "b.start(); b.wait_connected(5); time.sleep(60)"
    )
    with listening(tmp_path, TOPICS.status) as (mosquitto, subscriber):
        process = subprocess.Popen([sys.executable, "-c", code, str(mosquitto.port)])
        try:
            assert subscriber.wait_for("status")[0].payload == b"online"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert subscriber.wait_for("status", 2)[1].payload == b"offline"


def test_births_come_again_after_a_broker_restart(tmp_path: Path, start: Starter) -> None:
    changes: list[bool] = []
    with Mosquitto(tmp_path) as mosquitto:
        births, once = ((TOPICS.info, b"{}"),), ((TOPICS.below("once"), b"1"),)
        kiosk = start(mosquitto.port, births=births, once=once, on_change=lambda: changes.append(True))
        assert kiosk.wait_connected(5)
        with Subscriber(mosquitto.port) as subscriber:
            subscriber.wait_for("info")
            subscriber.wait_for("once")
        mosquitto.kill()
        wait_for(lambda: not kiosk.connected)
        wait_for(lambda: "broke" in (kiosk.last_error or ""))
        mosquitto.start()  # without persistence: it has forgotten what was retained
        assert kiosk.wait_connected(10)
        assert kiosk.last_error is None
        with Subscriber(mosquitto.port) as subscriber:
            subscriber.wait_for("info")
            subscriber.wait_for("status")
            assert subscriber.on("once") == []
        assert len(changes) >= 3


def test_starts_without_a_broker_and_finds_it_later(tmp_path: Path, start: Starter) -> None:
    mosquitto = Mosquitto(tmp_path)
    kiosk = start(mosquitto.port)
    wait_for(lambda: kiosk.last_error)
    assert "nothing listens there" in (kiosk.last_error or "")
    assert publish(kiosk, b"{}").outcome is Outcome.LOST
    with mosquitto:
        assert kiosk.wait_connected(10)
        kiosk.stop()


def test_stop_is_quick_without_a_broker_and_can_be_repeated(start: Starter) -> None:
    kiosk = start(free_port())
    wait_for(lambda: kiosk.last_error)
    began = time.monotonic()
    kiosk.stop()
    kiosk.stop()
    assert time.monotonic() - began < 2


def test_second_kiosk_with_the_same_id_is_named(tmp_path: Path, start: Starter) -> None:
    with Mosquitto(tmp_path) as mosquitto:
        first = start(mosquitto.port)
        assert first.wait_connected(5)
        second = start(mosquitto.port)
        wait_for(lambda: "does another kiosk use the device.id 'door-1'" in f"{first.last_error} {second.last_error}")


# --- publishing


def test_sent_needs_a_subscriber(tmp_path: Path, start: Starter) -> None:
    with Mosquitto(tmp_path) as mosquitto:
        kiosk = start(mosquitto.port)
        assert kiosk.wait_connected(5)
        assert publish(kiosk, b"1").outcome is Outcome.NO_SUBSCRIBER
        with Subscriber(mosquitto.port, TOPICS.attendance) as subscriber:
            assert publish(kiosk, "ä".encode()).outcome is Outcome.SENT
            message = subscriber.wait_for(ATTENDANCE)[0]
        assert (message.payload.decode(), message.retain, message.qos) == ("ä", False, 1)


def test_denied_by_acl_is_refused_and_named_once(
    tmp_path: Path, start: Starter, password_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    acl = "user kiosk\ntopic write kiosk/v1/hq/door-1/status\n"
    with Mosquitto(tmp_path, users={"kiosk": "s3cret"}, acl=acl) as mosquitto:
        kiosk = start(mosquitto.port, username="kiosk", password_file=password_file)
        assert kiosk.wait_connected(5)
        receipt = publish(kiosk, b"{}")
        assert receipt.outcome is Outcome.REFUSED
        assert "Not authorized" in receipt.detail
        assert "'kiosk'" not in receipt.detail, "what goes into health names no login"
        publish(kiosk, b"{}")
        assert kiosk.connected
        mosquitto.set_acl(acl.replace("door-1/status", "door-1/#"))
        wait_for(lambda: publish(kiosk, b"{}").outcome is Outcome.NO_SUBSCRIBER)
        mosquitto.set_acl(acl)
        wait_for(lambda: publish(kiosk, b"{}").outcome is Outcome.REFUSED)
    told = [record.message for record in caplog.records if "Not authorized" in record.message]
    assert len(told) == 2
    for word in ("kiosk/v1/hq/door-1/event/attendance", "'kiosk'", "device.site", "mqtt.username", "ACL"):
        assert word in told[0]


def test_too_large_is_refused_without_breaking_the_connection(tmp_path: Path, start: Starter) -> None:
    with listening(tmp_path, TOPICS.attendance, extra="max_packet_size 200") as (mosquitto, subscriber):
        kiosk = start(mosquitto.port)
        assert kiosk.wait_connected(5)
        receipt = publish(kiosk, b"x" * 200)
        assert receipt.outcome is Outcome.TOO_LARGE
        assert "200 bytes" in receipt.detail
        assert publish(kiosk, b"x" * 100).outcome is Outcome.SENT
        assert len(subscriber.wait_for(ATTENDANCE)) == 1
        assert kiosk.connected


def test_what_is_behind_a_message_too_large_is_not_sent_before_it(tmp_path: Path, start: Starter) -> None:
    with listening(tmp_path, TOPICS.attendance, extra="max_packet_size 200") as (mosquitto, subscriber):
        kiosk = start(mosquitto.port)
        assert kiosk.wait_connected(5)
        payloads = [b"a", b"b", b"x" * 200, b"c"]
        receipts = kiosk.publish([Message(ATTENDANCE, payload) for payload in payloads])
        assert [receipt.outcome for receipt in receipts] == [Outcome.SENT] * 2
        assert [message.payload for message in subscriber.wait_for(ATTENDANCE, 2)] == [b"a", b"b"]


def test_many_in_flight_keep_their_order(tmp_path: Path, start: Starter) -> None:
    with listening(tmp_path, TOPICS.attendance) as (mosquitto, subscriber):
        kiosk = start(mosquitto.port)
        assert kiosk.wait_connected(5)
        payloads = [str(number).encode() for number in range(15)]
        receipts = kiosk.publish([Message(ATTENDANCE, payload) for payload in payloads])
        assert [receipt.outcome for receipt in receipts] == [Outcome.SENT] * 15
        assert [message.payload for message in subscriber.wait_for(ATTENDANCE, 15)] == payloads


def test_answers_that_come_while_more_is_being_sent_block_nothing(tmp_path: Path, start: Starter) -> None:
    births = tuple((f"{TOPICS.prefix}/birth/{number}", b"x") for number in range(15))
    with Mosquitto(tmp_path) as mosquitto:
        for _ in range(25):
            kiosk = start(mosquitto.port, births=births)
            assert kiosk.wait_connected(5)
            assert publish(kiosk, b"x").outcome is Outcome.NO_SUBSCRIBER
            kiosk.stop()


def test_no_more_is_in_flight_than_the_broker_takes(tmp_path: Path, start: Starter) -> None:
    with Mosquitto(tmp_path, extra="max_inflight_messages 5") as mosquitto:
        kiosk = start(mosquitto.port)
        assert kiosk.wait_connected(5)
        assert publish(kiosk, b"first").outcome is Outcome.NO_SUBSCRIBER
        receipts = kiosk.publish([Message(ATTENDANCE, b"x")] * 8)
        assert [receipt.outcome for receipt in receipts] == [Outcome.NO_SUBSCRIBER] * 5


def test_connection_broken_by_a_message_is_not_sent(tmp_path: Path, start: Starter) -> None:
    with listening(tmp_path, TOPICS.attendance, extra="message_size_limit 100") as (mosquitto, _):
        kiosk = start(mosquitto.port)
        assert kiosk.wait_connected(5)
        assert publish(kiosk, b"x" * 200).outcome is Outcome.BROKE


def test_commands_are_heard_unless_they_are_retained(tmp_path: Path) -> None:
    heard: list[Command] = []
    with Mosquitto(tmp_path) as mosquitto:
        kiosk = MqttBroker(settings(mosquitto.port), TOPICS)
        kiosk.hear_replays(heard.append)
        with Subscriber(mosquitto.port) as backend:
            backend.publish(TOPICS.replay, b"old", retain=True)
            kiosk.start()
            try:
                assert kiosk.wait_connected(5)
                backend.wait_for("status")
                backend.publish(TOPICS.replay, b"retained", retain=True)
                backend.publish(TOPICS.replay, b"now")
                backend.publish(TOPICS.replay, b"short", expires_in_s=1)
                wait_for(lambda: len(heard) >= 2)
            finally:
                kiosk.stop()
    assert [command.payload for command in heard] == [b"now", b"short"]
    assert not heard[0].expired
    assert heard[0].expires_at_s is None
    wait_for(lambda: heard[1].expired, 2)


def test_a_greeting_is_answered_and_a_flood_of_them_is_not(tmp_path: Path) -> None:
    greeted: list[bool] = []
    with listening(tmp_path) as (mosquitto, subscriber):
        kiosk = MqttBroker(settings(mosquitto.port), TOPICS, births=((TOPICS.info, b"{}"),))
        kiosk.answer_greeting("home/status", b"hello", lambda: greeted.append(True))
        kiosk.hear_replays(lambda _: None)
        kiosk.start()
        try:
            subscriber.wait_for("info")
            subscriber.publish("home/status", b"goodbye")
            # Some keep it for whoever comes later.
            subscriber.publish("home/status", b"hello", retain=True)
            subscriber.wait_for("info", 2)
            for _ in range(20):
                subscriber.publish("home/status", b"hello")
            assert publish(kiosk, b"behind them").outcome is Outcome.SENT
            subscriber.wait_for(ATTENDANCE)
        finally:
            kiosk.stop()
        assert len(subscriber.on("info")) == 2
    assert greeted == [True]


def test_a_birth_larger_than_the_broker_takes_does_not_end_the_connection(
    tmp_path: Path, start: Starter, caplog: pytest.LogCaptureFixture
) -> None:
    births = ((TOPICS.discovery, b"x" * 2000), (TOPICS.info, b"{}"))
    with listening(tmp_path, extra="max_packet_size 1000") as (mosquitto, subscriber):
        kiosk = start(mosquitto.port, births=births)
        assert kiosk.wait_connected(5)
        subscriber.wait_for("info")
        assert publish(kiosk, b"x").outcome is Outcome.SENT
        assert subscriber.on("/config") == []
    assert "homeassistant/device/kiosk_door-1/config is not published: larger than the 1000 bytes" in caplog.text


def test_a_broker_that_forbids_listening_is_no_obstacle(tmp_path: Path, password_file: Path) -> None:
    acl = "user kiosk\ntopic write kiosk/v1/hq/door-1/#\n"
    with Mosquitto(tmp_path, users={"kiosk": "s3cret"}, acl=acl) as mosquitto:
        kiosk = MqttBroker(settings(mosquitto.port, username="kiosk", password_file=password_file), TOPICS)
        kiosk.hear_replays(lambda _: None)
        kiosk.start()
        try:
            assert kiosk.wait_connected(5)
            assert publish(kiosk, b"x").outcome is Outcome.NO_SUBSCRIBER
        finally:
            kiosk.stop()


def test_nothing_is_delivered_behind_our_back_after_a_reconnect(tmp_path: Path, start: Starter) -> None:
    """A message reported lost is the outbox's to send again, then marked as replayed."""
    with Mosquitto(tmp_path) as mosquitto:
        kiosk = start(mosquitto.port)
        assert kiosk.wait_connected(5)
        assert mosquitto._process is not None
        mosquitto._process.send_signal(signal.SIGSTOP)
        receipt = publish(kiosk, b"late", timeout_s=0.3)
        assert (receipt.outcome, "no answer" in receipt.detail) == (Outcome.LOST, True)
        mosquitto.kill()
        # Whether the end of the connection is known already decides which of them it is.
        assert publish(kiosk, b"offline").outcome in {Outcome.LOST, Outcome.BROKE}
        mosquitto.start()
        with Subscriber(mosquitto.port, TOPICS.attendance) as subscriber:
            assert kiosk.wait_connected(10)
            assert publish(kiosk, b"now").outcome is Outcome.SENT
            subscriber.wait_for(ATTENDANCE)
            assert [message.payload for message in subscriber.messages] == [b"now"]


def test_many_threads_may_publish(tmp_path: Path, start: Starter) -> None:
    with listening(tmp_path, TOPICS.attendance) as (mosquitto, subscriber):
        kiosk = start(mosquitto.port)
        assert kiosk.wait_connected(5)
        outcomes: list[Outcome] = []

        def work() -> None:
            outcomes.extend(publish(kiosk, b"x").outcome for _ in range(50))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(outcomes) == {Outcome.SENT}
        subscriber.wait_for(ATTENDANCE, 200)


# --- logging in


def test_wrong_password_is_said_and_never_logged(
    tmp_path: Path, start: Starter, password_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with Mosquitto(tmp_path, users={"kiosk": "other"}) as mosquitto:
        options = {"username": "kiosk", "password_file": password_file}
        kiosk = start(mosquitto.port, **options)
        wait_for(lambda: kiosk.last_error)
        assert "refuses the login" in (kiosk.last_error or "")
        assert "mqtt.password_file" in (kiosk.last_error or "")
        problem = check_broker(settings(mosquitto.port, **options))
        assert problem is not None
        assert problem == kiosk.last_error
        assert "\n" not in problem
    assert "s3cret" not in caplog.text


def test_right_password(tmp_path: Path, start: Starter, password_file: Path) -> None:
    with Mosquitto(tmp_path, users={"kiosk": "s3cret"}) as mosquitto:
        options = {"username": "kiosk", "password_file": password_file}
        assert check_broker(settings(mosquitto.port, **options)) is None
        assert start(mosquitto.port, **options).wait_connected(5)


def test_corrected_password_file_is_read_at_the_next_attempt(
    tmp_path: Path, start: Starter, password_file: Path
) -> None:
    password_file.write_text("wrong")
    with Mosquitto(tmp_path, users={"kiosk": "s3cret"}) as mosquitto:
        kiosk = start(mosquitto.port, username="kiosk", password_file=password_file)
        wait_for(lambda: kiosk.last_error)
        password_file.write_text("s3cret")
        assert kiosk.wait_connected(10)


def test_password_file_problems_are_configuration_errors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    missing = MqttBroker(settings(1, username="kiosk", password_file=tmp_path / "none"), TOPICS)
    with pytest.raises(ConfigError, match=r"mqtt\.password_file: .*none: No such file"):
        missing.start()
    (tmp_path / "open").write_text("x")
    (tmp_path / "open").chmod(0o644)
    check_broker(settings(free_port(), username="kiosk", password_file=tmp_path / "open"))
    assert "can be read by other users" in caplog.text


@pytest.mark.parametrize(("mode", "told"), [(0o440, False), (0o400, False), (0o444, True)])
def test_a_credential_as_systemd_hands_it_over_is_not_too_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mode: int, *, told: bool
) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    credential, other = credentials / "mqtt-password", tmp_path / "password"
    for path in (credential, other):
        path.write_text("x")
        path.chmod(mode)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    check_broker(settings(free_port(), username="kiosk", password_file=credential))
    assert ("can be read by other users" in caplog.text) == told
    caplog.clear()
    # The same bits mean something else anywhere else.
    check_broker(settings(free_port(), username="kiosk", password_file=other))
    assert ("can be read by other users" in caplog.text) == (mode != 0o400)


def test_check_does_not_disturb_the_running_kiosk(tmp_path: Path, start: Starter) -> None:
    with listening(tmp_path) as (mosquitto, subscriber):
        kiosk = start(mosquitto.port)
        assert kiosk.wait_connected(5)
        subscriber.wait_for("status")
        assert check_broker(settings(mosquitto.port)) is None
        assert publish(kiosk, b"x").outcome is Outcome.SENT
        subscriber.wait_for(ATTENDANCE)
        assert [message.payload for message in subscriber.messages] == [b"online", b"x"]


# --- what kiosk check says


def test_unreachable_broker() -> None:
    assert "nothing listens there" in (check_broker(settings(free_port())) or "")


def test_unknown_host() -> None:
    problem = check_broker(BrokerSettings("no-such-host.invalid", 1883))
    assert problem is not None
    assert "'no-such-host.invalid' is not known" in problem
    assert "mqtt.host" in problem


def test_something_else_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        problem = check_broker(settings(server.getsockname()[1]), timeout_s=0.5)
        assert "does not answer in MQTT" in (problem or "")
        assert time.monotonic() - began < 4


def test_server_that_hangs_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            server.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        problem = check_broker(settings(server.getsockname()[1]))
        thread.join()
    assert problem is not None
    assert "mqtt.port" in problem


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError(), "does not answer"),
        (OSError(113, "No route to host"), "No route to host"),
        (ValueError("Invalid host."), "Invalid host"),
        (ssl.SSLError(1, "[SSL] something"), "TLS fails"),
    ],
)
def test_every_problem_names_the_broker_and_a_setting(error: Exception, words: str) -> None:
    problem = connect_problem(settings(1883), error)
    assert problem.startswith("broker 127.0.0.1:1883")
    assert words in problem
    assert "mqtt." in problem


@pytest.mark.parametrize(
    ("code", "words"), [(0x8E, "another client uses this kiosk's id"), (0x95, "ended the connection"), (None, "broke")]
)
def test_why_a_connection_ended(code: int | None, words: str) -> None:
    told = None if code is None else ReasonCode(PacketTypes.DISCONNECT, identifier=code)
    assert words in end_problem(settings(1883), told)


def test_refusal_that_is_no_question_of_passwords() -> None:
    refusal = ReasonCode(PacketTypes.CONNACK, identifier=0x89)
    assert login_problem(settings(1), refusal, answered=True).endswith("refuses the connection: Server busy")


# --- no TLS


def test_a_name_that_leads_to_another_machine_gets_nothing_without_tls(
    own_address: str, monkeypatch: pytest.MonkeyPatch, password_file: Path
) -> None:
    """Whatever the machine's tables say of localhost: the other end of the socket counts, before a byte is sent."""
    heard: list[bytes] = []
    with socket.create_server((own_address, 0)) as server:
        port = server.getsockname()[1]

        def listen() -> None:
            with server.accept()[0] as client:
                client.settimeout(5)
                heard.append(client.recv(1))

        thread = threading.Thread(target=listen)
        thread.start()
        found = socket.getaddrinfo(own_address, port, type=socket.SOCK_STREAM)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: found)
        problem = check_broker(BrokerSettings("localhost", port, username="kiosk", password_file=password_file))
        thread.join()
    assert problem is not None
    assert own_address in problem
    assert "mqtt.allow_plaintext" in problem
    assert heard == [b""]


def test_a_broker_that_is_not_where_it_should_be_is_told(own_address: str, tmp_path: Path) -> None:
    with Mosquitto(tmp_path, address=own_address) as mosquitto:
        kiosk = MqttBroker(BrokerSettings(own_address, mosquitto.port), TOPICS)
        kiosk.start()
        wait_for(lambda: kiosk.last_error)
        assert "another machine" in (kiosk.last_error or "")
        assert publish(kiosk, b"x").outcome is Outcome.LOST
        kiosk.stop()
        assert check_broker(BrokerSettings(own_address, mosquitto.port, allow_plaintext=True)) is None


# --- TLS

# paho leaves closing the socket of a failed TLS handshake to the garbage collector.
unclosed_socket = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.crt, and server and client certificates signed by it."""
    folder = tmp_path_factory.mktemp("tls")
    make_certificates(folder, "server", "client")
    return folder


@pytest.fixture
def tls_mosquitto(tmp_path: Path, certificates: Path) -> Iterator[Mosquitto]:
    tls = ServerTls(certificates / "ca.crt", certificates / "server.crt", certificates / "server.key", True)
    with Mosquitto(tmp_path, tls=tls) as mosquitto:
        yield mosquitto


def test_tls_with_client_certificate(tls_mosquitto: Mosquitto, certificates: Path, start: Starter) -> None:
    tls = Tls(certificates / "ca.crt", certificates / "client.crt", certificates / "client.key")
    assert check_broker(settings(tls_mosquitto.port, tls=tls)) is None
    kiosk = start(tls_mosquitto.port, tls=tls)
    assert kiosk.wait_connected(5)
    assert publish(kiosk, b"x").outcome is Outcome.NO_SUBSCRIBER


def test_will_under_tls_says_offline_when_the_process_is_killed(tls_mosquitto: Mosquitto, certificates: Path) -> None:
    tls = f"Tls(*map(Path, {[str(certificates / name) for name in ('ca.crt', 'client.crt', 'client.key')]}))"
    code = (
        "import time; from pathlib import Path; from kiosk.events import Topics\n"
        "from kiosk.mqtt import BrokerSettings, MqttBroker, Tls\n"
        f"settings = BrokerSettings('127.0.0.1', {tls_mosquitto.port}, tls={tls})\n"
        "b = MqttBroker(settings, Topics('kiosk/v1', 'hq', 'door-1')); b.start(); b.wait_connected(5); time.sleep(60)"
    )
    with Subscriber(
        tls_mosquitto.port,
        TOPICS.status,
        ca_file=certificates / "ca.crt",
        certificate=(certificates / "client.crt", certificates / "client.key"),
    ) as subscriber:
        process = subprocess.Popen([sys.executable, "-c", code])
        try:
            assert subscriber.wait_for("status")[0].payload == b"online"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert subscriber.wait_for("status", 2)[1].payload == b"offline"


@unclosed_socket
def test_tls_problems_are_named(tls_mosquitto: Mosquitto, certificates: Path) -> None:
    port = tls_mosquitto.port
    assert "not trusted" in (check_broker(settings(port, tls=Tls())) or "")
    assert "mqtt.tls" in (check_broker(settings(port, tls=Tls(certificates / "ca.crt")), timeout_s=2) or "")
    assert "mqtt.tls" in (check_broker(settings(port), timeout_s=2) or "")
    missing = check_broker(settings(port, tls=Tls(certificates / "none.crt")))
    assert missing is not None
    assert missing.startswith("mqtt.tls.ca_file: ")
    no_pem = check_broker(settings(port, tls=Tls(certificates / "san")))
    assert "mqtt.tls" in (no_pem or "")
    other_name = BrokerSettings("127.0.0.2", port, tls=Tls(certificates / "ca.crt"))
    assert check_broker(other_name) is not None


@unclosed_socket
def test_tls_to_a_broker_without_it(tmp_path: Path, certificates: Path) -> None:
    with Mosquitto(tmp_path) as mosquitto:
        problem = check_broker(settings(mosquitto.port, tls=Tls(certificates / "ca.crt")), timeout_s=2)
    assert "mqtt.tls" in (problem or "")


# --- the rest of the contract


def resources() -> tuple[int, int]:
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


def test_no_threads_or_descriptors_are_left_behind(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as mosquitto:
        check_broker(settings(mosquitto.port))
        before = resources()
        for _ in range(5):
            assert check_broker(settings(mosquitto.port)) is None
            assert check_broker(settings(free_port())) is not None
        wait_for(lambda: resources() <= before)


def test_mosquitto_tells_a_publisher_that_nobody_subscribes(tmp_path: Path) -> None:
    """The assumption behind it all; MQTT 3.1.1 would report success."""
    with Mosquitto(tmp_path) as mosquitto:
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        reasons: list[int] = []
        client.on_publish = lambda _c, _u, _m, reason, _p: reasons.append(reason.value)
        client.connect("127.0.0.1", mosquitto.port)
        client.loop_start()
        client.publish("nobody/listens", b"", qos=1)
        wait_for(lambda: reasons)
        client.disconnect()
        client.loop_stop()
    assert reasons == [0x10]
