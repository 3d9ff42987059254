"""Writes into a wheel or source archive which commit it was built from, for ``kiosk --version``."""

from __future__ import annotations

import os
import runpy
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface):  # type: ignore[type-arg]
    """Leaves out what it does not know; an editable installation asks git itself."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        find_commit = runpy.run_path(str(root / "kiosk" / "build.py"))["find_commit"]
        # The Debian package is built from a copy without git.
        commit = os.environ.get("KIOSK_COMMIT") or find_commit(root)
        if commit and version != "editable":
            self._folder = tempfile.TemporaryDirectory()
            stamp = Path(self._folder.name) / "commit.txt"
            stamp.write_text(f"{commit}\n", encoding="utf-8")
            build_data["force_include"][str(stamp)] = "kiosk/commit.txt"

    def finalize(self, *_: object) -> None:
        if hasattr(self, "_folder"):
            self._folder.cleanup()
