import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from test_events import events as attendance_events
from test_events import example

from kiosk.events import AttendanceEvent

DOCS = Path(__file__).resolve().parent.parent / "docs"


def schema(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DOCS / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))
    return document


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_schemas", DOCS / "generate_schemas.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_documents_say_what_the_code_says(generator: ModuleType) -> None:
    assert generator.stale() == []
    assert generator.main(["--check"]) == 0


def test_a_changed_document_is_noticed(generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "DOCS", tmp_path)
    assert generator.main(["--check"]) == 1
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0
    (tmp_path / "asyncapi.yaml").write_text("old", encoding="utf-8")
    assert generator.main(["--check"]) == 1


@pytest.mark.parametrize(
    "name", ["attendance", "time_correction", "manual_entry", "void", "rejected", "info", "health", "replay"]
)
def test_schemas_are_valid_schemas(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name))


@given(attendance_events())
def test_every_event_fits_its_schema(event: AttendanceEvent) -> None:
    jsonschema.validate(json.loads(event.encode()), schema("attendance"))


@pytest.mark.parametrize("field", sorted(set(AttendanceEvent.model_fields) - {"previous", "signature"}))
def test_schema_requires_every_field(field: str) -> None:
    incomplete = example().payload()
    del incomplete[field]
    with pytest.raises(jsonschema.ValidationError, match="required"):
        jsonschema.validate(incomplete, schema("attendance"))


def test_schema_does_not_require_the_name_but_allows_it() -> None:
    event = example().payload()
    jsonschema.validate(event, schema("attendance"))
    event["subject"]["name"] = "Ana"
    jsonschema.validate(event, schema("attendance"))
    event["subject"]["photo"] = "x"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(event, schema("attendance"))


def test_asyncapi_document_refers_to_what_exists() -> None:
    document = yaml.safe_load((DOCS / "asyncapi.yaml").read_text(encoding="utf-8"))
    assert document["asyncapi"] == "3.0.0"
    for name, channel in document["channels"].items():
        assert name in channel["messages"]
        for message in channel["messages"].values():
            if "$ref" in message["payload"]:
                assert (DOCS / message["payload"]["$ref"]).is_file()
        assert {part[1:-1] for part in channel["address"].split("/") if part[0] == "{"} == set(channel["parameters"])
    for operation in document["operations"].values():
        assert operation["channel"]["$ref"].removeprefix("#/channels/") in document["channels"]
