"""Shared by the converter's tests."""

from __future__ import annotations

import fcntl
import sys
from pathlib import Path

import pytest
from converter import Command

from convert.cli import run


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture(scope="session")
def dat_file() -> Path:
    """dlib's network as its package installs it."""
    from convert.recipes import DLIB_RESNET29
    from convert.weights import fetch

    return fetch(DLIB_RESNET29.files[0], Path(sys.prefix) / "unused")


@pytest.fixture(scope="session")
def pad_weights(shared: Path) -> Path:
    """The folder of the published networks of presentation attack detection."""
    return shared / "weights"


@pytest.fixture(scope="session")
def pad_bundles(pad_weights: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Both variants, built as a user would, once for all processes that share the tests: to be copied, not changed."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "pad-bundles"
    folder.mkdir(exist_ok=True)
    out = folder / "out"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not out.exists():
            assert run(["build", "pad", "--weights", str(pad_weights), "--out", str(out)]) == 0
    return out
