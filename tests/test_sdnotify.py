"""The notifier against a real datagram socket."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiosk.sdnotify import Heartbeat, Notifier, watchdog_interval_s


@pytest.fixture
def address() -> Iterator[str]:
    """A socket's path may have 107 bytes: pytest's folders can be longer."""
    with tempfile.TemporaryDirectory(prefix="k-") as folder:
        yield f"{folder}/notify"


@pytest.fixture
def supervisor(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(address)
        server.setblocking(False)
        yield server


def _received(server: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(server.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_life_of_a_service(supervisor: socket.socket, address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.status("opening the camera")
    notifier.ready()
    notifier.status("watching;\n3 subjects")
    notifier.stopping()
    assert _received(supervisor) == [
        "STATUS=opening the camera",
        "READY=1",
        "STATUS=watching; 3 subjects",
        "STOPPING=1",
    ]


def test_abstract_socket() -> None:
    name = f"kiosk-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(f"\0{name}")
        server.setblocking(False)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert _received(server) == ["READY=1"]


def test_watchdog_is_not_fed_more_than_needed(supervisor: socket.socket, address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000"})
    for _ in range(1000):
        notifier.watchdog(Heartbeat())
    assert _received(supervisor) == ["WATCHDOG=1"]

    impatient = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1"})
    for _ in range(3):
        impatient.watchdog(Heartbeat())
    assert _received(supervisor) == ["WATCHDOG=1"] * 3


def test_watchdog_is_fed_only_when_every_part_gets_on(
    supervisor: socket.socket, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    heartbeat = Heartbeat("capture", "recognition")
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"})
    for _ in range(3):
        heartbeat.beat("capture")
        time.sleep(0.002)
        notifier.watchdog(heartbeat)
    assert _received(supervisor) == []
    # Said once, not at every look.
    assert [record.getMessage() for record in caplog.records] == [
        "no sign of life from recognition: the watchdog is not fed"
    ]
    heartbeat.beat("recognition")
    notifier.watchdog(heartbeat)
    assert _received(supervisor) == ["WATCHDOG=1"]
    # Both must get on again before the next time.
    time.sleep(0.002)
    heartbeat.beat("recognition")
    notifier.watchdog(heartbeat)
    assert _received(supervisor) == []
    assert heartbeat.missing() == ["capture"]


def test_nobody_beats_for_a_part_that_is_not_watched() -> None:
    with pytest.raises(ValueError, match="publishr: none of capture, publisher"):
        Heartbeat("capture", "publisher").beat("publishr")


def test_without_a_watchdog_nothing_is_fed(supervisor: socket.socket, address: str) -> None:
    Notifier({"NOTIFY_SOCKET": address}).watchdog(Heartbeat())
    assert _received(supervisor) == []


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
    ],
)
def test_watchdog_interval(environ: dict[str, str], interval_s: float | None) -> None:
    assert watchdog_interval_s(environ) == interval_s


@pytest.mark.parametrize("variable", ["", "vsock:2:1234", "relative/path"])
def test_no_supervisor_no_message(variable: str, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": variable, "WATCHDOG_USEC": "1000"})
    notifier.ready()
    notifier.watchdog(Heartbeat())
    assert not caplog.records


def test_environment_of_the_process(supervisor: socket.socket, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    Notifier().ready()
    assert _received(supervisor) == ["READY=1"]


def test_dead_supervisor_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    assert "READY" in caplog.text
