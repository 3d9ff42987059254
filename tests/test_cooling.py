"""A board that is too hot has less to do, and says so."""

from __future__ import annotations

import logging

import pytest

from kiosk.cooling import BackOff


def follow(back_off: BackOff, seconds: int, *, from_s: int) -> int:
    for second in range(from_s, from_s + seconds):
        back_off.follow(second)
    return from_s + seconds


def test_steps_up_while_it_is_hot_and_back_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    reason: list[str | None] = [None]
    back_off = BackOff(lambda: reason[0])
    with caplog.at_level(logging.INFO):
        now_s = follow(back_off, 5, from_s=0)
        assert back_off.problem is None
        assert back_off.pause_s(0.2) == 0
        reason[0] = "81 °C hot"
        now_s = follow(back_off, 1, from_s=now_s)
        assert (
            back_off.problem
            == "81 °C hot: give it air or a cooler; faces are recognized at half the pace until that is over"
        )
        assert back_off.pause_s(0.2) == pytest.approx(0.4)
        assert back_off.pause_s(0.01) == pytest.approx(2 / 15)
        now_s = follow(back_off, 100, from_s=now_s)
        assert "a third of the pace" in str(back_off.problem)
        # However slow: a track outlives the pause, also with a camera of few pictures a second.
        assert back_off.pause_s(0.2) == pytest.approx(0.6)
        assert back_off.pause_s(5.0) + 1 / 5 < 1.0
        reason[0] = None
        now_s = follow(back_off, 30, from_s=now_s)
        assert "a third of the pace" in str(back_off.problem)
        now_s = follow(back_off, 40, from_s=now_s)
        assert "half the pace" in str(back_off.problem)
        now_s = follow(back_off, 70, from_s=now_s)
        assert back_off.problem is None
        assert back_off.pause_s(0.2) == 0
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "INFO", "INFO"]


def test_heat_that_comes_and_goes_does_not_swing(caplog: pytest.LogCaptureFixture) -> None:
    hot = [False]
    back_off = BackOff(lambda: "throttled" if hot[0] else None)
    with caplog.at_level(logging.INFO):
        for second in range(300):
            hot[0] = second % 20 < 5
            back_off.follow(second)
    assert len(caplog.records) == 2
