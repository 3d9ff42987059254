"""Tell systemd how the daemon is (sd_notify(3), Type=notify). Without ``NOTIFY_SOCKET`` every call does nothing."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping

log = logging.getLogger(__name__)

_SEND_TIMEOUT_S = 1.0
_MICROSECOND_S = 1e-6
# Of an interval: a hang is noticed a limit and at most an eighth of it after the last sign of life.
_FEEDS = 4


class Heartbeat:
    """Signs of life of the parts that must all get on for the process to be worth keeping.

    A part that is at work beats when it has finished a piece of it; one that rests beats every second or so. Any thread
    may beat.
    """

    def __init__(self, *parts: str) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self._missing = set(parts)

    def beat(self, part: str) -> None:
        """``part`` has got on.

        Raises:
            ValueError: nobody watches such a part.
        """
        if part not in self._parts:
            raise ValueError(f"{part}: none of {', '.join(self._parts)}")
        with self._lock:
            self._missing.discard(part)

    def missing(self) -> list[str]:
        """The parts without a sign of life since the last time all had given one."""
        with self._lock:
            return [part for part in self._parts if part in self._missing]

    def collect(self) -> bool:
        """Whether all have given one; then it begins anew."""
        with self._lock:
            if self._missing:
                return False
            self._missing = set(self._parts)
            return True


class Notifier:
    """``environ``: where systemd's variables are looked up, the process's own by default."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = _socket_address(environ.get("NOTIFY_SOCKET", ""))
        self._watchdog_interval_s = watchdog_interval_s(environ)
        self._next_watchdog_s = time.monotonic()
        self._told_silent = False

    def ready(self) -> None:
        """The service is up."""
        self._send("READY=1")

    def stopping(self) -> None:
        """The service is on its way out."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send("STATUS=" + " ".join(text.split()))

    def watchdog(self, heartbeat: Heartbeat) -> None:
        """Feed the watchdog if every part has given a sign of life since it was last fed.

        Call it as often as you like: it is fed no more than four times in an interval.
        """
        interval_s = self._watchdog_interval_s
        now_s = time.monotonic()
        if interval_s is None or now_s < self._next_watchdog_s:
            return
        if heartbeat.collect():
            self._next_watchdog_s = now_s + interval_s / _FEEDS
            self._told_silent = False
            self._send("WATCHDOG=1")
        elif now_s > self._next_watchdog_s + interval_s and not self._told_silent:
            self._told_silent = True
            log.error("no sign of life from %s: the watchdog is not fed", ", ".join(heartbeat.missing()))

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client:
                client.settimeout(_SEND_TIMEOUT_S)
                client.sendto(message.encode(), self._address)
        except OSError as error:
            # Attendance goes on without a supervisor; if it is the watchdog that fails, systemd will restart us.
            log.warning("systemd cannot be told %s: %s", message.partition("=")[0], error)


def watchdog_interval_s(environ: Mapping[str, str] | None = None) -> float | None:
    """How often systemd wants to hear from us: half its limit. None: no watchdog watches this process."""
    environ = os.environ if environ is None else environ
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    limit_us = environ.get("WATCHDOG_USEC", "")
    if not (limit_us.isascii() and limit_us.isdigit()) or int(limit_us) == 0:
        return None
    return int(limit_us) * _MICROSECOND_S / 2


def _socket_address(text: str) -> str | None:
    """``@name`` is an abstract socket; other kinds (vsock:) are for virtual machines."""
    if text.startswith("@"):
        return "\0" + text[1:]
    return text if text.startswith("/") else None
