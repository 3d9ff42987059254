"""A device that gives codes as lines: a keypad or scanner on a terminal, a serial card reader. One thread reads it.

Whatever the device sends costs little: lines are cut off at a length no code has, bytes are taken at a pace no person
reaches, and a line that nobody finishes is forgotten.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import stat
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kiosk.errors import UnavailableError

log = logging.getLogger(__name__)

_MAX_LINE = 256
_CHUNK = 256
_MAX_BYTES_PER_S = 2048
"""Forty lines a second of a badge's length."""
_FORGET_AFTER_S = 10.0
"""A line that somebody began and left is not continued by the next in front of the device."""
_FIRST_BACK_OFF_S = 0.2
_MAX_BACK_OFF_S = 5.0
_STOP_TIMEOUT_S = 1.5

_GONE = frozenset({errno.EIO, errno.ENODEV, errno.ENXIO})


@dataclass(frozen=True, slots=True)
class ReaderCondition:
    """``fault``: why no codes can come at the moment, None while all is well. ``reconnects``: since the start."""

    fault: str | None
    reconnects: int


class CodeReader:
    """``hear`` gets each line, without its end, on the reader's own thread; until it returns nothing more is read."""

    def __init__(self, path: Path, hear: Callable[[str], None]) -> None:
        self._path = path
        self._hear = hear
        self._stopping = threading.Event()
        self._wake_reading, self._wake_writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._fault: str | None = None
        self._openings = 0
        self._thread = threading.Thread(target=self._run, name="code reader", daemon=True)

    @property
    def condition(self) -> ReaderCondition:
        """May be asked from any thread."""
        return ReaderCondition(self._fault, max(self._openings - 1, 0))

    def start(self) -> None:
        """Begin to read; a device that is not there yet is waited for."""
        self._thread.start()

    def stop(self) -> None:
        """End reading; a line being judged is not waited for longer than a moment."""
        self._stopping.set()
        os.write(self._wake_writing, b"\0")
        self._thread.join(_STOP_TIMEOUT_S)
        if not self._thread.is_alive():
            os.close(self._wake_writing)
            os.close(self._wake_reading)

    def _run(self) -> None:
        back_off_s = _FIRST_BACK_OFF_S
        while not self._stopping.is_set():
            began_s = time.monotonic()
            try:
                self._open_and_read()
            except UnavailableError as error:
                self._fault = str(error)
            except Exception:
                log.exception("%s: reading has failed", self._path)
                self._fault = f"{self._path}: internal error, see the log"
            # One that was there for a while has come loose; one that never was is not asked for all the time.
            lasted = time.monotonic() - began_s > _MAX_BACK_OFF_S
            back_off_s = _FIRST_BACK_OFF_S if lasted else min(back_off_s * 2, _MAX_BACK_OFF_S)
            self._stopping.wait(back_off_s)

    def _open_and_read(self) -> None:
        fd = open_device(self._path)
        try:
            if os.isatty(fd):
                _set_up_terminal(fd, self._path)
            self._openings += 1
            self._fault = None
            self._read(fd)
        finally:
            os.close(fd)

    def _read(self, fd: int) -> None:
        """Until stopped, or the device is gone."""
        waiting = select.poll()
        waiting.register(fd, select.POLLIN)
        waiting.register(self._wake_reading, select.POLLIN)
        lines, pace = _Lines(), _Pace()
        while not self._stopping.is_set():
            if not waiting.poll(_FORGET_AFTER_S * 1000 if lines.begun else None):
                lines.forget()
                continue
            if self._stopping.is_set():
                return
            chunk = _read_some(fd, self._path)
            for line in lines.feed(chunk):
                self._hear(line)
            self._stopping.wait(pace.pause_s(len(chunk)))


def open_device(path: Path) -> int:
    """A file descriptor of a device that lines come from.

    Raises:
        UnavailableError: it is not there, may not be read, or is no device.
    """
    try:
        # Without waiting for a carrier, which few devices have.
        fd = os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UnavailableError(f"{path}: {_explain(error)}") from error
    if stat.S_ISCHR(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise UnavailableError(f"{path}: is no device; set code.reader to one like /dev/ttyACM0")


def _explain(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENXIO | errno.ENODEV:
            return "is not there; is the reader plugged in? (code.reader)"
        case errno.EACCES | errno.EPERM:
            return "may not be read; the kiosk's user has to be in the device's group (dialout for serial readers)"
        case _:
            return (error.strerror or str(error)).lower()


def _set_up_terminal(fd: int, path: Path) -> None:
    """Eight bits, no echo, no signals, no flow control, at the speed it has; nothing typed before counts."""
    try:
        _, oflag, cflag, _, ispeed, ospeed, special = termios.tcgetattr(fd)
        cflag = cflag & ~(termios.CSIZE | termios.PARENB) | termios.CS8 | termios.CREAD | termios.CLOCAL
        special[termios.VMIN], special[termios.VTIME] = 1, 0
        termios.tcsetattr(fd, termios.TCSANOW, [termios.IGNBRK, oflag, cflag, 0, ispeed, ospeed, special])
        termios.tcflush(fd, termios.TCIFLUSH)
    except termios.error as error:
        raise UnavailableError(f"{path}: cannot be set up: {error.args[-1]}") from error


def _read_some(fd: int, path: Path) -> bytes:
    try:
        chunk = os.read(fd, _CHUNK)
    except BlockingIOError:
        return b""
    except OSError as error:
        what = "has been unplugged" if error.errno in _GONE else _explain(error)
        raise UnavailableError(f"{path}: {what}; waiting for it") from error
    if not chunk:
        raise UnavailableError(f"{path}: has been unplugged, or gives no lines; waiting for it")
    return chunk


class _Lines:
    """Bytes to lines; none that is too long is handed on, and a backspace takes back what was typed before it."""

    def __init__(self) -> None:
        self._begun = bytearray()
        self._too_long = False

    @property
    def begun(self) -> bool:
        return bool(self._begun) or self._too_long

    def forget(self) -> None:
        self._begun.clear()
        self._too_long = False

    def feed(self, chunk: bytes) -> list[str]:
        found = []
        for byte in chunk:
            # Readers end lines with either, or both.
            if byte in b"\r\n":
                if self._begun and not self._too_long:
                    found.append(self._begun.decode("ascii", "replace"))
                self.forget()
            elif byte in b"\b\x7f":
                del self._begun[-1:]
            elif len(self._begun) < _MAX_LINE:
                self._begun.append(byte)
            else:
                self._too_long = True
        return found


class _Pace:
    """How long to wait so that no more than so many bytes are taken in any second."""

    def __init__(self) -> None:
        self._since_s = time.monotonic()
        self._taken = 0

    def pause_s(self, taken: int) -> float:
        now_s = time.monotonic()
        if now_s - self._since_s >= 1:
            self._since_s, self._taken = now_s, 0
        self._taken += taken
        return 0.0 if self._taken < _MAX_BYTES_PER_S else self._since_s + 1 - now_s
