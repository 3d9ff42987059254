"""``kiosk camera advise``: the camera's findings on the terminal, live, until all is well or Ctrl-C."""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import click

from kiosk.commands.frames import open_frames
from kiosk.commands.options import print_json
from kiosk.config import Config
from kiosk.errors import CameraError
from kiosk.mounting import Advisor, Finding, Level
from kiosk.pipeline import build_detector, build_frame_detector, build_gate
from kiosk.ports import EndOfStream
from kiosk.quality import ENROLLMENT_GATE, PROBE_GATE

_READ_TIMEOUT_S = 0.5
# A figure that a lens is turned by must follow at once; lines that stay are written more seldom.
_SHOWN_S, _WRITTEN_S = 0.2, 2.0
_MARKS = {Level.GOOD: "ok  ", Level.POOR: "poor", Level.BAD: "BAD ", Level.OPEN: "?   "}


def advise(config: Config, *, seconds: float | None, as_json: bool) -> None:
    """Look at frames for so long (None: until Ctrl-C), and tell what to change.

    Raises:
        UnavailableError: the camera cannot be had, or sends nothing at all.
    """
    detector = build_detector(config)
    advisor = Advisor(
        build_frame_detector(detector),
        turned_detector=detector,
        gate=build_gate(config, PROBE_GATE),
        enrollment_gate=build_gate(config, ENROLLMENT_GATE),
        rotate=config.camera.rotate,
        fps=config.camera.fps if _takes_fps(config.camera.source) else None,
    )
    display = None if as_json else Display()
    findings: tuple[Finding, ...] = ()
    with open_frames(config) as camera:
        began_s = time.monotonic()
        # Ctrl-C is how it is meant to end.
        with contextlib.suppress(KeyboardInterrupt, EndOfStream):
            while time.monotonic() - began_s < (math.inf if seconds is None else seconds):
                frame = camera.read(_READ_TIMEOUT_S)
                if frame is not None:
                    findings = advisor.look(frame)
                elif camera.fault is not None or not findings:
                    findings = advisor.miss(camera.fault)
                if display is not None:
                    display.show(findings)
        lasted_s, fault = time.monotonic() - began_s, camera.fault
    if not advisor.frames:
        raise CameraError(fault or "no picture came")
    if as_json:
        print_json(
            {
                "seconds": round(lasted_s, 1),
                "frames": advisor.frames,
                "frames_with_face": advisor.frames_with_face,
                "findings": [
                    {"topic": one.topic, "level": one.level, "text": one.text, "action": one.action} for one in findings
                ],
            }
        )
    if display is not None:
        display.show(findings, last=True)


class Display:
    """All findings, written anew in their place on a terminal; elsewhere those that have changed, now and then."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._shown_s = float("-inf")
        self._rows = 0
        self._told: set[object] = set()

    def show(self, findings: Sequence[Finding], *, last: bool = False) -> None:
        """``last``: whatever was written a moment ago."""
        now_s = time.monotonic()
        if now_s - self._shown_s < (_SHOWN_S if self._terminal else _WRITTEN_S) and not last:
            return
        self._shown_s = now_s
        if self._terminal:
            self._rewrite(findings)
            return
        # The figures change with every frame: what is told again is what to do.
        changed = [one for one in findings if (one.topic, one.level, one.action) not in self._told or last]
        self._told = {(one.topic, one.level, one.action) for one in findings}
        for one in changed:
            click.echo(_line(one))

    def _rewrite(self, findings: Sequence[Finding]) -> None:
        columns = max(shutil.get_terminal_size().columns - 1, 40)
        rows: list[str] = []
        for one in findings:
            rows += _wrapped(f"{_MARKS[one.level]} {one.topic:<8} {one.text}", columns)
            rows += [] if one.action is None else _wrapped(f"{'':14}-> {one.action}", columns)
        # What stood there before is written over, row by row, and what is left of it cleared.
        up = f"\x1b[{self._rows}A" if self._rows else ""
        click.echo(f"{up}\r" + "\n".join(f"{row}\x1b[K" for row in rows) + "\n\x1b[J", nl=False)
        self._rows = len(rows)


def _wrapped(text: str, columns: int) -> list[str]:
    return textwrap.wrap(text, columns, subsequent_indent=" " * 17, drop_whitespace=False)


def _line(finding: Finding) -> str:
    action = "" if finding.action is None else f": {finding.action}"
    return f"{_MARKS[finding.level]} {finding.topic:<8} {finding.text}{action}"


def _takes_fps(source: int | str) -> bool:
    """Whether frames a second can be asked of it: a stream has its own, a file its own pace."""
    text = str(source)
    return text.isdigit() or text.startswith("picamera2") or Path(text).is_relative_to("/dev")
