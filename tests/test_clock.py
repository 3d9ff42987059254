import re
import time
from pathlib import Path

import pytest

from kiosk import clock
from kiosk.clock import SystemClock


def test_boottime_moves_on_and_utc_is_the_systems() -> None:
    system = SystemClock()
    before = system.boottime_s()
    assert system.boottime_s() >= before > 0
    assert abs(system.utc_ms() - time.time() * 1000) < 1000


def test_boot_id_stays_and_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KIOSK_BOOT_ID", raising=False)
    assert SystemClock().boot_id() == SystemClock().boot_id()
    assert re.fullmatch(r"[0-9a-f-]{36}", SystemClock().boot_id())
    monkeypatch.setenv("KIOSK_BOOT_ID", "given")
    assert SystemClock().boot_id() == "given"


def test_boot_id_is_empty_where_it_is_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KIOSK_BOOT_ID", raising=False)
    monkeypatch.setattr(clock, "_KERNEL_BOOT_ID", tmp_path / "hidden")
    assert SystemClock().boot_id() == ""


def test_timesyncd_marks_a_synchronized_clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mark = tmp_path / "synchronized"
    monkeypatch.setattr(clock, "_TIMESYNCD_MARK", mark)
    monkeypatch.setattr(clock, "_kernel_synchronized", lambda: False)
    assert not SystemClock().synchronized()
    mark.touch()
    assert SystemClock().synchronized()


def test_kernel_answers_with_a_truth_value() -> None:
    assert clock._kernel_synchronized() in {True, False}
