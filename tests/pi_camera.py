"""A Raspberry Pi's camera, as far as it can be had without one: the real helper process over a stand-in for picamera2.

Raspberry Pi OS has picamera2 in the system's Python. Here a script takes that Python's place, which adds the folder
``pi`` to what this Python can import; what the kiosk starts, says and shares with it is real.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from kiosk.biometrics import Image
from kiosk.camera import _picamera2

_MODULES = Path(__file__).resolve().parent / "pi"


class PiCamera:
    """What is plugged in. ``suffer`` and ``mend`` count from the next picture or opening on (``pi/picamera2.py``)."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self.mend()
        self.python = folder / "python3"
        self.python.write_text(
            f"#!/bin/sh\nexport PYTHONPATH={shlex.quote(str(_MODULES))} PI_CAMERA={shlex.quote(str(folder))}\n"
            f'exec {shlex.quote(sys.executable)} "$@"\n'
        )
        self.python.chmod(0o755)
        monkeypatch.setattr(_picamera2, "_PYTHON", (str(self.python),))

    def suffer(self, *faults: str) -> None:
        (self._folder / "faults").write_text(" ".join(faults))

    def mend(self) -> None:
        self.suffer()

    @property
    def asked(self) -> dict[str, Any]:
        """What the camera was configured with last."""
        asked: dict[str, Any] = json.loads((self._folder / "asked").read_text())
        return asked

    @property
    def pid(self) -> int:
        """Of the process that has the camera, or had it last."""
        return int((self._folder / "pid").read_text())

    @property
    def closed(self) -> bool:
        """Whether the camera was released in an orderly way."""
        return (self._folder / "closed").exists()


def number_in(picture: Image) -> int:
    """Which picture of the camera's this is, upright."""
    blue, green, red = (int(value) for value in picture[0, 0])
    return (blue << 16) + (green << 8) + red
