"""The code reader on real terminals: lines in, and whatever else a device may send, or stop sending."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from broker import wait_for
from hypothesis import given
from hypothesis import strategies as st

from kiosk.code_reader import _MAX_BYTES_PER_S, CodeReader, _Lines


@dataclass
class Device:
    """A terminal under a name of its own, as udev gives one, that can be unplugged and plugged in again."""

    path: Path
    heard: list[str] = field(default_factory=list)
    master: int = -1

    def plug(self) -> None:
        self.master, slave = os.openpty()
        name = os.ttyname(slave)
        os.close(slave)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(name)

    def unplug(self) -> None:
        self.path.unlink()
        os.close(self.master)
        self.master = -1

    def send(self, content: bytes) -> None:
        os.write(self.master, content)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path / "reader")
    device.plug()
    yield device
    if device.master >= 0:
        os.close(device.master)


@contextmanager
def reading(device: Device) -> Iterator[CodeReader]:
    reader = CodeReader(device.path, device.heard.append)
    reader.start()
    try:
        yield reader
    finally:
        reader.stop()
        assert not reader._thread.is_alive()


def wait_until_open(reader: CodeReader, openings: int = 1) -> None:
    wait_for(lambda: reader._openings >= openings and reader.condition.fault is None, what="the device to be open")
    # What comes before the terminal is set up does not count.
    time.sleep(0.05)


def test_lines_are_heard_however_they_end(device: Device) -> None:
    with reading(device) as reader:
        wait_until_open(reader)
        device.send(b"104-482913\r\n")
        device.send(b"04A1")
        device.send(b"B2C3D4\n0001234567\r\n\n\n")
        wait_for(lambda: len(device.heard) == 3, what="three lines")
    assert device.heard == ["104-482913", "04A1B2C3D4", "0001234567"]


def test_nothing_that_is_typed_is_shown(device: Device) -> None:
    with reading(device) as reader:
        wait_until_open(reader)
        device.send(b"104-482913\n")
        wait_for(lambda: bool(device.heard), what="the line")
        os.set_blocking(device.master, False)
        with pytest.raises(BlockingIOError):
            os.read(device.master, 1)


def test_control_characters_do_nothing(device: Device) -> None:
    """^C, ^Z, ^S, ^D, ^\\ and a NUL: no signal, no halt, no end."""
    with reading(device) as reader:
        wait_until_open(reader)
        device.send(b"\x03\x1a\x13\x04\x1c\0\n104-482913\n")
        wait_for(lambda: "104-482913" in device.heard, what="the line")


def test_what_was_typed_before_the_start_does_not_count(device: Device) -> None:
    device.send(b"104-482913\n")
    with reading(device) as reader:
        wait_until_open(reader)
        device.send(b"105-000000\n")
        wait_for(lambda: bool(device.heard), what="a line")
    assert device.heard == ["105-000000"]


def test_a_line_that_nobody_finishes_is_forgotten(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kiosk.code_reader._FORGET_AFTER_S", 0.2)
    with reading(device) as reader:
        wait_until_open(reader)
        device.send(b"104-4829")
        time.sleep(0.5)
        device.send(b"105-000000\n")
        wait_for(lambda: bool(device.heard), what="a line")
    assert device.heard == ["105-000000"]


def test_unplugged_told_and_plugged_in_again(device: Device) -> None:
    with reading(device) as reader:
        wait_until_open(reader)
        device.unplug()
        wait_for(lambda: reader.condition.fault is not None, what="the fault")
        wait_for(lambda: "is not there" in (reader.condition.fault or ""), what="the next attempt")
        device.plug()
        wait_until_open(reader, openings=2)
        device.send(b"104-482913\n")
        wait_for(lambda: bool(device.heard), what="the line")
        assert reader.condition.reconnects == 1


def test_a_device_that_is_not_there_yet_is_waited_for(device: Device) -> None:
    device.unplug()
    with reading(device) as reader:
        wait_for(lambda: reader.condition.fault is not None, what="the fault")
        assert reader.condition.fault == f"{device.path}: is not there; is the reader plugged in? (code.reader)"
        device.plug()
        wait_until_open(reader)


@pytest.mark.parametrize(
    ("path", "words"),
    [("/dev/null", "has been unplugged, or gives no lines"), (__file__, "is no device"), ("/", "is no device")],
)
def test_what_gives_no_lines_is_a_fault(path: str, words: str) -> None:
    with reading(Device(Path(path))) as reader:
        wait_for(lambda: words in (reader.condition.fault or ""), what=words)


def test_an_endless_stream_costs_neither_memory_nor_processor() -> None:
    """/dev/zero: a line without end, as fast as the kernel copies."""
    with reading(Device(Path("/dev/zero"))) as reader:
        wait_for(lambda: reader.condition.fault is None and reader._openings == 1, what="it to be open")
        memory_kib, busy_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        time.sleep(1.5)
        assert time.process_time() - busy_s < 0.2
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_kib < 4096


def test_a_flood_of_lines_comes_at_a_bounded_pace(device: Device) -> None:
    stop = threading.Event()

    def flood() -> None:
        os.set_blocking(device.master, False)
        while not stop.is_set():
            try:
                os.write(device.master, b"00000000\n" * 100)
            except BlockingIOError:
                time.sleep(0.001)

    with reading(device) as reader:
        wait_until_open(reader)
        thread = threading.Thread(target=flood)
        thread.start()
        try:
            time.sleep(1.5)
            heard = len(device.heard)
        finally:
            stop.set()
            thread.join()
            device.unplug()
    assert 0 < heard <= 3 * _MAX_BYTES_PER_S / 9


def test_a_backspace_takes_a_slip_back() -> None:
    assert _Lines().feed(b"\b\b104-49\x7f8\b82913\n") == ["104-482913"]


@given(st.lists(st.binary(max_size=600), max_size=8))
def test_lines_stay_short_whatever_comes(chunks: list[bytes]) -> None:
    lines = _Lines()
    heard = [line for chunk in chunks for line in lines.feed(chunk)]
    assert all(0 < len(line) <= 256 for line in heard)
    assert len(lines._begun) <= 256
    stream = b"".join(chunks)
    if set(b"\b\x7f") & set(stream):
        return
    wanted = stream.replace(b"\r", b"\n").split(b"\n")[:-1]
    assert heard == [line.decode("ascii", "replace") for line in wanted if 0 < len(line) <= 256]
