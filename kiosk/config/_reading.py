"""A YAML file as plain values with their lines, read so that no file can hang, exhaust or mislead the kiosk.

Of YAML only what a configuration needs: mappings, lists, plain and quoted scalars. Plain scalars follow YAML 1.2's core
schema, so ``no`` is a word, ``0123`` is no octal and ``22:30`` no number of seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

_MAX_BYTES = 64 * 1024
_MAX_DEPTH = 8
_MAX_DIGITS = 15
_SHOWN_KEY_CHARS = 40

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(rf"[-+]?(0|[1-9][0-9]{{0,{_MAX_DIGITS - 1}}})")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,32}|[0-9]{1,32}(\.[0-9]{0,32})?)([eE][-+]?[0-9]{1,3})?")
_NO_NUMBER = re.compile(r"[-+]?0[0-9].*")

Path = tuple[str, ...]
Tree = dict[str, object]


class YamlProblem(Exception):
    """The file cannot be read as a configuration at all. ``line`` counts from 1; None: the file as a whole."""

    def __init__(self, line: int | None, problem: str) -> None:
        super().__init__(problem)
        self.line = line


@dataclass(slots=True)
class Place:
    """Where a key stands: its line, from 1, and the columns where it begins and ends, from 0.

    ``value_end``: line and column where its value ends; None where that is no single value.
    """

    line: int
    column: int
    key_end: int
    value_end: tuple[int, int] | None = None


@dataclass(slots=True)
class Document:
    """A file's content, the line of every key and list entry, where the keys stand, and those that stand there twice.

    In a path an entry's place in its list stands as text, from 0.
    """

    tree: Tree = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)
    places: dict[Path, Place] = field(default_factory=dict)
    repeated: list[tuple[Path, int]] = field(default_factory=list)


def parse_document(data: bytes) -> Document:
    """Parse a configuration file.

    Raises:
        YamlProblem: it is too big, no text, no YAML, or more YAML than a configuration needs.
    """
    text = _decode(data)
    document = Document()
    try:
        _Builder(document).run(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlProblem(mark.line + 1 if mark else None, _explain(error, text)) from None
    except yaml.YAMLError:
        raise YamlProblem(None, "no valid YAML") from None
    return document


def parse_list(text: str) -> list[object]:
    """A list as a variable holds it: ``[{a: 1}, {a: 2}]``.

    Raises:
        YamlProblem: it is none.
    """
    found = parse_document(f"list: {text}".encode()).tree
    value = found.get("list")
    if len(found) != 1 or not isinstance(value, list):
        raise YamlProblem(None, "not a list")
    return value


def parse_scalar(text: str) -> object:
    """A plain scalar's value: null, a bool, a number, or the text itself."""
    if text in _NULL:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and not _NO_NUMBER.fullmatch(text.partition(".")[0]):
        return float(text)
    return text


def shown(key: str) -> str:
    """A key as a message may show it: one line, not too long."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in key)
    return clean if len(clean) <= _SHOWN_KEY_CHARS else clean[:_SHOWN_KEY_CHARS] + "…"


def _decode(data: bytes) -> str:
    if len(data) > _MAX_BYTES:
        raise YamlProblem(None, f"larger than {_MAX_BYTES // 1024} KiB; is this the configuration?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlProblem(line, "not valid UTF-8; save the file as UTF-8") from None
    for number, line_text in enumerate(text.split("\n"), start=1):
        if any(not c.isprintable() and c not in "\t\r" for c in line_text):
            raise YamlProblem(number, "holds a control character; is this a text file?")
    return text


def _explain(error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark
    if mark is not None:
        lines = text.splitlines()
        line = lines[mark.line] if mark.line < len(lines) else ""
        if "\t" in line[: len(line) - len(line.lstrip())]:
            return "a tab indents this line; use spaces"
    return f"no valid YAML: {error.problem or error.context or 'cannot be understood'}"


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


class _Builder:
    """Builds values from parser events with a stack of its own: depth is a limit here, not Python's recursion."""

    def __init__(self, document: Document) -> None:
        self._document = document

    def run(self, events: Iterator[yaml.Event]) -> None:
        stack: list[_Open] = []
        for event in events:
            self._refuse(event, depth=len(stack))
            match event:
                case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                    stack.append(self._open(event, stack))
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    stack.pop()
                case yaml.ScalarEvent():
                    self._scalar(event, stack)

    def _refuse(self, event: yaml.Event, *, depth: int) -> None:
        line = _line(event)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise YamlProblem(line, "anchors and aliases (& and *) are not supported; quote a value that begins so")
        if getattr(event, "tag", None) is not None:
            raise YamlProblem(line, "tags (!) are not supported; quote a value that begins so")
        if depth > _MAX_DEPTH:
            raise YamlProblem(line, f"nested deeper than {_MAX_DEPTH} levels")
        if isinstance(event, yaml.DocumentStartEvent) and event.explicit and self._document.lines:
            raise YamlProblem(line, "a second document (---) begins here; one file is one configuration")

    def _open(self, event: yaml.Event, stack: list[_Open]) -> _Open:
        line = _line(event)
        if isinstance(event, yaml.MappingStartEvent):
            if not stack:
                return _Open(self._document.tree, ())
            mapping: Tree = {}
            return _Open(mapping, self._put(stack[-1], mapping, line))
        if not stack:
            raise YamlProblem(line, 'must be sections of "key: value" lines, not a list')
        entries: list[object] = []
        return _Open(entries, self._put(stack[-1], entries, line))

    def _scalar(self, event: yaml.ScalarEvent, stack: list[_Open]) -> None:
        line = _line(event)
        plain = event.style is None
        if not stack:
            if plain and event.value in _NULL:
                return
            raise YamlProblem(line, 'must be sections of "key: value" lines, not a single value')
        top = stack[-1]
        if top.key is None and isinstance(top.content, dict):
            self._take_key(top, event, line)
        else:
            path = self._put(top, parse_scalar(event.value) if plain else event.value, line)
            if path in self._document.places and event.end_mark is not None:
                self._document.places[path].value_end = event.end_mark.line + 1, event.end_mark.column

    def _take_key(self, top: _Open, event: yaml.ScalarEvent, line: int) -> None:
        key = event.value
        path = (*top.path, key)
        if path in self._document.lines:
            self._document.repeated.append((path, line))
        else:
            self._document.lines[path] = line
            if event.start_mark is not None and event.end_mark is not None:
                self._document.places[path] = Place(line, event.start_mark.column, event.end_mark.column)
        top.key = key

    def _put(self, top: _Open, value: object, line: int) -> Path:
        """Store a value under the key that waits for it, or behind the list's last entry."""
        if isinstance(top.content, list):
            path = (*top.path, str(len(top.content)))
            self._document.lines[path] = line
            top.content.append(value)
            return path
        if top.key is None:
            raise YamlProblem(line, "a key must be a single word")
        path = (*top.path, top.key)
        top.content[top.key] = value
        top.key = None
        return path


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end has not come yet, and the key that waits for its value."""

    content: Tree | list[object]
    path: Path
    key: str | None = None
