"""What a person and the journal see of the log, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import logging, sys
from kiosk import logs
logs.configure(int(sys.argv[1]))
logs.configure(int(sys.argv[1]))
own, library = logging.getLogger("kiosk.x"), logging.getLogger("paho")
for log in (own, library):
    log.debug("debug %s", 1)
    log.info("info")
    log.warning("warning")
try:
    raise ValueError("broken")
except ValueError:
    own.exception("two\\nlines")
"""


def _lines(verbosity: int, stderr: Path, *, journal: bool) -> list[str]:
    with stderr.open("w+") as file:
        about = os.fstat(file.fileno())
        stream = f"{about.st_dev}:{about.st_ino}" if journal else "1:1"
        subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(verbosity)],
            stderr=file,
            env={**os.environ, "JOURNAL_STREAM": stream},
            check=True,
        )
    return stderr.read_text().splitlines()


@pytest.mark.parametrize(
    ("verbosity", "own", "library"), [(-1, "W", "W"), (0, "IW", "W"), (1, "DIW", "W"), (2, "DIW", "DIW")]
)
def test_verbosity(tmp_path: Path, verbosity: int, own: str, library: str) -> None:
    lines = [line.split() for line in _lines(verbosity, tmp_path / "log", journal=False)]
    levels = [(words[3], words[2][0]) for words in lines if len(words) > 3 and words[2] != "ERROR"]
    assert [level for name, level in levels if name == "kiosk.x:"] == list(own)
    assert [level for name, level in levels if name == "paho:"] == list(library)


def test_journal_gets_a_priority_on_every_line(tmp_path: Path) -> None:
    lines = _lines(1, tmp_path / "log", journal=True)
    assert lines[:4] == ["<7>kiosk.x: debug 1", "<6>kiosk.x: info", "<4>kiosk.x: warning", "<4>paho: warning"]
    assert lines[4:6] == ["<3>kiosk.x: two", "<3>lines"]
    assert lines[-1] == "<3>ValueError: broken"
    assert all(line.startswith("<3>") for line in lines[4:])


def test_redirected_stderr_of_a_service_is_no_journal(tmp_path: Path) -> None:
    assert not any(line.startswith("<") for line in _lines(0, tmp_path / "log", journal=False))
