"""What a person and the journal see of the log, in a process of its own."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kiosk import logs

_PROGRAM = """
import logging, sys
from pathlib import Path
from kiosk import logs
logs._JOURNAL_SOCKET = Path(sys.argv[2])
logs.configure(int(sys.argv[1]))
logs.configure(int(sys.argv[1]))
own, library = logging.getLogger("kiosk.x"), logging.getLogger("paho")
for log in (own, library):
    log.debug("debug %s", 1)
    log.info("info", extra=logs.fields(seq=4711))
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
            [sys.executable, "-c", _PROGRAM, str(verbosity), str(stderr.with_name("journal"))],
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


def test_where_the_journals_socket_is_away_every_line_has_a_priority(tmp_path: Path) -> None:
    lines = _lines(1, tmp_path / "log", journal=True)
    assert lines[:4] == ["<7>kiosk.x: debug 1", "<6>kiosk.x: info", "<4>kiosk.x: warning", "<4>paho: warning"]
    assert lines[4:6] == ["<3>kiosk.x: two", "<3>lines"]
    assert lines[-1] == "<3>ValueError: broken"
    assert all(line.startswith("<3>") for line in lines[4:])


def _parse(entry: bytes) -> dict[str, str]:
    """As systemd.io/JOURNAL_NATIVE_PROTOCOL has it."""
    parsed = {}
    while entry:
        line, _, rest = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if equals:
            parsed[name.decode()], entry = value.decode(), rest
        else:
            size = int.from_bytes(rest[:8], "little")
            parsed[name.decode()] = rest[8 : 8 + size].decode()
            assert rest[8 + size : 9 + size] == b"\n"
            entry = rest[9 + size :]
    return parsed


def test_the_journal_gets_entries_with_fields(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        journal.settimeout(5)
        assert _lines(0, tmp_path / "log", journal=True) == []
        info, warning, foreign, broken = [_parse(journal.recv(1 << 16)) for _ in range(4)]
    common = {"SYSLOG_IDENTIFIER": "kiosk", "LOGGER": "kiosk.x"}
    assert info == {"MESSAGE": "kiosk.x: info", "PRIORITY": "6", "KIOSK_SEQ": "4711", **common}
    assert warning == {"MESSAGE": "kiosk.x: warning", "PRIORITY": "4", **common}
    assert (foreign["LOGGER"], foreign["PRIORITY"]) == ("paho", "4")
    # A traceback is one entry.
    assert broken["MESSAGE"].startswith("kiosk.x: two\nlines\nTraceback")
    assert broken["MESSAGE"].endswith("ValueError: broken")


def test_what_the_journal_does_not_take_goes_the_other_way(tmp_path: Path) -> None:
    elsewhere: list[logging.LogRecord] = []
    otherwise = logging.Handler()
    otherwise.emit = elsewhere.append  # type: ignore[method-assign]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        journal.settimeout(5)
        handler = logs.JournalHandler(tmp_path / "journal", otherwise)
        record = logging.LogRecord("kiosk.x", logging.INFO, "x.py", 1, "%s", ("x" * (1 << 22),), None)
        handler.handle(record)
        assert elsewhere == [record]
        # No byte of a message makes a field of its own.
        handler.handle(logging.LogRecord("kiosk.x", logging.INFO, "x.py", 1, "a\nPRIORITY=0\n\udcff", (), None))
        handler.close()
        assert _parse(journal.recv(1 << 16)) == {
            "MESSAGE": "kiosk.x: a\nPRIORITY=0\n\\udcff",
            "PRIORITY": "6",
            "SYSLOG_IDENTIFIER": "kiosk",
            "LOGGER": "kiosk.x",
        }


def test_redirected_stderr_of_a_service_is_no_journal(tmp_path: Path) -> None:
    assert not any(line.startswith("<") for line in _lines(0, tmp_path / "log", journal=False))
