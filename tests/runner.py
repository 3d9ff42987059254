"""A kiosk with people enrolled, ready to be copied: enrolling takes a second, copying does not."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
from pathlib import Path

from command_line import Kiosk

from kiosk import cli
from kiosk.biometrics import Image
from kiosk.opencv import cv2

ENROLLED = {"obama": ("Barack Obama", "obama.jpg"), "biden": ("조 바이든", "biden_portrait.jpg")}


def enroll_people(kiosk: Kiosk, samples: Path) -> Kiosk:
    """Two people, one photo each; the other sample photos stay for probing."""
    for subject_id, (name, photo) in ENROLLED.items():
        result = kiosk("enroll", subject_id, "--name", name, samples / photo)
        assert result.returncode == 0, result.stderr
    return kiosk


def copy_store(source: Kiosk, target: Kiosk) -> None:
    """Give ``target`` the people of ``source``; both must be at rest."""
    for path in source.folder.glob("kiosk.db*"):
        shutil.copy(path, target.folder / path.name)


def run_in_process(*arguments: str) -> int:
    """The command line within this process, where no process can carry the case or none is worth its second."""
    root, own = logging.getLogger(), logging.getLogger("kiosk")
    handlers, levels = list(root.handlers), (root.level, own.level)
    try:
        return cli.run(arguments)
    finally:
        # The command has set up logging to a stderr that pytest closes after the test.
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        own.setLevel(levels[1])


def dump(store: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table; empty when there is no store."""
    if not store.exists():
        return {}
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: db.execute(f'SELECT * FROM "{name}"').fetchall() for name in sorted(tables)}  # noqa: S608 - our own names


def assert_one_line_error(stderr: str) -> str:
    """A failure is told in exactly one line, in the kiosk's name, without a traceback; returns the line."""
    lines = stderr.strip().splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("kiosk: "), stderr
    assert "Traceback" not in stderr
    assert "internal error" not in stderr
    return lines[0]


def side_by_side(*photos: Path, height_px: int = 640) -> Image:
    """Photos of one height next to each other, in their own proportions."""
    images = [cv2.imread(str(photo)) for photo in photos]
    scaled = [cv2.resize(i, (round(i.shape[1] * height_px / i.shape[0]), height_px)) for i in images]  # type: ignore[union-attr]
    return cv2.hconcat(scaled)  # type: ignore[return-value]
