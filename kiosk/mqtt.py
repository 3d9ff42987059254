"""The broker adapter: MQTT 5 through paho. Every connection gets a fresh client.

paho would resend what it holds after a reconnect, hours late and with the payload of the first attempt. Only the
outbox decides what is sent again, so nothing may outlive its connection here.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from kiosk.errors import BrokerError, ConfigError
from kiosk.events import OFFLINE, ONLINE, Topics
from kiosk.ports import Outcome, Receipt

log = logging.getLogger(__name__)

_KEEPALIVE_S = 30
_CONNECT_TIMEOUT_S = 5.0
_RETRY_MIN_S = 1.0
_RETRY_MAX_S = 30.0
_STOP_TIMEOUT_S = 2.0
_NO_SUBSCRIBER = 0x10
_FAILURE = 0x80
_REFUSES_LOGIN = frozenset({0x86, 0x87, 0x8C})
_TAKEN_OVER = 0x8E
_PACKET_OVERHEAD = 16
"""Bytes of a PUBLISH packet beyond topic and payload: fixed header, two lengths, packet id, empty properties."""
_READABLE_BY_OTHERS = 0o077


@dataclass(frozen=True, slots=True)
class Tls:
    """Files for a TLS connection; without ``ca_file`` the system's certificate authorities count."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Where the broker is and who we are. The password is read from its file at every connection."""

    host: str
    port: int
    username: str | None = None
    password_file: Path | None = None
    tls: Tls | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


class MqttBroker:
    """Keeps a connection to the broker; implements :class:`kiosk.ports.Broker`.

    ``births`` are retained documents (full topic, payload) published after ``online`` on every connection.
    ``on_change`` is called, from another thread, when the connection comes or goes.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        topics: Topics,
        *,
        births: tuple[tuple[str, bytes], ...] = (),
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._topics = topics
        self._births = births
        self._on_change = on_change
        self._client_id = f"kiosk-{topics.site}-{topics.device}"
        self._session: _Session | None = None
        self._connected = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.last_error: str | None = None
        """Why there is no connection, in words; None while there is one or none was tried yet."""

    def start(self) -> None:
        """Begin connecting in the background; returns at once.

        Raises:
            ConfigError: the password or a TLS file cannot be used.
        """
        check_files(self._settings)
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Say ``offline`` and disconnect. Safe to call twice or without :meth:`start`."""
        self._stopping.set()
        session = self._session
        if session is not None and self._connected.is_set():
            session.publish(self._topics.status, OFFLINE, retain=True, timeout_s=_STOP_TIMEOUT_S)
        if session is not None:
            session.close()
        if self._thread is not None:
            self._thread.join(_CONNECT_TIMEOUT_S + _STOP_TIMEOUT_S)

    @property
    def connected(self) -> bool:
        return self._connected.is_set()

    def wait_connected(self, timeout_s: float) -> bool:
        return self._connected.wait(timeout_s)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, timeout_s: float = 10.0) -> Receipt:
        session = self._session
        if session is None or not self._connected.is_set():
            return Receipt(Outcome.LOST, "not connected")
        return session.publish(self._topics.below(topic), payload, retain=retain, timeout_s=timeout_s)

    def _run(self) -> None:
        retry_s = _RETRY_MIN_S
        while not self._stopping.is_set():
            if self._hold_one_connection():
                retry_s = _RETRY_MIN_S
            self._stopping.wait(retry_s)
            retry_s = min(retry_s * 2, _RETRY_MAX_S)

    def _hold_one_connection(self) -> bool:
        """Connect and stay until the connection ends. False when there was none."""
        session = _Session(self._settings, self._client_id, will=(self._topics.status, OFFLINE))
        try:
            session.open(_CONNECT_TIMEOUT_S)
        except BrokerError as error:
            self._report(str(error))
            return False
        self._announce(session)
        session.closed.wait()
        self._connected.clear()
        self._session = None
        session.close()
        if not self._stopping.is_set():
            self._report(session.ending)
        self._on_change()
        return True

    def _announce(self, session: _Session) -> None:
        session.send(self._topics.status, ONLINE)
        for topic, payload in self._births:
            session.send(topic, payload)
        self._session = session
        self._connected.set()
        self.last_error = None
        log.info("connected to the broker at %s", self._settings.address)
        self._on_change()
        if self._stopping.is_set():  # stop() may have looked before there was a session to close
            session.close()

    def _report(self, error: str) -> None:
        if error != self.last_error:
            log.warning("%s", error)
        self.last_error = error


def check_broker(settings: BrokerSettings, *, timeout_s: float = _CONNECT_TIMEOUT_S) -> str | None:
    """Try to log in under a client id of its own. None when that works, else the reason in one line."""
    session = _Session(settings, f"kiosk-check-{secrets.token_hex(4)}")
    try:
        check_files(settings)
        session.open(timeout_s)
    except (BrokerError, ConfigError) as error:
        return str(error)
    finally:
        session.close()
    return None


def check_files(settings: BrokerSettings) -> None:
    """Raise ConfigError for a password or TLS file that cannot be used; warn of a password others may read."""
    with contextlib.suppress(ssl.SSLError):  # a bad certificate is told at connection time, with its reason
        _prepared_client(settings, "check", None)
    if settings.password_file and settings.password_file.stat().st_mode & _READABLE_BY_OTHERS:
        log.warning("%s can be read by other users: chmod 600 it", settings.password_file)


class _Session:
    """One connection, from CONNECT to its end."""

    def __init__(self, settings: BrokerSettings, client_id: str, *, will: tuple[str, bytes] | None = None) -> None:
        self._settings = settings
        self._client_id = client_id
        self._will = will
        self._client: Client | None = None
        self._settled = threading.Event()
        self._refusal: ReasonCode | None = None
        self._results: queue.SimpleQueue[tuple[int, ReasonCode] | None] = queue.SimpleQueue()
        self._one_at_a_time = threading.Lock()
        self._max_packet: int | None = None
        self.closed = threading.Event()
        self.ending = ""

    def open(self, timeout_s: float) -> None:
        """Connect and wait for the broker's answer.

        Raises:
            BrokerError: no connection, or the broker refuses us; one line that says why and what to look at.
        """
        try:
            client = self._client = _prepared_client(self._settings, self._client_id, self._will)
            self._attach(client)
            client.connect_timeout = timeout_s
            client.connect(self._settings.host, self._settings.port, keepalive=_KEEPALIVE_S)
        except (OSError, ValueError, ConfigError) as error:
            raise BrokerError(_connect_problem(self._settings, error)) from error
        client.loop_start()
        answered = self._settled.wait(timeout_s)
        if not answered or self.closed.is_set() or self._refusal is not None:
            problem = self._login_problem(answered=answered)
            self.close()
            raise BrokerError(problem)

    def send(self, topic: str, payload: bytes) -> None:
        """Publish a retained document without waiting for the PUBACK."""
        if self._client is not None:
            self._client.publish(topic, payload, qos=1, retain=True)

    def publish(self, topic: str, payload: bytes, *, retain: bool, timeout_s: float) -> Receipt:
        if self._max_packet is not None and len(payload) + len(topic.encode()) + _PACKET_OVERHEAD > self._max_packet:
            return Receipt(Outcome.REFUSED, f"larger than the {self._max_packet} bytes the broker takes")
        with self._one_at_a_time:
            self._forget_results()
            if self._client is None or self.closed.is_set():
                return Receipt(Outcome.LOST, "not connected")
            info = self._client.publish(topic, payload, qos=1, retain=retain)
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return Receipt(Outcome.LOST, "not connected")
            return self._await_puback(info.mid, timeout_s)

    def close(self) -> None:
        """Disconnect and end the network thread; the second call does nothing."""
        client, self._client = self._client, None
        if client is None:
            return
        client.disconnect()
        if not self.closed.wait(_STOP_TIMEOUT_S):
            _shut(client)
        client.loop_stop()

    def _await_puback(self, mid: int, timeout_s: float) -> Receipt:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                result = self._results.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                # The connection is useless, or worse, would deliver this message late.
                if self._client is not None:
                    _shut(self._client)
                return Receipt(Outcome.LOST, f"no answer from the broker within {timeout_s:g} s")
            if result is None:
                return Receipt(Outcome.LOST, "the connection broke before the broker had answered")
            if result[0] == mid:
                return _receipt(result[1])

    def _forget_results(self) -> None:
        """Drop answers nobody waited for (births, earlier time-outs), so that none is taken for a new message's."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._results.get_nowait()

    def _attach(self, client: Client) -> None:
        def on_connect(_c: Client, _u: object, _f: ConnectFlags, reason: ReasonCode, properties: Properties) -> None:
            self._refusal = reason if reason.value >= _FAILURE else None
            self._max_packet = getattr(properties, "MaximumPacketSize", None)
            self._settled.set()

        def on_disconnect(
            _c: Client, _u: object, flags: DisconnectFlags, reason: ReasonCode, _p: Properties | None
        ) -> None:
            told = reason if flags.is_disconnect_packet_from_server else None
            self.ending = _end_problem(self._settings, told)
            self.closed.set()
            self._settled.set()
            self._results.put(None)

        def on_publish(_c: Client, _u: object, mid: int, reason: ReasonCode, _p: Properties) -> None:
            if reason.value >= _FAILURE:
                log.debug("the broker refuses message %s: %s", mid, reason)
            self._results.put((mid, reason))

        client.on_connect = on_connect
        client.on_disconnect = on_disconnect
        client.on_publish = on_publish

    def _login_problem(self, *, answered: bool) -> str:
        where = f"broker {self._settings.address}"
        if not answered:
            return f"{where} accepts connections but does not answer in MQTT; check mqtt.port and mqtt.tls"
        if self._refusal is None:
            return f"{where} closes the connection before logging in; check mqtt.port and mqtt.tls"
        if self._refusal.value in _REFUSES_LOGIN:
            return f"{where} refuses the login ({self._refusal}); check mqtt.username and mqtt.password_file"
        return f"{where} refuses the connection: {self._refusal}"


def _prepared_client(settings: BrokerSettings, client_id: str, will: tuple[str, bytes] | None) -> Client:
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=MQTTProtocolVersion.MQTTv5,
        reconnect_on_failure=False,
    )
    if settings.username is not None:
        client.username_pw_set(settings.username, _password(settings.password_file))
    if settings.tls is not None:
        _use_tls(client, settings.tls)
    if will is not None:
        client.will_set(will[0], will[1], qos=1, retain=True)
    return client


def _password(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"mqtt.password_file: {path}: {_words(error)}") from error


def _use_tls(client: Client, tls: Tls) -> None:
    files = {"ca_file": tls.ca_file, "cert_file": tls.cert_file, "key_file": tls.key_file}
    for name, path in files.items():
        if path is not None and not path.is_file():
            raise ConfigError(f"mqtt.tls.{name}: {path}: no such file")
    paths = [str(path) if path else None for path in files.values()]
    try:
        client.tls_set(ca_certs=paths[0], certfile=paths[1], keyfile=paths[2])
    except ssl.SSLError as error:
        raise ConfigError(f"mqtt.tls: not usable as PEM certificate and key: {error.reason or error}") from error
    except OSError as error:
        raise ConfigError(f"mqtt.tls: {_words(error)}") from error


def _shut(client: Client) -> None:
    """Cut the connection; paho's own thread notices and ends."""
    sock = client.socket()
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _receipt(reason: ReasonCode) -> Receipt:
    if reason.value >= _FAILURE:
        return Receipt(Outcome.REFUSED, f"the broker refuses it: {reason}")
    if reason.value == _NO_SUBSCRIBER:
        return Receipt(Outcome.NO_SUBSCRIBER, "nobody subscribes to this topic")
    return Receipt(Outcome.SENT)


def _connect_problem(settings: BrokerSettings, error: Exception) -> str:
    where = f"broker {settings.address}"
    match error:
        case ConfigError():
            return str(error)
        case ssl.SSLCertVerificationError():
            return f"{where}: its certificate is not trusted ({error.verify_message}); check mqtt.tls.ca_file"
        case ssl.SSLError():
            return f"{where}: TLS fails ({error.reason or error}); check mqtt.port and mqtt.tls"
        case socket.gaierror():
            return f"broker host {settings.host!r} is not known ({_words(error)}); check mqtt.host"
        case TimeoutError():
            return f"{where} does not answer; check mqtt.host, mqtt.port and the network"
        case ConnectionRefusedError():
            return f"{where}: nothing listens there; start the broker or check mqtt.host and mqtt.port"
        case _:
            return f"{where} cannot be reached: {_words(error)}; check mqtt.host and mqtt.port"


def _end_problem(settings: BrokerSettings, told: ReasonCode | None) -> str:
    if told is None:
        return f"the connection to broker {settings.address} broke"
    if told.value == _TAKEN_OVER:
        return f"broker {settings.address}: another client uses this kiosk's id; give each kiosk its own device.id"
    return f"broker {settings.address} ended the connection: {told}"


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
