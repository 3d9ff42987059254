"""LFW's lists of photo pairs: View 1 (`N`, then N same and N different) and View 2 (`folds N`, ten such blocks)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kiosk.errors import InputError


@dataclass(frozen=True, slots=True)
class Pair:
    """Two photos, as paths relative to the folder of images. ``fold`` counts from 1."""

    fold: int
    path_a: str
    path_b: str
    same: bool


def read_pairs(path: Path) -> list[Pair]:
    """
    Raises:
        InputError: the file is missing, malformed, or its length is not what its first line says.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{path}: cannot be read: {reason}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    folds, per_kind = _header(path, lines[0] if lines else "")
    expected = folds * per_kind * 2
    if len(lines) - 1 != expected:
        raise InputError(f"{path}: line 1 announces {expected} pairs, {len(lines) - 1} follow")
    return [
        _pair(path, number, line, fold=1 + (number - 2) // (2 * per_kind)) for number, line in enumerate(lines[1:], 2)
    ]


def _header(path: Path, line: str) -> tuple[int, int]:
    fields = line.split()
    if len(fields) not in (1, 2) or not all(field.isdecimal() and int(field) > 0 for field in fields):
        raise InputError(f"{path}:1: expected a number of pairs, or folds and pairs, as in LFW's pairs.txt")
    numbers = [int(field) for field in fields]
    return (1, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])


def _pair(path: Path, number: int, line: str, *, fold: int) -> Pair:
    fields = line.strip().split("\t") if "\t" in line else line.split()
    match fields:
        case [name, a, b] if a.isdecimal() and b.isdecimal():
            return Pair(fold, _photo(name, a), _photo(name, b), same=True)
        case [name_a, a, name_b, b] if a.isdecimal() and b.isdecimal():
            return Pair(fold, _photo(name_a, a), _photo(name_b, b), same=False)
    raise InputError(f"{path}:{number}: expected `name number number` or `name number name number`")


def _photo(name: str, number: str) -> str:
    return f"{name}/{name}_{int(number):04d}.jpg"
