"""CSV that can be opened in a spreadsheet without harm."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_csv(
    columns: Sequence[str],
    rows: Iterable[Mapping[str, object]],
    *,
    header: bool = True,
    file: TextIO | None = None,
) -> None:
    """Write rows to a file, by default to stdout; None is an empty cell."""
    writer = csv.DictWriter(sys.stdout if file is None else file, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows({name: defused(value) for name, value in row.items()} for row in rows)


def defused(value: object) -> object:
    """Text that a spreadsheet would compute gets an apostrophe in front, which makes it text; all else is as it was."""
    if isinstance(value, str) and (value.startswith(_FORMULA_STARTS) or value.lstrip().startswith(_FORMULA_STARTS)):
        return f"'{value}"
    return value
