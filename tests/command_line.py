"""The ``kiosk`` command as a user runs it: a process of its own, judged by its exit code and what it prints."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import warm
import yaml

_REPO = Path(__file__).resolve().parent.parent

COVERAGE: dict[str, str] = {}
"""What coverage measurement adds to the environment of the processes it is to measure."""


class Kiosk:
    """The command line in processes of its own, with a store and a configuration of its own.

    ``run = kiosk("enroll", "E1", photo); assert run.returncode == 65``. A later ``configure(mqtt={"port": 1884})``
    changes single fields; everything else keeps its default.
    """

    def __init__(self, folder: Path, runtime: str) -> None:
        self.folder = folder
        self.store = folder / "kiosk.db"
        self.config = folder / "config.yaml"
        self._sections: dict[str, dict[str, Any]] = {}
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("KIOSK_")
        } | COVERAGE
        self._environment["PYTHONPATH"] = str(_REPO)
        self.configure(store={"path": str(self.store)}, mqtt={"enabled": False}, model={"runtime": runtime})

    def configure(self, **sections: Mapping[str, Any]) -> None:
        """Set fields, keep the others: ``configure(camera={"source": "clip.avi"})``."""
        for section, fields in sections.items():
            self._sections.setdefault(section, {}).update(fields)
        self.config.write_text(yaml.safe_dump(self._sections, allow_unicode=True), encoding="utf-8")

    def __call__(
        self,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout_s: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``kiosk ARGUMENTS`` to its end; stdin is empty unless given."""
        environment = self._environment_with(env)
        if not COVERAGE and warm.can_run(environment, stdin or ""):
            result = warm.run(
                [str(argument) for argument in arguments],
                environment=environment,
                folder=self.folder,
                stdin=stdin or "",
                timeout_s=timeout_s,
            )
        else:
            result = subprocess.run(
                self._command(arguments),
                env=environment,
                cwd=self.folder,
                input=stdin or "",
                capture_output=True,
                encoding="utf-8",
                timeout=timeout_s,
                check=False,
            )
        assert "--- Logging error ---" not in result.stderr, result.stderr
        return result

    def start(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None, log: Path | None = None
    ) -> subprocess.Popen[str]:
        """Start ``kiosk ARGUMENTS`` and leave it running; the test ends it. With ``log`` all it prints goes there."""
        with contextlib.nullcontext() if log is None else log.open("ab") as file:
            return subprocess.Popen(
                self._command(arguments),
                env=self._environment_with(env),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if file is None else file,
                stderr=subprocess.PIPE if file is None else file,
                encoding="utf-8",
            )

    @staticmethod
    def _command(arguments: tuple[str | Path, ...]) -> list[str]:
        return [sys.executable, "-m", "kiosk", *map(str, arguments)]

    def _environment_with(self, changes: Mapping[str, str] | None) -> dict[str, str]:
        return {**self._environment, "KIOSK_CONFIG": str(self.config), **(changes or {})}
