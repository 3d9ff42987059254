"""Former settings in the text of a configuration file, rewritten in place: comments, order and layout stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kiosk.config._fields import FieldPath
from kiosk.config._former import Former
from kiosk.config._reading import Document, Place


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The new text, and former settings that are left to a person, by their line."""

    text: str
    left: Mapping[int, FieldPath]


def rewrite(text: str, document: Document, former: Mapping[FieldPath, Former]) -> Rewritten:
    """Rename what keeps its section, move what stands on a line of its own, comment out what is without effect.

    Whoever calls it reads the result back, and compares: not every layout of YAML is foreseen.
    """
    lines = text.splitlines(keepends=True)
    left: dict[int, FieldPath] = {}
    moved: list[tuple[FieldPath, str]] = []
    # From the end, so that the lines before keep their numbers.
    for path, place in sorted(document.places.items(), key=lambda item: item[1].line, reverse=True):
        if path not in former:
            continue
        now, at = former[path].now, place.line - 1
        line = lines[at]
        if now is not None and now[:-1] == path[:-1]:
            lines[at] = line[: place.column] + now[-1] + line[place.key_end :]
        elif not _alone(line, place):
            left[place.line] = path
        elif now is None:
            lines[at] = f"{line[: place.column]}# {line[place.column :]}"
        else:
            moved.append((now, line[place.key_end :].rstrip("\r\n")))
            del lines[at]
    for now, rest in moved:
        _insert(lines, document, now, rest)
    return Rewritten("".join(lines), left)


def _alone(line: str, place: Place) -> bool:
    """Whether key and value are all that stands on one line, but for a comment."""
    if line[: place.column].strip() or place.value_end is None or place.value_end[0] != place.line:
        return False
    rest = line[place.value_end[1] :].strip()
    return not rest or rest.startswith("#")


def _insert(lines: list[str], document: Document, now: FieldPath, rest: str) -> None:
    """As the first setting of its section; a section that is not there is put at the end."""
    section, name = now[:-1], now[-1]
    siblings = [place.column for path, place in document.places.items() if path[:-1] == section]
    entry = f"{' ' * min(siblings, default=2 * len(section))}{name}{rest}\n"
    # Lines have gone and come since the file was read: its header is found by what it says.
    header = next((n for n, line in enumerate(lines) if line.startswith(f"{section[-1]}:")), None)
    if header is not None and len(section) == 1:
        lines.insert(header + 1, entry)
        return
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    lines += [f"{section[-1]}:\n", entry]
