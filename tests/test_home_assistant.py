"""What Home Assistant is told, held against what it documents, against the kiosk's own messages, and against itself."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from broker import Message, Mosquitto, Subscriber, wait_for
from command_line import Kiosk
from jinja2.sandbox import ImmutableSandboxedEnvironment
from test_events import example

from kiosk.biometrics import Box
from kiosk.clip import Person, Scene, Walk, write_clip
from kiosk.events import EventType, Topics, encode, utc_text
from kiosk.health import trial_health
from kiosk.home_assistant import discovery_document
from kiosk.opencv import cv2

TOPICS = Topics("kiosk/v1", "hq", "door-1")
CONFIG = "homeassistant/device/kiosk_door-1/config"
HEALTH = TOPICS.below("health")
PAGE = Path(__file__).parent.parent / "docs" / "home-assistant.md"
CORRECTIONS = ["time_correction", "manual_entry", "void"]

# From home-assistant.io: the MQTT integration (device discovery, its shared options), its sensors, binary sensors and
# events, and the classes and units of sensors. Only what a kiosk has use for.
_TEXT = {"type": "string", "minLength": 1}
_TOPIC = {"type": "string", "pattern": "^[^+#]+$"}
_COMMON = {
    "unique_id": _TEXT,
    "name": _TEXT,
    "icon": {"type": "string", "pattern": "^mdi:[a-z0-9-]+$"},
    "qos": {"enum": [0, 1, 2]},
    "state_topic": _TOPIC,
    "value_template": _TEXT,
    "entity_category": {"enum": ["config", "diagnostic"]},
    "availability_topic": _TOPIC,
    "payload_available": _TEXT,
    "payload_not_available": _TEXT,
    "json_attributes_topic": _TOPIC,
    "json_attributes_template": _TEXT,
}
_EXPIRE = {"expire_after": {"type": "integer", "minimum": 1}}


def _entity(platform: str, required: list[str], **fields: object) -> dict[str, Any]:
    return {
        "properties": {"p": {"const": platform}, **_COMMON, **fields},
        "required": ["p", "unique_id", "state_topic", *required],
        "additionalProperties": False,
    }


_SENSOR = _entity(
    "sensor",
    [],
    **_EXPIRE,
    device_class={"enum": ["temperature", "timestamp", "duration"]},
    state_class={"enum": ["measurement", "total", "total_increasing"]},
    unit_of_measurement=_TEXT,
    suggested_display_precision={"type": "integer", "minimum": 0},
) | {
    "allOf": [
        {
            "if": {"properties": {"device_class": {"const": "temperature"}}, "required": ["device_class"]},
            "then": {"properties": {"unit_of_measurement": {"enum": ["°C", "°F", "K"]}}},
        },
        {
            "if": {"properties": {"device_class": {"const": "timestamp"}}, "required": ["device_class"]},
            "then": {"not": {"anyOf": [{"required": ["unit_of_measurement"]}, {"required": ["state_class"]}]}},
        },
    ]
}
_BINARY_SENSOR = _entity(
    "binary_sensor",
    [],
    **_EXPIRE,
    device_class={"enum": ["problem", "connectivity"]},
    payload_on=_TEXT,
    payload_off=_TEXT,
)
_EVENT = _entity("event", ["event_types"], event_types={"type": "array", "items": _TEXT, "minItems": 1})
SCHEMA = {
    "type": "object",
    "properties": {
        "dev": {
            "properties": {
                "ids": {"type": "array", "items": _TEXT, "minItems": 1},
                **dict.fromkeys(("name", "mf", "mdl", "sw", "hw"), _TEXT),
            },
            "required": ["ids"],
            "additionalProperties": False,
        },
        "o": {
            "properties": dict.fromkeys(("name", "sw"), _TEXT),
            "required": ["name"],
            "additionalProperties": False,
        },
        "cmps": {
            "propertyNames": {"pattern": "^[a-zA-Z0-9_-]+$"},
            "additionalProperties": {"oneOf": [_SENSOR, _BINARY_SENSOR, _EVENT]},
        },
    },
    "required": ["dev", "o", "cmps"],
    "additionalProperties": False,
}


def render(template: str, payload: bytes, **more: object) -> str:
    """As Home Assistant does: the text as ``value``, what it says as ``value_json``."""
    text = payload.decode()
    environment = ImmutableSandboxedEnvironment(autoescape=False)
    return environment.from_string(template).render(value=text, value_json=json.loads(text), **more).strip()


def entities(**about: str) -> dict[str, dict[str, Any]]:
    document: dict[str, dict[str, Any]] = discovery_document(TOPICS, version="1.2.3", **about)["cmps"]
    return document


def automation() -> dict[str, Any]:
    """The page's example."""
    (text,) = re.findall(r"```yaml\n(alias:.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    document: dict[str, Any] = yaml.safe_load(text)
    return document


@pytest.mark.parametrize("about", [{}, {"board": "Raspberry Pi 5 Model B Rev 1.0"}])
def test_the_document_is_one_that_home_assistant_takes(about: dict[str, str]) -> None:
    document = discovery_document(TOPICS, version="1.2.3", **about)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(document, SCHEMA)
    assert document["dev"]["ids"] == ["kiosk_hq_door-1"]
    assert document["dev"].get("hw") == about.get("board")
    ids = [entity["unique_id"] for entity in document["cmps"].values()]
    assert len(set(ids)) == len(ids)
    # By what earlier versions gave it, its history goes on.
    assert document["cmps"]["attendance"]["unique_id"] == "kiosk_hq_door-1_attendance"


def test_every_entity_becomes_unavailable_but_for_the_one_that_says_so() -> None:
    for name, entity in entities().items():
        assert entity.get("availability_topic") == (None if name == "connected" else TOPICS.status), name
        # What is not retained is not there for ever.
        assert ("expire_after" in entity) == (entity["state_topic"] == HEALTH), name


@pytest.mark.parametrize("kind", [*EventType, *CORRECTIONS])
def test_corrections_do_not_look_like_check_ins(kind: str) -> None:
    payload = encode(example().payload() | {"event_type": kind})
    shown = [name for name in ("attendance", "corrections") if render(entities()[name]["value_template"], payload)]
    (name,) = shown
    assert name == ("corrections" if kind in CORRECTIONS else "attendance")
    assert kind in entities()[name]["event_types"]
    assert render(entities()[name]["value_template"], payload) == payload.decode()


def test_a_trial_of_kiosk_check_changes_nothing() -> None:
    trial = trial_health("hq", "door-1", at="2026-03-02T07:58:13.412Z", clock_synchronized=True).encode()
    told = {
        name: render(entity["value_template"], trial)
        for name, entity in entities().items()
        if entity["state_topic"] == HEALTH
    }
    # None: the time is unknown for a minute.
    assert told == dict.fromkeys(("temperature", "outbox", "frame_rate", "problem"), "") | {"last_event": "None"}
    template = entities()["problem"]["json_attributes_template"]
    for before in ({}, {"problems": [{"part": "camera", "what": "gone"}]}):
        told_before = render(template, trial, this={"attributes": before})
        assert json.loads(told_before) == {"problems": before.get("problems", [])}


def test_the_page_lists_every_entity() -> None:
    listed = re.findall(r"^\| `(\w+)\.kiosk_door_1_(\w+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    there = {(entity["p"], entity["name"].lower().replace(" ", "_")) for entity in entities().values()}
    assert sorted(listed) == sorted(there)


@pytest.mark.parametrize(
    ("runs", "changes"),
    [
        (True, {}),
        (False, {"replayed": True}),
        (False, {"clock_synchronized": False}),
        (False, {"event_type": "check_out"}),
        *((False, {"event_type": kind}) for kind in CORRECTIONS),
        (False, {"occurred_at": "2026-03-02T07:57:13.412Z"}),
        (False, {"occurred_at": "2026-03-02T08:57:13.412Z"}),
    ],
)
def test_the_example_acts_on_fresh_check_ins_only(runs: bool, changes: dict[str, object]) -> None:
    example_automation = automation()
    assert example_automation["triggers"] == [{"trigger": "mqtt", "topic": TOPICS.attendance}]
    (condition,) = example_automation["conditions"]
    event = example().payload() | changes
    now = datetime.fromisoformat("2026-03-02T07:58:13.412Z") + timedelta(seconds=2)

    def as_timestamp(value: str | datetime) -> float:
        return (value if isinstance(value, datetime) else datetime.fromisoformat(value)).timestamp()

    told = render(
        condition["value_template"],
        b"{}",
        trigger={"payload_json": event},
        now=lambda: now,
        as_timestamp=as_timestamp,
    )
    assert told == str(runs)


@contextmanager
def _running(kiosk: Kiosk) -> Iterator[None]:
    log = kiosk.folder / "daemon.log"
    process = kiosk.start("run", log=log)
    try:
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def _someone_passes(kiosk: Kiosk, samples: Path, port: int) -> None:
    """A kiosk with one person enrolled, who passes every few seconds, and a broker."""
    clip = kiosk.folder / "clip.avi"
    obama = Person(cv2.imread(str(samples / "obama2.jpg")), Box(115, 181, 181, 181))  # type: ignore[arg-type]
    write_clip(clip, [Scene(1.0, (Walk(obama, x=(0.45, 0.55), face_px=(120, 130)),)), Scene(1.3)])
    kiosk.configure(
        camera={"source": str(clip), "loop": True},
        match={"refractory_s": 3600},
        mqtt={"enabled": True, "host": "127.0.0.1", "port": port},
    )
    assert kiosk("enroll", "obama", samples / "obama.jpg").returncode == 0


def _last(subscriber: Subscriber, topic: str) -> Message:
    return [message for message in subscriber.messages if message.topic == topic][-1]


@pytest.mark.stories
def test_real_messages_give_values(kiosk: Kiosk, samples: Path, tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        _someone_passes(kiosk, samples, broker.port)
        with _running(kiosk):
            event = subscriber.wait_for("event/attendance", 1, 30)[0].json()
            document = _last(subscriber, CONFIG).json()
            jsonschema.validate(document, SCHEMA)
            count = len(subscriber.on("/health"))
            subscriber.publish("homeassistant/status", b"offline")
            subscriber.publish("homeassistant/status", b"online")
            subscriber.wait_for("/config", 2)
            subscriber.wait_for("/health", count + 1)
        told = {
            name: render(entity["value_template"], _last(subscriber, entity["state_topic"]).payload)
            for name, entity in document["cmps"].items()
            if "value_template" in entity
        }
        health = _last(subscriber, HEALTH).json()
        assert told["last_event"] == event["occurred_at"] == health["last_event_at"]
        assert datetime.fromisoformat(told["started"]).tzinfo is UTC
        assert told["outbox"] == "0"
        assert float(told["frame_rate"]) > 0
        assert told["temperature"] == str(health["temperature_c"])
        assert told["problem"] == ("ON" if health["problems"] else "OFF")
        attributes = document["cmps"]["problem"]["json_attributes_template"]
        assert json.loads(render(attributes, encode(health))) == {"problems": health["problems"]}
        assert json.loads(told["attendance"])["event_id"] == event["event_id"]
        assert told["corrections"] == ""
        assert _last(subscriber, TOPICS.status).payload.decode() == document["cmps"]["connected"]["payload_off"]
        kiosk.configure(mqtt={"home_assistant": False})
        with _running(kiosk):
            wait_for(lambda: _last(subscriber, CONFIG).payload == b"", 20, what="the document to go")
        with Subscriber(broker.port) as late:
            late.wait_for("/info")
            assert late.on("/config") == []


class _HomeAssistant:
    """The real one, in its own environment."""

    def __init__(self, python: str, port: int) -> None:
        command = [python, str(Path(__file__).with_name("home_assistant.py")), str(port), json.dumps(automation())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._line() == "ready"
        self.complaints: list[str] = []

    def _line(self) -> str:
        assert self._process.stdout is not None
        line: str = self._process.stdout.readline().strip()
        return line

    def states(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = json.loads(self._line())
        self.complaints += answer["complaints"]
        states: dict[str, Any] = answer["states"]
        return states

    def state(self, entity: str) -> str | None:
        found = self.states().get(entity)
        return None if found is None else str(found["state"])

    def stop(self) -> None:
        # Ends its input.
        self._process.communicate(timeout=30)


def test_home_assistant_itself(kiosk: Kiosk, samples: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    python = request.config.getoption("--home-assistant")
    if python is None:
        pytest.skip("runs with `just home-assistant`")
    with Mosquitto(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        _someone_passes(kiosk, samples, broker.port)
        home = _HomeAssistant(python, broker.port)
        try:
            with _running(kiosk):
                event = subscriber.wait_for("event/attendance", 1, 30)[0].json()
                _meet(home, event, kiosk, subscriber)
            wait_for(lambda: home.state("binary_sensor.kiosk_door_1_connected") == "off")
            assert home.state("sensor.kiosk_door_1_outbox") in {None, "unavailable"}
            kiosk.configure(mqtt={"home_assistant": False})
            with _running(kiosk):
                wait_for(lambda: "event.kiosk_door_1_attendance" not in home.states(), 20, what="the device to go")
            assert [name for name in home.states() if "kiosk" in name] == []
        finally:
            home.stop()
    assert home.complaints == []


def _meet(home: _HomeAssistant, event: dict[str, Any], kiosk: Kiosk, subscriber: Subscriber) -> None:
    def attendance() -> dict[str, Any]:
        found: dict[str, Any] = home.states()["event.kiosk_door_1_attendance"]
        return found

    # It had been waiting for the kiosk, and subscribed to its topics just now: the event may have come before.
    wait_for(lambda: "event.kiosk_door_1_attendance" in home.states(), 20)
    wait_for(lambda: home.state("binary_sensor.kiosk_door_1_connected") == "on")
    wait_for(lambda: home.state("sensor.kiosk_door_1_started") not in {None, "unknown"})
    time.sleep(3)
    fresh = {
        **event,
        "event_id": event["event_id"][:-1] + "f",
        "seq": 2,
        "occurred_at": utc_text(time.time_ns() // 10**6),
    }
    ran = home.states()["automation.light_in_the_hall_when_somebody_has_checked_in"]["attributes"]["last_triggered"]
    for sent in ({**fresh, "replayed": True}, {**fresh, "event_type": "void"}):
        subscriber.publish(TOPICS.attendance, encode(sent))
    wait_for(lambda: home.states()["event.kiosk_door_1_corrections"]["attributes"]["event_type"] == "void")
    wait_for(lambda: attendance()["attributes"]["replayed"] is True)

    def last_run() -> str | None:
        state = home.states()["automation.light_in_the_hall_when_somebody_has_checked_in"]
        triggered: str | None = state["attributes"]["last_triggered"]
        return triggered

    assert last_run() == ran
    fresh["clock_synchronized"] = True
    subscriber.publish(TOPICS.attendance, encode(fresh))
    wait_for(lambda: attendance()["attributes"]["replayed"] is False)
    wait_for(lambda: last_run() != ran, what="the automation to run")
    subscriber.publish("homeassistant/status", b"online")
    wait_for(lambda: home.state("sensor.kiosk_door_1_last_event") not in {None, "unknown", "unavailable"})
    states = home.states()
    assert attendance()["attributes"]["event_type"] == "check_in"
    assert datetime.fromisoformat(states["sensor.kiosk_door_1_last_event"]["state"]) == datetime.fromisoformat(
        event["occurred_at"]
    ).replace(microsecond=0)
    assert states["sensor.kiosk_door_1_events_waiting"]["state"] == "0"
    assert float(states["sensor.kiosk_door_1_frame_rate"]["state"]) > 0
    problem = states["binary_sensor.kiosk_door_1_problem"]
    assert problem["state"] == ("on" if problem["attributes"]["problems"] else "off")
    assert kiosk("check", "--json").returncode == 0
    assert home.states()["binary_sensor.kiosk_door_1_problem"] == problem
