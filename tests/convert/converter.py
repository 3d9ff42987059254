"""The ``kiosk-convert`` command line, for tests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from convert.cli import run


class Command:
    """Runs ``kiosk-convert`` in this process and keeps what it wrote."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *arguments: object) -> int:
        code = run([str(argument) for argument in arguments])
        self.out, self.err = self._capsys.readouterr()
        return code

    def fails(self, *arguments: object) -> tuple[int, str]:
        """The exit code and the one line told; fails the test where it is not one line."""
        code = self(*arguments)
        told = [line for line in self.err.splitlines() if line.startswith("kiosk-convert: ")]
        assert len(told) == 1, self.err
        assert "Traceback" not in self.err
        assert "internal error" not in self.err
        return code, told[0]

    def json(self) -> Any:
        return json.loads(self.out)
