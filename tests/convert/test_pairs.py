"""LFW's pair lists: both views, and every way they can be malformed."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert.pairs import Pair, read_pairs
from kiosk.errors import InputError


def write(folder: Path, text: str) -> Path:
    path = folder / "pairs.txt"
    path.write_text(text)
    return path


def test_view_1(tmp_path: Path) -> None:
    path = write(tmp_path, "2\nAnn\t1\t2\nBob\t1\t3\nAnn\t1\tBob\t1\nAnn\t2\tCy\t10\n\n")
    assert read_pairs(path) == [
        Pair(1, "Ann/Ann_0001.jpg", "Ann/Ann_0002.jpg", same=True),
        Pair(1, "Bob/Bob_0001.jpg", "Bob/Bob_0003.jpg", same=True),
        Pair(1, "Ann/Ann_0001.jpg", "Bob/Bob_0001.jpg", same=False),
        Pair(1, "Ann/Ann_0002.jpg", "Cy/Cy_0010.jpg", same=False),
    ]


def test_view_2_counts_folds(tmp_path: Path) -> None:
    block = "Ann\t1\t2\nAnn\t1\tBob\t1\n"
    assert [pair.fold for pair in read_pairs(write(tmp_path, "3\t1\n" + block * 3))] == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "pairs.txt:1: expected a number of pairs"),
        ("Ann 1 2\n", "pairs.txt:1: expected"),
        ("0\n", "pairs.txt:1: expected"),
        ("1\nAnn 1 2\n", "line 1 announces 2 pairs, 1 follow"),
        ("1\nAnn 1 2\nAnn one Bob 1\n", "pairs.txt:3: expected"),
        ("1\nAnn 1\nAnn 1 Bob 1\n", "pairs.txt:2: expected"),
    ],
)
def test_malformed_lists_are_told_by_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_pairs(write(tmp_path, text))


def test_missing_and_binary_lists(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_pairs(tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8 text"):
        read_pairs(tmp_path / "binary.txt")
