"""Shared by the converter's tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from converter import Command


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture(scope="session")
def dat_file() -> Path:
    """dlib's network as its package installs it."""
    from convert.recipes import DLIB_RESNET29
    from convert.weights import fetch

    return fetch(DLIB_RESNET29.files[0], Path(sys.prefix) / "unused")
