"""A real systemd in a container (systemd-nspawn), as root on Debian."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Self

BOOT_S = 120.0


class Container:
    """A systemd that has booted; powered off at the end, never killed: its processes would stay."""

    def __init__(self, root: Path, *, private_network: bool = False) -> None:
        """``private_network``: a loopback interface of its own and nothing else, instead of the machine's network."""
        self._root = root
        self._options = ["--private-network"] if private_network else []
        self.leader = ""
        """Process id of its systemd, whose namespaces can be entered."""

    def __enter__(self) -> Self:
        command = ["systemd-nspawn", "-D", str(self._root), "-b", "--register=no", "--keep-unit", "--console=read-only"]
        # In a session of its own: Ctrl-C is for this program, which then powers it off.
        self._nspawn = subprocess.Popen(
            [*command, *self._options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            self._wait_for_boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.call("systemctl", "poweroff").returncode != 0:
            # One that never came up so far. systemd-nspawn powers off in order, too.
            self._nspawn.terminate()
        self._nspawn.wait()

    def call(self, *command: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command inside; ``text`` is its standard input."""
        return subprocess.run(
            self.entered(*command), input=text, capture_output=True, encoding="utf-8", errors="replace", check=False
        )

    def entered(self, *command: str | Path) -> list[str]:
        """The command line that runs a command inside."""
        # All namespaces: without its root and mounts systemctl takes itself for outside.
        return ["nsenter", "--target", self.leader, "--all", "--", *map(str, command)]

    def version(self) -> str:
        """Name and version of its systemd."""
        return self.call("systemctl", "--version").stdout.partition(" (")[0]

    def _wait_for_boot(self) -> None:
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        until_s = time.monotonic() + BOOT_S
        while time.monotonic() < until_s and self._nspawn.poll() is None:
            self.leader = children.read_text(encoding="ascii").partition(" ")[0]
            if self.leader and self.call("systemctl", "is-active", "multi-user.target").returncode == 0:
                return
            time.sleep(0.5)
        sys.exit(f"{self._root}: systemd does not boot")
