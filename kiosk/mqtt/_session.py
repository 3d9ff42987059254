"""One MQTT connection, from CONNECT to its end."""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from kiosk.errors import BrokerError, ConfigError
from kiosk.mqtt._problems import connect_problem, end_problem, login_problem, refusal
from kiosk.mqtt._settings import BrokerSettings, prepared_client
from kiosk.ports import Command, Outcome, Receipt

log = logging.getLogger(__name__)

_KEEPALIVE_S = 30
_CLOSE_TIMEOUT_S = 2.0
_NO_SUBSCRIBER = 0x10
_FAILURE = 0x80
_MAX_IN_FLIGHT = 20
_NO_FAULT_OF_A_MESSAGE = frozenset({0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x96, 0x97, 0x98, 0x9C, 0x9D})
"""Reasons to end a connection that no single message is to blame for: not authorized, busy, shutting down, quota, …"""
_PACKET_OVERHEAD = 16
"""Bytes of a PUBLISH packet beyond topic and payload: fixed header, two lengths, packet id, empty properties."""


class Session:
    """Used once: :meth:`open`, publish, :meth:`close`. ``ending`` says why it ended, once ``closed`` is set."""

    def __init__(self, settings: BrokerSettings, client_id: str, *, will: tuple[str, bytes] | None = None) -> None:
        self._settings = settings
        self._client_id = client_id
        self._will = will
        self._client: Client | None = None
        self._settled = threading.Event()
        self._refusal: ReasonCode | None = None
        self._results: queue.SimpleQueue[tuple[int, ReasonCode] | None] = queue.SimpleQueue()
        self._one_at_a_time = threading.Lock()
        self._closing = threading.Lock()
        self._max_packet: int | None = None
        self._receive_maximum = _MAX_IN_FLIGHT
        # Each is counted by one thread only. A lock would be taken within paho's own, and around it: a deadlock.
        self._births = 0
        self._answers = 0
        self._innocent = False
        self._subscriptions: dict[int, str] = {}
        """By the number of the request: what was asked for."""
        self.closed = threading.Event()
        self.ending = ""

    def open(self, timeout_s: float) -> None:
        """Connect and wait for the broker's answer.

        Raises:
            BrokerError: no connection, or the broker refuses us; one line that says why and what to look at.
        """
        try:
            client = self._client = prepared_client(self._settings, self._client_id, self._will)
            self._attach(client)
            client.connect_timeout = timeout_s
            # No MaximumPacketSize: mosquitto 2.0 leaves what is larger in flight for ever, and 20 such messages would
            # keep every later command from us. Commands are measured when they have come.
            client.connect(self._settings.host, self._settings.port, keepalive=_KEEPALIVE_S)
        except BrokerError:
            self._client = None
            raise
        except (OSError, ValueError, ConfigError) as error:
            self._client = None
            raise BrokerError(connect_problem(self._settings, error)) from error
        client.loop_start()
        answered = self._settled.wait(timeout_s)
        if not answered or self.closed.is_set() or self._refusal is not None:
            problem = login_problem(self._settings, self._refusal, answered=answered)
            self.close()
            raise BrokerError(problem)

    def send(self, topic: str, payload: bytes) -> None:
        """Publish a retained document without waiting for the PUBACK. From one thread at a time."""
        if not self._fits((topic, payload)):
            log.warning("%s is not published: larger than the %s bytes the broker takes", topic, self._max_packet)
        elif self._client is not None:
            self._births += 1
            self._client.publish(topic, payload, qos=1, retain=True)

    def listen(self, topic: str, hear: Callable[[Command], None], *, retained: bool = False) -> None:
        """Have ``hear`` called, on the network thread, for every message to a topic that comes from now on.

        ``retained``: also for those that the broker keeps for others; of commands they are ignored.
        """
        client = self._client
        if client is None:
            return

        told: set[str] = set()

        def on_message(_c: Client, _u: object, message: MQTTMessage) -> None:
            if message.retain and not retained:
                # Once a connection: whoever floods us shall not fill the log.
                if topic not in told:
                    log.warning("%s: retained commands are ignored", topic)
                told.add(topic)
                return
            life_s = getattr(message.properties, "MessageExpiryInterval", None)
            hear(Command(bytes(message.payload), None if life_s is None else time.monotonic() + life_s))

        def on_subscribe(_c: Client, _u: object, mid: int, reasons: list[ReasonCode], _p: Properties | None) -> None:
            if any(reason.value >= _FAILURE for reason in reasons):
                heard = self._subscriptions.get(mid, topic)
                log.warning("the broker does not let this kiosk listen to %s: %s", heard, reasons[0])

        client.message_callback_add(topic, on_message)
        client.on_subscribe = on_subscribe
        options = SubscribeOptions(qos=1, retainAsPublished=True, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        _, mid = client.subscribe(topic, options=options)
        if mid is not None:
            self._subscriptions[mid] = topic

    def publish(
        self, messages: Sequence[tuple[str, bytes]], *, retain: bool = False, timeout_s: float
    ) -> list[Receipt]:
        """Publish (full topic, payload) in order and wait for the answers; a receipt for each that was tried."""
        # paho does not care what the broker takes at once.
        fitting = list(takewhile(self._fits, messages[: self._room_in_flight()]))
        if not fitting:
            return [Receipt(Outcome.TOO_LARGE, f"larger than the {self._max_packet} bytes the broker takes")]
        if not self._one_at_a_time.acquire(timeout=timeout_s):
            return [Receipt(Outcome.LOST, "another message is waiting for its answer")]
        try:
            return self._publish(fitting, retain=retain, timeout_s=timeout_s)
        finally:
            self._one_at_a_time.release()

    def close(self, *, politely: bool = True) -> None:
        """Disconnect and end the network thread; the second call does nothing. Impolitely: the will is published."""
        with self._closing:
            client, self._client = self._client, None
        if client is None:
            return
        if politely:
            client.disconnect()
        if not politely or not self.closed.wait(_CLOSE_TIMEOUT_S):
            _shut(client)
        client.loop_stop()

    @property
    def _unanswered_births(self) -> int:
        """They were sent first, and are answered first."""
        return max(0, self._births - self._answers)

    def _room_in_flight(self) -> int:
        return max(1, min(_MAX_IN_FLIGHT, self._receive_maximum) - self._unanswered_births)

    def _fits(self, message: tuple[str, bytes]) -> bool:
        topic, payload = message
        return self._max_packet is None or len(payload) + len(topic.encode()) + _PACKET_OVERHEAD <= self._max_packet

    def _publish(self, messages: Sequence[tuple[str, bytes]], *, retain: bool, timeout_s: float) -> list[Receipt]:
        self._forget_results()
        client = self._client
        if client is None or self.closed.is_set():
            return [Receipt(Outcome.LOST, "not connected")]
        mids: list[int] = []
        for topic, payload in messages:
            info = client.publish(topic, payload, qos=1, retain=retain)
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                break
            mids.append(info.mid)
        if not mids:
            return [Receipt(Outcome.LOST, "not connected")]
        return self._await_pubacks(mids, timeout_s)

    def _await_pubacks(self, mids: Sequence[int], timeout_s: float) -> list[Receipt]:
        deadline = time.monotonic() + timeout_s
        answers: dict[int, Receipt] = {}
        while any(mid not in answers for mid in mids):
            try:
                result = self._results.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                # The connection is useless, or worse, would deliver these messages late.
                if self._client is not None:
                    _shut(self._client)
                return _up_to_gap(mids, answers, Receipt(Outcome.LOST, f"no answer from the broker in {timeout_s:g} s"))
            if result is None:
                return _up_to_gap(mids, answers, Receipt(self._outcome_of_break(), self._break_detail()))
            answers[result[0]] = _receipt(result[1])
        return [answers[mid] for mid in mids]

    def _outcome_of_break(self) -> Outcome:
        """A message is suspect only when everything before it was answered, and the broker did not say otherwise."""
        suspect = self._answers and not self._unanswered_births and not self._innocent
        return Outcome.BROKE if suspect else Outcome.LOST

    def _break_detail(self) -> str:
        return f"{self.ending} before the broker had answered"

    def _forget_results(self) -> None:
        """Drop answers nobody waited for (births, earlier time-outs), so that none is taken for a new message's."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._results.get_nowait()

    def _attach(self, client: Client) -> None:
        def on_connect(
            _c: Client, _u: object, _f: ConnectFlags, reason: ReasonCode, properties: Properties | None
        ) -> None:
            self._refusal = reason if reason.value >= _FAILURE else None
            self._max_packet = getattr(properties, "MaximumPacketSize", None)
            self._receive_maximum = getattr(properties, "ReceiveMaximum", _MAX_IN_FLIGHT)
            self._settled.set()

        def on_disconnect(
            _c: Client, _u: object, flags: DisconnectFlags, reason: ReasonCode, _p: Properties | None
        ) -> None:
            told = reason if flags.is_disconnect_packet_from_server else None
            self.ending = end_problem(self._settings, told)
            self._innocent = told is not None and told.value in _NO_FAULT_OF_A_MESSAGE
            self.closed.set()
            self._settled.set()
            self._results.put(None)

        def on_publish(_c: Client, _u: object, mid: int, reason: ReasonCode, _p: Properties) -> None:
            if reason.value >= _FAILURE:
                log.debug("the broker refuses message %s: %s", mid, reason)
            self._answers += 1
            self._results.put((mid, reason))

        client.on_connect = on_connect
        client.on_disconnect = on_disconnect
        client.on_publish = on_publish


def _shut(client: Client) -> None:
    """Cut the connection; paho's own thread notices and ends.

    What the system has not sent yet is thrown away: after a network failure it would arrive minutes late, and say that
    it is fresh.
    """
    sock = client.socket()
    if isinstance(sock, socket.socket):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.shutdown(socket.SHUT_RDWR)


def _up_to_gap(mids: Sequence[int], answers: Mapping[int, Receipt], gap: Receipt) -> list[Receipt]:
    """What was answered stays answered, also behind the first gap."""
    receipts = [answers.get(mid, gap) for mid in mids]
    # Only the first can have broken the connection.
    first = receipts.index(gap)
    lost = Receipt(Outcome.LOST, gap.detail)
    return receipts[: first + 1] + [lost if receipt is gap else receipt for receipt in receipts[first + 1 :]]


def _receipt(reason: ReasonCode) -> Receipt:
    if reason.value >= _FAILURE:
        return Receipt(Outcome.REFUSED, refusal(reason))
    if reason.value == _NO_SUBSCRIBER:
        return Receipt(Outcome.NO_SUBSCRIBER, "nobody subscribes to this topic")
    return Receipt(Outcome.SENT)
