"""What Home Assistant is told, so that it shows a kiosk by itself: its MQTT discovery of devices.

One document, retained. Its entities read what the kiosk publishes anyway; nothing here opens a door.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from kiosk.events import HEALTH, MANUAL_ENTRY, OFFLINE, ONLINE, TIME_CORRECTION, VOID, EventType, Topics

GREETING_TOPIC = "homeassistant/status"
"""Where Home Assistant says ``online`` when it has started, as it does unless told otherwise."""
GREETING = b"online"

_EXPIRE_AFTER_S = 180
"""Two health documents may stay out before a value counts as unknown."""
_CORRECTIONS = (TIME_CORRECTION, MANUAL_ENTRY, VOID)


def discovery_document(topics: Topics, *, version: str, board: str | None = None) -> dict[str, Any]:
    """The device and its entities. ``board``: what the computer calls itself."""
    unique = re.sub(r"[^A-Za-z0-9_-]", "_", f"kiosk_{topics.site}_{topics.device}")
    availability = {
        "availability_topic": topics.status,
        "payload_available": ONLINE.decode(),
        "payload_not_available": OFFLINE.decode(),
    }
    entities = {**_events(topics), **_measures(topics.below(HEALTH)), **_state(topics)}
    return {
        "dev": {
            "ids": [unique],
            "name": f"Kiosk {topics.device}",
            "mf": "attendance-kiosk",
            "mdl": "Attendance kiosk",
            "sw": version,
            **({} if board is None else {"hw": board}),
        },
        "o": {"name": "attendance-kiosk", "sw": version},
        "cmps": {
            # Not once for all: then whether the kiosk is connected could only ever be yes or unknown.
            name: {"unique_id": f"{unique}_{name}", "qos": 1, **({} if name == "connected" else availability), **entity}
            for name, entity in entities.items()
        },
    }


def _events(topics: Topics) -> dict[str, dict[str, Any]]:
    """Whoever passes, and apart from that what is said of it later: no automation takes one for the other."""
    kinds = {
        "attendance": ("Attendance", "mdi:badge-account", [kind.value for kind in EventType]),
        "corrections": ("Corrections", "mdi:clipboard-edit-outline", list(_CORRECTIONS)),
    }
    return {
        name: {
            "p": "event",
            "name": label,
            "icon": icon,
            "state_topic": topics.attendance,
            "event_types": types,
            # What comes to nothing is ignored.
            "value_template": f"{{{{ value if value_json.event_type in {_words(types)} else '' }}}}",
        }
        for name, (label, icon, types) in kinds.items()
    }


def _measures(topic: str) -> dict[str, dict[str, Any]]:
    """From the health document. One without a running time is a trial of ``kiosk check`` in which all is nought."""

    def told(value: str) -> str:
        return f"{{{{ ({value}) if value_json.uptime_s else '' }}}}"

    measure = {"p": "sensor", "state_class": "measurement"}
    sensors: dict[str, dict[str, Any]] = {
        "temperature": {
            **measure,
            "name": "Temperature",
            "device_class": "temperature",
            "unit_of_measurement": "°C",
            "suggested_display_precision": 0,
            "value_template": told("value_json.temperature_c"),
        },
        "outbox": {
            **measure,
            "name": "Events waiting",
            "icon": "mdi:tray-full",
            "unit_of_measurement": "events",
            "value_template": told("value_json.outbox.pending + value_json.outbox.parked"),
        },
        "frame_rate": {
            **measure,
            "name": "Frame rate",
            "icon": "mdi:speedometer",
            "unit_of_measurement": "frames/s",
            "suggested_display_precision": 1,
            "value_template": told("value_json.frames.per_s"),
        },
        "last_event": {
            "p": "sensor",
            "name": "Last event",
            "device_class": "timestamp",
            "value_template": "{{ value_json.last_event_at }}",
        },
        "problem": {
            "p": "binary_sensor",
            "name": "Problem",
            "device_class": "problem",
            "value_template": told("'ON' if value_json.problems else 'OFF'"),
            "json_attributes_topic": topic,
            "json_attributes_template": "{{ {'problems': value_json.problems if value_json.uptime_s "
            "else this.attributes.problems | default([])} | tojson }}",
        },
    }
    common = {"state_topic": topic, "expire_after": _EXPIRE_AFTER_S, "entity_category": "diagnostic"}
    return {name: {**sensor, **common} for name, sensor in sensors.items()}


def _state(topics: Topics) -> dict[str, dict[str, Any]]:
    """From what is retained: there at once, and until it changes."""
    return {
        "connected": {
            "p": "binary_sensor",
            "name": "Connected",
            "device_class": "connectivity",
            "entity_category": "diagnostic",
            "state_topic": topics.status,
            "payload_on": ONLINE.decode(),
            "payload_off": OFFLINE.decode(),
        },
        "started": {
            "p": "sensor",
            "name": "Started",
            "device_class": "timestamp",
            "entity_category": "diagnostic",
            "state_topic": topics.info,
            "value_template": "{{ value_json.started_at }}",
        },
    }


def _words(types: Iterable[str]) -> str:
    return "[" + ", ".join(f"'{kind}'" for kind in types) + "]"
