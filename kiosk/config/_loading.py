"""Find the file, read it, lay the environment over it, and tell every problem at once."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from kiosk.config._fields import (
    ENVIRONMENT_PREFIX,
    FieldGuide,
    FieldPath,
    field_guides,
    path_of_variable,
)
from kiosk.config._former import FORMER
from kiosk.config._models import Config, ListError
from kiosk.config._reading import Document, Tree, YamlProblem, parse_document, parse_list, parse_scalar, shown
from kiosk.errors import ConfigError, ConfigPermissionError

log = logging.getLogger(__name__)

T = TypeVar("T")

_LOCAL_FILE = Path("config.yaml")
_SYSTEM_FILE = Path("/etc/kiosk/config.yaml")
# Read elsewhere: the file's path below, the boot's id by kiosk.clock.
_OTHER_VARIABLES = frozenset({"KIOSK_CONFIG", "KIOSK_BOOT_ID"})
# A file of something else would fill the screen.
_MAX_TOLD = 50
_MAX_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a setting comes from: a line of the file, a variable, or neither: its default."""

    line: int | None = None
    variable: str | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration and where it comes from.

    ``path``: the file, None without one. ``origins``: of every field of :func:`field_guides`. ``former``: settings of
    earlier versions that it has, one line each.
    """

    config: Config
    path: Path | None
    document: Document
    origins: Mapping[FieldPath, Origin]
    former: tuple[str, ...]


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The configuration of ``path``, or of the first of $KIOSK_CONFIG, ./config.yaml and /etc/kiosk/config.yaml.

    With none of them the built-in defaults count. Every field can be set by an environment variable as well:
    ``KIOSK_MQTT__PORT`` is ``mqtt.port``.

    Raises:
        ConfigError: with every problem, one a line, each with its file and line or its variable.
        ConfigPermissionError: the file may not be read; nothing else is looked at.
    """
    loading = _Loading(find_file(path, environ))
    config = loading.run(environ)
    for text in loading.told:
        log.warning("%s", text)
    return config


def load_traced(path: Path | None, environ: Mapping[str, str]) -> Loaded:
    """As :func:`load`, with the origin of every setting; of former ones it only tells."""
    loading = _Loading(find_file(path, environ))
    config = loading.run(environ)
    return Loaded(config, loading.path, loading.document, loading.origins(), tuple(loading.told))


def find_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file that :func:`load` reads; None: there is none."""
    if path is not None:
        return path
    if environ.get("KIOSK_CONFIG"):
        return Path(environ["KIOSK_CONFIG"])
    # A name that is there but cannot be followed or read is a problem to tell, not a file to pass over.
    return next((file for file in (_LOCAL_FILE, _SYSTEM_FILE) if _is_there(file)), None)


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        # `sudo -u kiosk kiosk check` is typed at home, which the user kiosk may not enter: no file there is meant.
        return path != _LOCAL_FILE
    except OSError:
        return True
    return True


class _Loading:
    """One run: the values gathered so far, where each came from, and the problems found."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.told: list[str] = []
        self.document = Document()
        self._variables: dict[FieldPath, str] = {}
        self._sections = Config.model_fields
        self._problems: list[tuple[int, str]] = []

    @cached_property
    def _guides(self) -> Mapping[FieldPath, FieldGuide]:
        # Only variables and problems need them: a file without either is read sooner.
        return field_guides()

    def run(self, environ: Mapping[str, str]) -> Config:
        if self.path is not None:
            self._read_file(self.path)
        tree = self.document.tree
        # A section whose lines are all commented out is an empty one.
        for name in self._sections:
            if name in tree and tree[name] is None:
                del tree[name]
        self._rename_former(tree)
        self._overlay(tree, environ)
        config = self._validate(tree)
        if config is None or self._problems:
            lines = [text for _, text in sorted(self._problems, key=lambda problem: problem[0])]
            raise ConfigError("\n".join(dict.fromkeys(lines)))
        return config

    def origins(self) -> dict[FieldPath, Origin]:
        return {
            path: Origin(variable=self._variables[path])
            if path in self._variables
            else Origin(line=self.document.lines.get(path))
            for path in self._guides
        }

    def _rename_former(self, tree: Tree) -> None:
        """Settings of earlier versions, under the names they have now."""
        for path, former in FORMER.items():
            section = _section(tree, path)
            if path[-1] not in section:
                continue
            line, value = self.document.lines[path], section.pop(path[-1])
            if former.now is None:
                self.told.append(f"{self.path}:{line}: {_dotted(path)}: is without effect now ({former.why})")
            elif former.now in self.document.lines:
                self._complain_of_file(
                    line, f"{_dotted(path)}: is {_dotted(former.now)} now, which is set, too; delete this line"
                )
            else:
                _put(tree, former.now, value)
                self.document.lines[former.now] = line
                self.told.append(
                    f"{self.path}:{line}: {_dotted(path)}: is {_dotted(former.now)} now; `kiosk config migrate` "
                    "rewrites the file"
                )

    def _read_file(self, path: Path) -> None:
        try:
            self.document = parse_document(_read(path))
        except YamlProblem as problem:
            self._complain_of_file(problem.line, str(problem))
        repeated = {key for key, _ in self.document.repeated}
        for key, line in self.document.repeated[:_MAX_TOLD]:
            # Of a section that stands there twice it is enough to say that.
            if any(key[:n] in repeated for n in range(1, len(key))):
                continue
            first = self.document.lines[key]
            self._complain_of_file(line, f"{_dotted(key)}: is set twice, first in line {first}; delete one")

    def _overlay(self, tree: Tree, environ: Mapping[str, str]) -> None:
        for name in sorted(environ):
            if not name.startswith(ENVIRONMENT_PREFIX) or name in _OTHER_VARIABLES:
                continue
            path = path_of_variable(name)
            former = FORMER.get(path)
            if former is not None:
                what = f"is without effect now ({former.why})"
                if former.now is not None:
                    path = former.now
                    what = f"is {self._guides[path].variable} now; rename it where it is set"
                self.told.append(f"{name}: {what}")
                if former.now is None or self._guides[path].variable in environ:
                    continue
            guide = self._guides.get(path)
            if guide is None:
                self._complain_of_variable(name, _unknown_variable(name, path, self._guides, self._sections))
                continue
            self._variables[path] = name
            try:
                _put(tree, path, _variable_value(environ[name], guide))
            except YamlProblem:
                self._complain_of_variable(name, f"must be {guide.wanted}, like [{{...}}, {{...}}]")

    def _validate(self, tree: Tree) -> Config | None:
        try:
            return Config.model_validate(tree)
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=True)
            for detail in details[:_MAX_TOLD]:
                self._complain_of_value(detail)
            if len(details) > _MAX_TOLD:
                self._complain_of_file(None, f"and {len(details) - _MAX_TOLD} more problems")
        return None

    def _complain_of_value(self, detail: ErrorDetails) -> None:
        unknown = detail["type"] == "extra_forbidden"
        path = tuple(str(part) for part in detail["loc"]) if unknown else self._field_path(detail["loc"])
        error = detail.get("ctx", {}).get("error")
        if isinstance(error, ListError):
            for place, problem in error.problems:
                self._complain_of_path((*path, str(place)), problem)
        else:
            problem = self._unknown_key(path) if unknown else self._wrong_value(path, detail)
            self._complain_of_path(path, problem, about_several=detail["type"] == "value_error")

    def _complain_of_path(self, path: FieldPath, problem: str, *, about_several: bool = False) -> None:
        source = _nearest(path, self._variables)
        if source is not None:
            entry = self._guides.get(path[:-1]) or self._guides.get(path[:-2])
            which = "" if entry is None or not entry.entry else f"{_dotted(path)}: "
            self._complain_of_variable(source, which + problem)
            return
        # A rule about several fields: those that the message names may come from the environment, one or all.
        named = self._fields_named(path, problem) if about_several else []
        variables = [self._variables[field] for field in named if field in self._variables]
        told = f"{_dotted(path)}: {problem}"
        if variables and path not in self._guides and not any(field in self.document.lines for field in named):
            self._complain_of_variable(variables[0], told)
        elif variables:
            told += f" ({' and '.join(variables)} in the environment)"
            self._complain_of_file(_nearest(path, self.document.lines), told)
        else:
            self._complain_of_file(_nearest(path, self.document.lines), told)

    def _fields_named(self, path: FieldPath, problem: str) -> list[FieldPath]:
        """Fields that a message about ``path`` names: in full, or of its own section by the last part."""
        section = path[:-1] if path in self._guides else path
        words = set(re.findall(r"[a-z_.]+", problem))
        return [
            field for field in self._guides if _dotted(field) in words or (field[:-1] == section and field[-1] in words)
        ]

    def _field_path(self, location: Iterable[int | str]) -> FieldPath:
        """Pydantic's location without the names of the union branches it tried."""
        path: FieldPath = ()
        for part in location:
            longer = (*path, str(part))
            if self._entry(path, part):
                path = longer
                continue
            if longer not in self._guides and longer[0] not in self._sections:
                break
            if len(longer) > 1 and longer not in self._guides:
                break
            path = longer
        return path

    def _entry(self, path: FieldPath, part: int | str) -> bool:
        """Whether ``part`` is a place in the list at ``path``, or a field of the entry at ``path``."""
        around = self._guides.get(path[:-1])
        return (isinstance(part, int) and path in self._guides and bool(self._guides[path].entry)) or (
            around is not None and part in around.entry
        )

    def _guide(self, path: FieldPath) -> FieldGuide | None:
        """Of a field, also of one in a list's entry."""
        around = self._guides.get(path[:-2])
        return self._guides.get(path) if around is None else around.entry.get(path[-1])

    def _unknown_key(self, path: FieldPath) -> str:
        siblings = [guide.path[-1] for guide in self._guides.values() if guide.path[:-1] == path[:-1]]
        if path[:-2] in self._guides:
            siblings = list(self._guides[path[:-2]].entry)
        return "unknown key" + _did_you_mean(path[-1], siblings or list(self._sections))

    def _wrong_value(self, path: FieldPath, detail: ErrorDetails) -> str:
        if detail["type"] == "value_error":
            return str(detail["ctx"]["error"])
        guide = self._guide(path)
        wanted = "a section" if guide is None else guide.wanted
        if detail["type"] == "missing":
            return f"is needed: {wanted}"
        return f"must be {wanted}{_contrast(detail['input'], guide)}"

    def _complain_of_file(self, line: int | None, problem: str) -> None:
        place = "configuration" if self.path is None else str(self.path)
        self._problems.append((line or 0, f"{place}: {problem}" if line is None else f"{place}:{line}: {problem}"))

    def _complain_of_variable(self, name: str, problem: str) -> None:
        self._problems.append((_MAX_READ_BYTES, f"{shown(name)}: {problem}"))


def _nearest(path: FieldPath, places: Mapping[FieldPath, T]) -> T | None:
    """What is known of a field, or of the nearest section around it."""
    return next((places[path[:n]] for n in range(len(path), 0, -1) if path[:n] in places), None)


def _read(path: Path) -> bytes:
    """At most a little more than the parser takes: whatever the path leads to."""
    try:
        if not path.is_file():
            raise YamlProblem(
                None, "not a regular file" if path.exists() else "no such file; check --config or $KIOSK_CONFIG"
            )
        with path.open("rb") as file:
            return file.read(_MAX_READ_BYTES)
    except PermissionError:
        raise ConfigPermissionError(f"{path}: may not be read by this user; change its owner or permissions") from None
    except (OSError, ValueError) as error:
        raise YamlProblem(None, f"cannot be read: {getattr(error, 'strerror', None) or 'not a file name'}") from None


def _put(tree: Tree, path: FieldPath, value: object) -> None:
    """Set a field, making the sections it lies in; a section that is a plain value stays one, to be complained of."""
    for part in path[:-1]:
        section: Any = tree.get(part)
        if section is None:
            section = tree[part] = {}
        if not isinstance(section, dict):
            return
        tree = section
    tree[path[-1]] = value


def _section(tree: Tree, path: FieldPath) -> Tree:
    """What a field would lie in; nothing where no such section is there."""
    for part in path[:-1]:
        section = tree.get(part)
        if not isinstance(section, dict):
            return {}
        tree = section
    return tree


def _variable_value(text: str, guide: FieldGuide) -> object:
    if guide.nullable and text in {"", "null"}:
        return None
    if guide.is_section and text == "{}":
        return {}
    if guide.entry:
        return parse_list(text)
    return text if guide.plain_text else parse_scalar(text)


def _unknown_variable(
    name: str, path: FieldPath, guides: Mapping[FieldPath, FieldGuide], sections: Iterable[str]
) -> str:
    if len(path) == 1 and path[0] in sections:
        example = next(guide.variable for guide in guides.values() if guide.path[0] == path[0])
        return f"is a section; set its fields one by one, like {example}"
    known = [guide.variable.removeprefix(ENVIRONMENT_PREFIX) for guide in guides.values()]
    return "unknown variable" + _did_you_mean(name.removeprefix(ENVIRONMENT_PREFIX), known, ENVIRONMENT_PREFIX)


def _did_you_mean(word: str, known: list[str], prefix: str = "") -> str:
    # A whole file pasted into a key must not be compared for minutes.
    close = difflib.get_close_matches(word[:64], known, n=1) or [name for name in known if name.startswith(word)]
    if close:
        return f'; did you mean "{prefix}{close[0]}"?'
    return "; see docs/configuration.md" if prefix else "; known are " + ", ".join(known)


def _contrast(value: object, guide: FieldGuide | None) -> str:
    """What was there instead. Text is never repeated: it may be a secret in the wrong place."""
    if isinstance(value, str) and guide is not None and not guide.plain_text:
        return ", not text"
    if value is None:
        return ", not empty"
    if isinstance(value, bool):
        return f", not {str(value).lower()}"
    if isinstance(value, int | float):
        quoted = "; put it in quotes" if guide is not None and guide.plain_text else ""
        return f", not {value}{quoted}"
    if isinstance(value, dict):
        return ", not a section"
    return ", not a list" if isinstance(value, list) else ""


def _dotted(path: FieldPath) -> str:
    """``mqtt.port``, ``attendance.schedule[2].from``: entries are counted from 1, as people do."""
    text = ""
    for n, part in enumerate(path):
        guide = field_guides().get(path[:n])
        if guide is not None and guide.entry and part.isdecimal():
            text += f"[{int(part) + 1}]"
        else:
            text += f"{'.' if text else ''}{shown(part)}"
    return text
