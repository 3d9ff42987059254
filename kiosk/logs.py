"""Where log lines go: stderr, for a person with the time, for the journal with the priority it sorts by."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

_CONSOLE_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
# The journal stamps the time itself.
_JOURNAL_FORMAT = "%(name)s: %(message)s"

# sd-daemon(3): the priorities of syslog(3) in angle brackets before a line.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY = 7


class JournalFormatter(logging.Formatter):
    """Each line of a record, a traceback's too, begins with ``<N>``."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), _DEBUG_PRIORITY)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def configure(verbosity: int) -> None:
    """Log to stderr.

    ``verbosity``: below 0 warnings only, 0 information too, 1 debug messages of the kiosk, 2 those of libraries.
    Calling it again replaces what was set before.
    """
    handler = logging.StreamHandler(sys.stderr)
    journal = _is_journal(sys.stderr, os.environ.get("JOURNAL_STREAM", ""))
    handler.setFormatter(JournalFormatter(_JOURNAL_FORMAT) if journal else logging.Formatter(_CONSOLE_FORMAT))
    logging.basicConfig(level=_library_level(verbosity), handlers=[handler], force=True)
    logging.getLogger("kiosk").setLevel(_own_level(verbosity))


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
