"""A command that runs beside the daemon in a process of its own, and is started again when it ends."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_WELL_AFTER_S = 60.0
"""What has run for so long begins with the first pause again."""
_STOP_TIMEOUT_S = 4.0


class Companion:
    """``kiosk ARGUMENTS``. Its standard input ends with this process, however that ends; it is to end then, too.

    What becomes of it never stops the daemon: it is told in the log.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = list(arguments)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="companion", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Have it end, and wait for that."""
        with self._lock:
            self._stopping.set()
            process = self._process
        if process is not None:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
        self._thread.join(_STOP_TIMEOUT_S)

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            began_s = time.monotonic()
            problem = self._run_once()
            if self._stopping.is_set():
                return
            if time.monotonic() - began_s >= _WELL_AFTER_S:
                pause_s = _FIRST_PAUSE_S
            log.warning("`kiosk %s` %s; trying again in %.0f s", self._arguments[0], problem, pause_s)
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _run_once(self) -> str:
        """Run it to its end; returns how that came."""
        # Only the daemon speaks for the service.
        environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
        with self._lock:
            if self._stopping.is_set():
                return "is not wanted any more"
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    [sys.executable, "-m", "kiosk", *self._arguments], stdin=subprocess.PIPE, env=environment
                )
            except OSError as error:
                return f"cannot be started: {error.strerror}"
            process = self._process
        code = process.wait()
        return f"has ended with code {code}" if code >= 0 else f"was ended by signal {-code}"
