"""Tell systemd how the daemon is (sd_notify(3), Type=notify). Without ``NOTIFY_SOCKET`` every call does nothing."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

log = logging.getLogger(__name__)

_SEND_TIMEOUT_S = 1.0
_MICROSECOND_S = 1e-6


class Notifier:
    """``environ``: where systemd's variables are looked up, the process's own by default."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = _socket_address(environ.get("NOTIFY_SOCKET", ""))
        self._watchdog_interval_s = watchdog_interval_s(environ)
        self._next_watchdog_s = 0.0

    def ready(self) -> None:
        """The service is up."""
        self._send("READY=1")

    def stopping(self) -> None:
        """The service is on its way out."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send("STATUS=" + " ".join(text.split()))

    def watchdog(self) -> None:
        """Prove to be alive; call it as often as you like, it is sent twice in an interval."""
        interval_s = self._watchdog_interval_s
        now_s = time.monotonic()
        if interval_s is None or now_s < self._next_watchdog_s:
            return
        self._next_watchdog_s = now_s + interval_s / 2
        self._send("WATCHDOG=1")

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
