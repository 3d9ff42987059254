"""Where log lines go: stderr for a person, with the time; the journal with priority and fields to search by.

The journal is spoken to in its own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL), in which a record is one entry
however many lines it has. Where its socket takes nothing, stderr leads there, too.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

_CONSOLE_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
# The journal stamps the time itself.
_JOURNAL_FORMAT = "%(name)s: %(message)s"

# sd-daemon(3): the priorities of syslog(3) in angle brackets before a line.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY = 7

_JOURNAL_SOCKET = Path("/run/systemd/journal/socket")
_SEND_TIMEOUT_S = 1.0
_FIELDS = "journal"
"""The attribute of a record that :func:`fields` sets."""


def fields(**values: object) -> Mapping[str, Mapping[str, object]]:
    """The ``extra`` of a log call whose entry can be found by more than its words.

    ``log.info(…, extra=fields(seq=4711))``: ``journalctl KIOSK_SEQ=4711``. No names, embeddings or codes, as in the
    words.
    """
    return {_FIELDS: {f"KIOSK_{name.upper()}": value for name, value in values.items()}}


class JournalFormatter(logging.Formatter):
    """For stderr that leads to the journal. Each line of a record, a traceback's too, begins with ``<N>``."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(f"<{_priority(record)}>{line}" for line in super().format(record).splitlines())


class JournalHandler(logging.Handler):
    """Sends records as entries to the journal's socket; what it does not take goes to ``otherwise``."""

    def __init__(self, path: Path, otherwise: logging.Handler) -> None:
        super().__init__()
        self._path = str(path)
        self._otherwise = otherwise
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(_SEND_TIMEOUT_S)
        self.setFormatter(logging.Formatter(_JOURNAL_FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            entry = b"".join(_encoded(name, str(value)) for name, value in self._entry(record))
            self._socket.sendto(entry, self._path)
        except OSError:
            # Too long, or the journal is being restarted.
            self._otherwise.handle(record)
        except Exception:  # noqa: BLE001 - as every handler: a log call never ends what it tells of
            self.handleError(record)

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _entry(self, record: logging.LogRecord) -> Iterator[tuple[str, object]]:
        yield "MESSAGE", self.format(record)
        yield "PRIORITY", _priority(record)
        yield "SYSLOG_IDENTIFIER", "kiosk"
        yield "LOGGER", record.name
        yield from getattr(record, _FIELDS, {}).items()


def configure(verbosity: int) -> None:
    """Log to stderr, or where that is the journal, to it.

    ``verbosity``: below 0 warnings only, 0 information too, 1 debug messages of the kiosk, 2 those of libraries.
    Calling it again replaces what was set before.
    """
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if _is_journal(sys.stderr, os.environ.get("JOURNAL_STREAM", "")):
        handler.setFormatter(JournalFormatter(_JOURNAL_FORMAT))
        handler = JournalHandler(_JOURNAL_SOCKET, handler)
    else:
        handler.setFormatter(logging.Formatter(_CONSOLE_FORMAT))
    logging.basicConfig(level=_library_level(verbosity), handlers=[handler], force=True)
    logging.getLogger("kiosk").setLevel(_own_level(verbosity))


def _encoded(name: str, value: str) -> bytes:
    """A field of an entry: with its length where it has several lines."""
    data = value.encode(errors="backslashreplace")
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


def _priority(record: logging.LogRecord) -> int:
    return next((number for level, number in _PRIORITIES if record.levelno >= level), _DEBUG_PRIORITY)


def _own_level(verbosity: int) -> int:
    if verbosity < 0:
        return logging.WARNING
    return logging.INFO if verbosity == 0 else logging.DEBUG


def _library_level(verbosity: int) -> int:
    return logging.DEBUG if verbosity > 1 else logging.WARNING


def _is_journal(stream: TextIO, journal_stream: str) -> bool:
    """Whether the stream is the one systemd told of: a shell started by a service may have redirected its own."""
    try:
        about = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal_stream == f"{about.st_dev}:{about.st_ino}"
