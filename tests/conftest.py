"""Fixtures for all tests: the command line as a user runs it, folders of test material, guards that never sleep."""

from __future__ import annotations

import fcntl
import importlib
import importlib.util
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import command_line
import pytest
from command_line import Kiosk
from runner import enroll_people

from kiosk import tflite
from kiosk.store import Store

# jsonschema builds 39 parsers with it for formats that no document here has: seconds in each of the tests' processes.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

REPO = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI") == "true"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--runtime",
        choices=["auto", "litert", "tflite-runtime"],
        default="auto",
        help="the TFLite runtime that every test uses, in this process and in those it starts",
    )
    parser.addoption(
        "--home-assistant",
        metavar="PYTHON",
        help="a Python with Home Assistant, to be shown the kiosk: `just home-assistant`",
    )


def pytest_configure(config: pytest.Config) -> None:
    runtime = config.getoption("--runtime")
    if runtime != "auto":
        try:
            importlib.import_module(tflite._MODULES[runtime])
        except ImportError as error:
            raise pytest.UsageError(f"--runtime {runtime}: {error}") from error
        # "auto" takes the first that is installed: no test slips past the choice by not making one.
        tflite._MODULES = {runtime: tflite._MODULES[runtime], **tflite._MODULES}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("convert") and importlib.util.find_spec("tensorflow") is None:
        reason = "TensorFlow is not installed: pip install -e '.[convert]'"
        if IN_CI:
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def _only_the_command_line_is_measured() -> None:
    """Coverage starts in every Python process; in those that a test starts by itself it would only be in the way."""
    for name in [name for name in os.environ if name.startswith("COVERAGE_PROCESS")]:
        command_line.COVERAGE[name] = os.environ.pop(name)


@pytest.fixture(autouse=True)
def _logging_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test configures ends with it. A log call that cannot be written fails the test."""
    assert logging.raiseExceptions

    def fail(_: logging.Handler, record: logging.LogRecord) -> None:
        problem = sys.exc_info()[1]
        pytest.fail(f"log call at {record.pathname}:{record.lineno}: {record.msg!r} % {record.args!r}: {problem!r}")

    monkeypatch.setattr(logging.Handler, "handleError", fail)
    levels = {logger: logger.level for logger in (logging.root, logging.getLogger("kiosk"))}
    handlers = logging.root.handlers[:]
    yield
    for handler in logging.root.handlers[:]:
        # pytest's own change from phase to phase of a test.
        if handler not in handlers and type(handler).__module__ != "_pytest.logging":
            logging.root.removeHandler(handler)
    for logger, level in levels.items():
        logger.setLevel(level)


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


@pytest.fixture(scope="session")
def own_address() -> str:
    """An IPv4 address of this machine that is not loopback: to the kiosk that of another machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing, only chooses the interface
        except OSError:
            pytest.skip("this machine has no network but loopback")
        address: str = probe.getsockname()[0]
    return address


@pytest.fixture(scope="session")
def runtime(request: pytest.FixtureRequest) -> tflite.Runtime:
    """What ``--runtime`` says, as ``model.runtime`` and the interpreter take it."""
    chosen: tflite.Runtime = request.config.getoption("--runtime")
    return chosen


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test's store is, or will be."""
    return tmp_path / "kiosk.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """An empty store, open for writing."""
    with Store.open(path) as store:
        yield store


@pytest.fixture
def kiosk(tmp_path: Path, runtime: tflite.Runtime) -> Kiosk:
    return Kiosk(tmp_path, runtime)


@pytest.fixture(scope="session")
def _home(tmp_path_factory: pytest.TempPathFactory, worker_id: str, runtime: tflite.Runtime, samples: Path) -> Kiosk:
    """Two people enrolled, once for all processes that share the tests: to be copied, not changed."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "home"
    folder.mkdir(exist_ok=True)
    with (folder / "turn").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        kiosk = Kiosk(folder, runtime)
        if not (folder / "enrolled").exists():
            enroll_people(kiosk, samples)
            (folder / "enrolled").touch()
    return kiosk
