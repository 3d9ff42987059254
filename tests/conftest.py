"""Fixtures for all tests: the command line as a user runs it, folders of test material, guards that never sleep."""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path

import pytest
from command_line import Kiosk

from kiosk import tflite

REPO = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI") == "true"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--runtime",
        choices=["auto", "litert", "tflite-runtime"],
        default="auto",
        help="the TFLite runtime that every test uses, in this process and in those it starts",
    )


def pytest_configure(config: pytest.Config) -> None:
    runtime = config.getoption("--runtime")
    if runtime != "auto":
        # "auto" means whatever is listed here: with one entry no test can slip past the choice.
        modules = tflite._MODULES
        modules.update({runtime: modules.pop(runtime)})
        for other in [name for name in modules if name != runtime]:
            del modules[other]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("convert") and importlib.util.find_spec("tensorflow") is None:
        reason = "TensorFlow is not installed: pip install -e '.[convert]'"
        if IN_CI:
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def _log_calls_are_well_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log call whose arguments do not fit its format fails the test instead of printing to stderr."""
    assert logging.raiseExceptions

    def fail(_: logging.Handler, record: logging.LogRecord) -> None:
        pytest.fail(f"bad log call at {record.pathname}:{record.lineno}: {record.msg!r} % {record.args!r}")

    monkeypatch.setattr(logging.Handler, "handleError", fail)


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def samples() -> Path:
    """The sample photos that ship with the kiosk."""
    return REPO / "kiosk" / "data" / "samples"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Measuring material that is no part of the project, beside the repository where there is any."""
    folder = REPO.parent / "shared"
    if not folder.is_dir():
        if IN_CI:
            pytest.fail(f"{folder} is missing")
        pytest.skip(f"measuring material {folder} is not on this machine")
    return folder


@pytest.fixture
def kiosk_runtime(request: pytest.FixtureRequest) -> str:
    """The runtime of ``--runtime``, as ``model.runtime`` takes it."""
    return str(request.config.getoption("--runtime"))


@pytest.fixture
def kiosk(tmp_path: Path, kiosk_runtime: str) -> Kiosk:
    return Kiosk(tmp_path, kiosk_runtime)
