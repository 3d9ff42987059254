"""The system's clocks: one that never steps for durations, one that says what time it is, and how far to trust it."""

from __future__ import annotations

import ctypes
import os
import time
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

_TIMESYNCD_MARK = Path("/run/systemd/timesync/synchronized")
_KERNEL_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_TIMEX_BYTES = 512
"""Room for the kernel's ``struct timex`` (208 bytes on 64-bit Linux); all zero means: change nothing, only report."""
_TIME_ERROR = 5
"""adjtimex(2) returns this while no time server disciplines the kernel clock."""


class SystemClock:
    """The clock of this machine; implements :class:`kiosk.ports.Clock`."""

    def boottime_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def utc_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def synchronized(self) -> bool:
        """Whether systemd-timesyncd or the kernel (chrony, ntpd) says so; False when neither can be asked."""
        return _TIMESYNCD_MARK.exists() or _kernel_synchronized()

    def trusted_date(self, timezone: str) -> date | None:
        """The date in an IANA time zone; None while nobody has set the clock."""
        return datetime.now(ZoneInfo(timezone)).date() if self.synchronized() else None

    def boot_id(self) -> str:
        """Identifies this boot, so that ``boottime_s`` values can be compared; empty where it is not known.

        ``KIOSK_BOOT_ID`` (``%b`` in a unit file) comes first: a sandbox may hide ``/proc/sys``.
        """
        try:
            return os.environ.get("KIOSK_BOOT_ID") or _KERNEL_BOOT_ID.read_text(encoding="ascii").strip()
        except OSError:
            return ""


def _kernel_synchronized() -> bool:
    """False, too, where a sandbox forbids the call (systemd's ProtectClock: EPERM)."""
    try:
        state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return False
    return 0 <= state < _TIME_ERROR
