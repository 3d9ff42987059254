"""What ``kiosk check`` says of the computer: one line, with what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_board import raspberry_pi, write

from kiosk.board import Board
from kiosk.commands.computer import ask_daemon, judge_heat, judge_power, judge_storage
from kiosk.config import Config

SEEN = {"undervoltage_seen": True, "throttled_seen": True}
WELL = {"undervoltage_seen": False, "throttled_seen": False}


def test_power(tmp_path: Path) -> None:
    assert "does not tell" in judge_power(Board(tmp_path), {}).message
    good = Board(raspberry_pi(tmp_path))
    assert judge_power(good, {}).well
    assert "only a running kiosk" in judge_power(good, {}).message
    assert judge_power(good, WELL).message == "the supply voltage is good since the kiosk was started"
    before = judge_power(good, SEEN)
    assert (before.well, "short cable" in before.message) == (False, True)
    weak = judge_power(Board(raspberry_pi(tmp_path, alarm="1")), WELL)
    assert (weak.well, "is too low" in weak.message) == (False, True)


def test_heat(tmp_path: Path) -> None:
    assert "does not tell" in judge_heat(Board(tmp_path), {}).message
    cool = Board(raspberry_pi(tmp_path))
    assert judge_heat(cool, WELL).message == "51 °C"
    assert not judge_heat(cool, SEEN).well
    hot = judge_heat(Board(raspberry_pi(tmp_path, temperature="84000")), {})
    assert (hot.well, hot.message) == (
        False,
        "the processor is at 84 °C: give it air or a cooler, keep it out of the sun",
    )


def test_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, store = raspberry_pi(tmp_path / "root"), tmp_path / "not" / "yet" / "kiosk.db"
    config = Config.model_validate({"store": {"path": str(store)}})
    free = [64 << 30]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 0, free[0]))  # type: ignore[attr-defined]
    judged = judge_storage(Board(root), config)
    assert judged.well
    assert judged.message == "64.0 GiB free; mmcblk0: SD tells nothing of its wear; 0 file system errors"
    write(root, **{"sys/fs/ext4/mmcblk0p2/errors_count": "3"})
    free[0] = 100 << 20
    judged = judge_storage(Board(root), config)
    assert not judged.well
    assert "3 errors on the file system mmcblk0p2" in judged.message
    assert "only 100 MiB are free" in judged.message


def test_without_a_daemon_nobody_is_asked(tmp_path: Path) -> None:
    assert ask_daemon(Config.model_validate({"store": {"path": str(tmp_path / "kiosk.db")}})) == {}
