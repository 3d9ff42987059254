"""Write the JSON Schemas and the AsyncAPI document from the models in kiosk.events; ``--check`` only compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from kiosk import __version__
from kiosk.events import (
    ATTENDANCE,
    HEALTH,
    REJECTED,
    REPLAY,
    AttendanceEvent,
    Health,
    Info,
    ManualEntry,
    RejectedEvent,
    ReplayCommand,
    TimeCorrection,
    Void,
)

DOCS = Path(__file__).resolve().parent
_MODELS: dict[str, type[BaseModel]] = {
    "attendance": AttendanceEvent,
    "time_correction": TimeCorrection,
    "manual_entry": ManualEntry,
    "void": Void,
    "rejected": RejectedEvent,
    "info": Info,
    "health": Health,
    "replay": ReplayCommand,
}
_ALSO_THERE = {"attendance": ("time_correction", "manual_entry", "void")}
"""Other documents on a channel; ``event_type`` tells them apart."""
_ADDRESS = "{root}/{site}/{device}"


def documents() -> dict[Path, str]:
    """Every generated file with its text."""
    generated = {DOCS / "schemas" / f"{name}.schema.json": _schema_text(name) for name in _MODELS}
    generated[DOCS / "asyncapi.yaml"] = _asyncapi_text()
    return generated


def stale() -> list[Path]:
    """Generated files that do not say what the code says."""
    return [path for path, text in documents().items() if not path.exists() or path.read_text(encoding="utf-8") != text]


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        for path in stale():
            print(f"{path.relative_to(DOCS.parent)} is out of date: run python docs/generate_schemas.py")
        return 1 if stale() else 0
    for path, text in documents().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


def _schema_text(name: str) -> str:
    schema = _MODELS[name].model_json_schema(mode="validation")
    # Every field is always sent, also those the code has a default for.
    _require_all(schema, optional={"name", "previous", "signature"})
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(dialect | schema, indent=2, ensure_ascii=False) + "\n"


def _require_all(schema: dict[str, Any], *, optional: set[str]) -> None:
    for part in [schema, *schema.get("$defs", {}).values()]:
        if "properties" in part:
            part["required"] = [name for name in part["properties"] if name not in optional]
            for field in part["properties"].values():
                field.pop("default", None)


def _asyncapi_text() -> str:
    channels = {
        "status": (f"{_ADDRESS}/status", "Retained, QoS 1; the last will says offline.", ["online", "offline"]),
        "info": (f"{_ADDRESS}/info", "Birth document; retained, QoS 1.", None),
        "attendance": (
            f"{_ADDRESS}/{ATTENDANCE}",
            "Check-ins, and corrections by the kiosk or by hand; QoS 1, at least once, in order, never retained.",
            None,
        ),
        "rejected": (
            f"{_ADDRESS}/{REJECTED}",
            "Faces and codes that led to no check-in; only with mqtt.rejected_events.",
            None,
        ),
        "health": (f"{_ADDRESS}/{HEALTH}", "How the kiosk is; every minute and with each problem; QoS 1.", None),
        "replay": (
            f"{_ADDRESS}/{REPLAY}",
            "Asks for events again, then replayed: true. Ignored when retained, expired, known, none kept, too many.",
            None,
        ),
    }
    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Attendance kiosk",
            "version": __version__,
            "description": "What a kiosk publishes over MQTT 5. De-duplicate on event_id, prove completeness with seq.",
        },
        "defaultContentType": "application/json",
        "channels": {name: _channel(name, *about) for name, about in channels.items()},
        "operations": {
            f"{action}_{name}": {"action": action, "channel": {"$ref": f"#/channels/{name}"}}
            for name in channels
            for action in ["receive" if name == "replay" else "send"]
        },
    }
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
    return text


def _channel(name: str, address: str, description: str, texts: list[str] | None) -> dict[str, Any]:
    if texts:
        messages: dict[str, Any] = {name: _message("text/plain", {"type": "string", "enum": texts})}
    else:
        documents = [name, *_ALSO_THERE.get(name, ())]
        references = {document: {"$ref": f"./schemas/{document}.schema.json"} for document in documents}
        messages = {document: _message("application/json", payload) for document, payload in references.items()}
    return {
        "address": address,
        "description": description,
        "parameters": {
            "root": {"description": "mqtt.topic_root", "default": "kiosk/v1"},
            "site": {"description": "device.site"},
            "device": {"description": "device.id"},
        },
        "messages": messages,
    }


def _message(content_type: str, payload: dict[str, Any]) -> dict[str, Any]:
    return {"contentType": content_type, "payload": payload}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
