"""Which photos of a bulk enrollment led to no template, and why: as one report, and summed up."""

from __future__ import annotations

import csv
import html
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kiosk.biometrics import Reason
from kiosk.commands.options import count
from kiosk.commands.spreadsheets import defused
from kiosk.errors import OutputError, UsageError

COLUMNS = ("subject_id", "photo", "reason", "enrolled_as", "detail")
"""Of the CSV report; new ones come last."""

REASONS = {
    "unreadable": "cannot be read, damaged, too large, or no photo",
    Reason.NO_FACE: "no face found",
    "several_faces": "more than one face",
    Reason.TURNED: "the face is turned away",
    Reason.TOO_SMALL: "the face is too small",
    Reason.TOO_DARK: "the face is too dark",
    Reason.LOW_CONTRAST: "the face is too pale",
    Reason.TOO_BRIGHT: "the face is too bright",
    Reason.BLURRED: "the face is blurred",
    Reason.UNCLEAR: "the face is hard to make out",
    "photos_differ": "the photos of this folder do not show one person, or not the one who is enrolled",
    "duplicate_face": "this face is enrolled under another id",
    "no_consent": "no consent is on record, or it has ended",
    "bad_subject_id": "the folder's name is no subject id",
    "no_photos": "no photos in the folder",
    "no_folder": "not in a folder named by a subject id",
}
"""Every reason there is, in words."""

_SUFFIXES = (".csv", ".html")

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.4 system-ui, sans-serif; }
body { margin: 1rem auto; max-width: 80rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin-block: 1rem; }
caption { text-align: start; font-weight: bold; padding-block: .3rem; }
th, td { text-align: start; vertical-align: top; padding: .3rem .6rem; border: 1px solid GrayText; }
td { overflow-wrap: break-word; }
.scroll { overflow-x: auto; }
.number { text-align: end; }
.detail { min-width: 16rem; }
"""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Photos that were left out for one reason: one by itself, all new ones of a person, or a folder without any."""

    folder: str
    """Its name: a subject id, or what is none."""
    photos: tuple[str, ...]
    """Names of the files in it."""
    reason: str
    detail: str
    other: str | None = None
    """Who has this face already."""
    whole: bool = False
    """The person was refused, not a photo."""

    def source(self, people: Path) -> str:
        """What it is about: a path below the folder of all people, or a subject id."""
        return self.folder if self.whole else str(people.joinpath(self.folder, *self.photos))

    def error(self, people: Path) -> str:
        """In one line."""
        return f"{self.source(people)}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Totals:
    """How far a run came. ``photos``: of everybody who was looked at; ``enrolled``: now or earlier."""

    people: int
    people_done: int
    photos: int
    enrolled: int

    @property
    def complete(self) -> bool:
        return self.people_done == self.people


def count_reasons(rejections: Iterable[Rejection]) -> Counter[str]:
    """How many photos (or folders without any) were left out for each reason."""
    counts: Counter[str] = Counter()
    for rejection in rejections:
        counts[rejection.reason] += max(len(rejection.photos), 1)
    return counts


def summarize(rejections: Sequence[Rejection]) -> list[str]:
    """One line a reason, the most frequent first."""
    counts = count_reasons(rejections).most_common()
    width = max((len(str(number)) for _, number in counts), default=0)
    return [f"{number:{width + 2}}  {reason}: {REASONS[reason]}" for reason, number in counts]


class Report:
    """The file of ``--report``; whatever interrupts its writing, it is the old one or the new one.

    Raises:
        UsageError: it is to be neither CSV nor HTML.
        OutputError: it cannot be written there; told before the work begins.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(f".{path.name}.part")
        if path.suffix.lower() not in _SUFFIXES:
            raise UsageError(f"--report {path}: the name must end in {' or '.join(_SUFFIXES)}")
        if path.is_dir():
            raise OutputError(f"{path}: is a folder; name a file")
        self._put("")
        self._part.unlink()

    def write(self, rejections: Sequence[Rejection], totals: Totals) -> None:
        """Raises OutputError: it cannot be written."""
        is_csv = self.path.suffix.lower() == ".csv"
        self._put(_as_csv(rejections) if is_csv else _as_html(rejections, totals))
        try:
            self._part.replace(self.path)
        except OSError as error:
            raise self._unwritten(error) from error

    def _put(self, text: str) -> None:
        try:
            # It says whose photos there are.
            descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> OutputError:
        with suppress(OSError):
            self._part.unlink()
        return OutputError(f"{self.path}: cannot be written: {error.strerror}; choose another place for --report")


def _rows(rejections: Iterable[Rejection]) -> Iterator[tuple[str, ...]]:
    """One a photo; a folder without photos has one with an empty name. All in one line, whatever a name contains."""
    for rejection in rejections:
        for photo in rejection.photos or ("",):
            row = (rejection.folder, photo, rejection.reason, rejection.other or "", rejection.detail)
            yield tuple(map(_printable, row))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _as_csv(rejections: Iterable[Rejection]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in _rows(rejections):
        writer.writerow(map(defused, row))
    return file.getvalue()


def _as_html(rejections: Sequence[Rejection], totals: Totals) -> str:
    counts = count_reasons(rejections).most_common()
    by_reason = [(_cell(reason), _cell(REASONS[reason]), _cell(str(number), "number")) for reason, number in counts]
    photos = [(*map(_cell, row), _cell(detail, "detail")) for *row, detail in _rows(rejections)]
    reached = f"{totals.people_done} of {totals.people} people"
    again = "Run the same command again: it goes on where it was."
    state = "" if totals.complete else f"<p><strong>Interrupted after {reached}.</strong> {again}</p>"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Photos that were not enrolled</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Photos that were not enrolled</h1>
{state}
<p>{totals.enrolled} of {count(totals.photos, "photo")} of {totals.people_done} people are enrolled.</p>
{_table("By reason", ("Reason", "What it means", "Photos"), by_reason)}
{_table("Photo by photo", ("Subject", "Photo", "Reason", "Enrolled as", "What is wrong"), photos)}
</main>
</body>
</html>
"""


def _cell(text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f"<td{attribute}>{html.escape(text)}</td>"


def _table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return f"<p>{caption}: none.</p>"
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f"""<div class="scroll" role="region" aria-label="{caption}" tabindex="0">
<table>
<caption>{caption}</caption>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</div>"""
