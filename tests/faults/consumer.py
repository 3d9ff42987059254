"""What a consumer of attendance events has to do: drop repetitions, find gaps, ask for a replay, know what is live.

:class:`Ledger` is the bookkeeping, :class:`Consumer` the MQTT client that feeds it.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from broker import wait_for
from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

TOPIC_ROOT = "kiosk/v1"
STALE_S = 15.0
"""Older than this no event may still call itself live."""
_SESSION_EXPIRY_S = 86_400


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message. Times are seconds since 1970 by this machine's clock, which is the kiosk's, too."""

    device: str
    seq: int
    event_id: str
    event_type: str
    replayed: bool
    occurred_s: float
    arrived_s: float

    @classmethod
    def of(cls, event: dict[str, Any], arrived_s: float) -> Self:
        return cls(
            device=event["device"],
            seq=event["seq"],
            event_id=event["event_id"],
            event_type=event["event_type"],
            replayed=event["replayed"],
            occurred_s=datetime.fromisoformat(event["occurred_at"]).timestamp(),
            arrived_s=arrived_s,
        )

    @property
    def age_s(self) -> float:
        return self.arrived_s - self.occurred_s

    @property
    def stale_as_fresh(self) -> bool:
        """Late, and nothing in the message says so."""
        return not self.replayed and self.age_s > STALE_S

    @property
    def opens_a_door(self) -> bool:
        """The rule for whoever opens doors, on first deliveries: somebody checks in, and does so now."""
        return self.event_type == "check_in" and not self.replayed and self.age_s <= STALE_S


@dataclass(frozen=True, slots=True)
class Summary:
    """What arrived from one device, or from all."""

    arrivals: int
    events: int
    """Different ``event_id``."""
    duplicates: int
    missing: int
    """Numbers up to the highest that never came."""
    filled_by_replay: int
    out_of_order: int
    """First deliveries behind a higher ``seq``, those not counted that were asked for again."""
    conflicts: int
    """One ``seq`` under two ``event_id`` or the other way round."""
    stale_as_fresh: int
    """First deliveries that came late, and nothing in the message said so."""
    stale_repeats: int
    """The same of repetitions: a broker restored from an old file sends once more what it has delivered."""
    doors_opened: int
    repeated_as_fresh: int
    """Repetitions that call themselves live: those of the broker, which sends again what the kiosk sent once."""

    @property
    def duplicate_share(self) -> float:
        """Before de-duplication."""
        return self.duplicates / self.arrivals if self.arrivals else 0.0


class Ledger:
    """Everything that arrived, in order of arrival."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self._asked: dict[str, set[int]] = defaultdict(set)

    def note(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)

    def expect_again(self, device: str, seqs: Iterable[int]) -> None:
        """These were asked for; they may come after higher numbers."""
        self._asked[device].update(seqs)

    def of(self, device: str) -> list[Arrival]:
        return [arrival for arrival in list(self.arrivals) if arrival.device == device]

    def devices(self) -> list[str]:
        return sorted({arrival.device for arrival in list(self.arrivals)})

    def first_deliveries(self, device: str) -> list[Arrival]:
        """Without the repetitions, in order of arrival."""
        first: dict[str, Arrival] = {}
        for arrival in self.of(device):
            first.setdefault(arrival.event_id, arrival)
        return list(first.values())

    def missing(self, device: str, last_seq: int | None = None) -> list[int]:
        """Numbers from 1 to the highest seen (or ``last_seq``) that never came."""
        seen = {arrival.seq for arrival in self.of(device)}
        return sorted(set(range(1, (last_seq or max(seen, default=0)) + 1)) - seen)

    def gaps(self, device: str, last_seq: int | None = None) -> list[tuple[int, int]]:
        """The missing numbers as ranges, both ends included."""
        ranges: list[tuple[int, int]] = []
        for seq in self.missing(device, last_seq):
            if ranges and ranges[-1][1] == seq - 1:
                ranges[-1] = ranges[-1][0], seq
            else:
                ranges.append((seq, seq))
        return ranges

    def summary(self) -> Summary:
        devices = self.devices()
        arrivals = list(self.arrivals)
        first = {device: self.first_deliveries(device) for device in devices}
        events = sum(map(len, first.values()))
        live = [arrival for arrival in arrivals if not arrival.replayed]
        stale = sum(arrival.stale_as_fresh for device in devices for arrival in first[device])
        return Summary(
            arrivals=len(arrivals),
            events=events,
            duplicates=len(arrivals) - events,
            missing=sum(len(self.missing(device)) for device in devices),
            filled_by_replay=sum(arrival.seq in self._asked[d] for d in devices for arrival in first[d]),
            out_of_order=sum(self._out_of_order(device, first[device]) for device in devices),
            conflicts=sum(_conflicts(self.of(device)) for device in devices),
            stale_as_fresh=stale,
            stale_repeats=sum(arrival.stale_as_fresh for arrival in arrivals) - stale,
            doors_opened=sum(arrival.opens_a_door for device in devices for arrival in first[device]),
            repeated_as_fresh=len(live) - len({arrival.event_id for arrival in live}),
        )

    def _out_of_order(self, device: str, first: list[Arrival]) -> int:
        highest, count = 0, 0
        for arrival in first:
            if arrival.seq in self._asked[device]:
                continue
            count += arrival.seq < highest
            highest = max(highest, arrival.seq)
        return count


def _conflicts(arrivals: list[Arrival]) -> int:
    pairs = {(arrival.seq, arrival.event_id) for arrival in arrivals}
    return 2 * len(pairs) - len({seq for seq, _ in pairs}) - len({event_id for _, event_id in pairs})


class Consumer:
    """An MQTT 5 client with a session that outlives its connections; ``ledger`` holds what it received."""

    def __init__(self, port: int, *, client_id: str = "consumer") -> None:
        self.ledger = Ledger()
        self._port = port
        self._client_id = client_id
        self._subscribed = threading.Event()
        self._left = threading.Event()
        self._client = self._make_client()

    def __enter__(self) -> Self:
        self._client.loop_start()
        self.wait_subscribed()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.leave()

    def wait_subscribed(self, timeout_s: float = 10.0) -> None:
        assert self._subscribed.wait(timeout_s), "the consumer got no connection"

    def leave(self) -> None:
        """Disconnect; the broker keeps the session and queues for it."""
        self._left.clear()
        if self._client.disconnect() == MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._left.wait(5)
        self._client.loop_stop()

    def come_back(self) -> None:
        self._client = self._make_client()
        self._client.loop_start()
        self.wait_subscribed()

    def ask_again(self, device: str, from_seq: int, to_seq: int, *, site: str = "hq") -> None:
        """Ask the kiosk to send a range of events again."""
        self.ledger.expect_again(device, range(from_seq, to_seq + 1))
        command = {"from_seq": from_seq, "to_seq": to_seq, "id": str(uuid.uuid4())}
        topic = f"{TOPIC_ROOT}/{site}/{device}/cmd/replay"
        self._client.publish(topic, json.dumps(command), qos=1).wait_for_publish(10)

    def fill_gaps(self, device: str, last_seq: int | None = None, *, timeout_s: float = 30.0) -> int:
        """Ask for everything that is missing and wait for it; how many events were missing."""
        gaps = self.ledger.gaps(device, last_seq)
        for first, last in gaps:
            self.ask_again(device, first, last)
        if gaps:
            wait_for(lambda: not self.ledger.gaps(device, last_seq), timeout_s, what=f"the replay of {gaps}")
        return sum(last - first + 1 for first, last in gaps)

    def _make_client(self) -> Client:
        client = Client(CallbackAPIVersion.VERSION2, client_id=self._client_id, protocol=MQTTProtocolVersion.MQTTv5)
        client.on_connect = self._on_connect
        client.on_subscribe = lambda *_: self._subscribed.set()
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.reconnect_delay_set(1, 1)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = _SESSION_EXPIRY_S
        client.connect_async("127.0.0.1", self._port, clean_start=False, properties=properties)
        return client

    def _on_connect(self, client: Client, _u: object, _f: ConnectFlags, _r: ReasonCode, _p: Properties | None) -> None:
        client.subscribe(f"{TOPIC_ROOT}/+/+/event/attendance", qos=1)

    def _on_disconnect(self, *_: object) -> None:
        self._subscribed.clear()
        self._left.set()

    def _on_message(self, _c: Client, _u: object, message: MQTTMessage) -> None:
        self.ledger.note(Arrival.of(json.loads(message.payload), time.time()))
