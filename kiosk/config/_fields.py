"""What every field wants, in words: for error messages, the reference page and environment variable names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from kiosk.config._models import Config

ENVIRONMENT_PREFIX = "KIOSK_"
_SEPARATOR = "__"

FieldPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FieldGuide:
    """One field: where it stands, what it takes (``wanted``, in words), what it means.

    ``default`` is a JSON value. ``plain_text``: it takes text and nothing that looks like a number. ``entry``: the
    fields that each entry of a list has, by name; no variable sets one of them.
    """

    path: FieldPath
    wanted: str
    default: object
    description: str
    plain_text: bool
    nullable: bool
    is_section: bool = False
    entry: Mapping[str, FieldGuide] = field(default_factory=dict)

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return ENVIRONMENT_PREFIX + _SEPARATOR.join(self.path).upper()


def path_of_variable(name: str) -> FieldPath:
    """The field an environment variable means, whether it exists or not."""
    return tuple(name.removeprefix(ENVIRONMENT_PREFIX).lower().split(_SEPARATOR))


@cache
def field_guides() -> Mapping[FieldPath, FieldGuide]:
    """Every field below a section, in the order of the file."""
    schema = Config.model_json_schema()
    return {guide.path: guide for guide in _walk(schema, schema["$defs"], ())}


@cache
def section_guides() -> Mapping[str, str]:
    """Every section with what it is about."""
    schema = Config.model_json_schema()
    return {
        name: _resolve(_choices(section)[0], schema["$defs"])["description"]
        for name, section in schema["properties"].items()
    }


def _walk(section: dict[str, Any], definitions: dict[str, Any], path: FieldPath) -> Iterator[FieldGuide]:
    for name, schema in section["properties"].items():
        choices = [_resolve(choice, definitions) for choice in _choices(schema)]
        nested = [choice for choice in choices if "properties" in choice]
        if path:
            entry = _resolve(schema.get("items", {}), definitions)
            guides = {guide.path[-1]: guide for guide in _walk(entry, definitions, (*path, name))} if entry else {}
            yield _guide((*path, name), schema, choices, is_section=bool(nested), entry=guides)
        for choice in nested:
            yield from _walk(choice, definitions, (*path, name))


def _guide(
    path: FieldPath,
    schema: dict[str, Any],
    choices: list[dict[str, Any]],
    *,
    is_section: bool,
    entry: Mapping[str, FieldGuide],
) -> FieldGuide:
    kinds = {choice.get("type") for choice in choices} - {"null"}
    return FieldGuide(
        path=path,
        wanted=" or ".join(_words(choice) for choice in choices),
        default=schema.get("default"),
        description=schema["description"],
        plain_text=kinds == {"string"},
        nullable=any(choice.get("type") == "null" for choice in choices),
        is_section=is_section,
        entry=entry,
    )


def _choices(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The schemas one of which a value must meet (older pydantic wraps a single one in allOf)."""
    choices: list[dict[str, Any]] = schema.get("anyOf") or schema.get("allOf") or [schema]
    return choices


def _resolve(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    resolved: dict[str, Any] = definitions[reference.rpartition("/")[2]] if reference else schema
    return resolved


def _words(schema: dict[str, Any]) -> str:
    """A JSON Schema in words, as it follows on "must be"."""
    if "wanted" in schema:
        return str(schema["wanted"])
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"])
    if "properties" in schema:
        return "a section"
    return _TYPES[schema["type"], schema.get("format")] + _bounds(schema)


_TYPES = {
    ("integer", None): "a whole number",
    ("number", None): "a number",
    ("boolean", None): "true or false",
    ("string", None): "text",
    ("string", "path"): "a path",
    ("null", None): "null",
}


def _bounds(schema: dict[str, Any]) -> str:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    if low is None:
        return ""
    above = " above" if "exclusiveMinimum" in schema else ""
    return f"{above or ' from'} {_number(low)} {'up ' if above else ''}to {_number(schema['maximum'])}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.6f}".rstrip("0")
