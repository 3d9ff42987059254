"""What a door can show: its outputs, the rhythms they are driven in, and when its relay may move. Records only."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

MIN_STEP_MS, MAX_STEPS = 20, 16
MAX_PATTERN_MS = 15_000
"""With its repeats: nobody waits longer to be told something else."""
_PATTERN = re.compile(r"(\d{1,9}(?: +\d{1,9})*)(?: +x(\d{1,9}))?", re.ASCII)


class Sign(StrEnum):
    """What somebody at the door is told."""

    ACCEPTED = "accepted"
    """Recorded just now."""
    REPEAT = "repeat"
    """Recorded a moment ago already (the refractory period)."""
    REFUSED = "refused"
    WAIT = "wait"
    """A face is seen and being decided."""
    FAULT = "fault"
    """The kiosk cannot do its work."""


class Output(StrEnum):
    """What hangs on a pin."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    WAIT = "wait"
    FAULT = "fault"
    BUZZER = "buzzer"
    RELAY = "relay"


@dataclass(frozen=True, slots=True)
class Pattern:
    """On and off in turns, beginning with on; ``steps_ms`` last milliseconds, and all of them ``repeats`` times."""

    steps_ms: tuple[int, ...]
    repeats: int = 1

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """``150 100 x3``: three times 150 ms on and 100 ms off.

        Raises:
            ValueError: it is none, or out of bounds; the message says what is allowed.
        """
        found = _PATTERN.fullmatch(text.strip())
        if found is None:
            raise ValueError("must be milliseconds on and off in turns, like 150 100 x3 (x3: three times)")
        steps_ms, repeats = tuple(map(int, found[1].split())), int(found[2] or 1)
        if len(steps_ms) > MAX_STEPS:
            raise ValueError(f"has {len(steps_ms)} times, and at most {MAX_STEPS} are allowed")
        wrong = next((step for step in steps_ms if not MIN_STEP_MS <= step <= MAX_PATTERN_MS), None)
        if wrong is not None:
            raise ValueError(f"each time must be from {MIN_STEP_MS} to {MAX_PATTERN_MS} ms, not {wrong}")
        if not 1 <= sum(steps_ms) * repeats <= MAX_PATTERN_MS:
            raise ValueError(f"must last from {MIN_STEP_MS} to {MAX_PATTERN_MS} ms with its repeats")
        return cls(steps_ms, repeats)

    @property
    def duration_s(self) -> float:
        """Without the last off, which nobody can tell from what follows."""
        total_ms = sum(self.steps_ms) * self.repeats
        return (total_ms if len(self.steps_ms) % 2 else total_ms - self.steps_ms[-1]) / 1000

    def at(self, elapsed_s: float, *, endless: bool = False) -> tuple[bool, float]:
        """Whether it is on so long after its begin, and seconds from then until that may change (inf: never)."""
        if elapsed_s < 0:
            return False, -elapsed_s
        if endless and len(self.steps_ms) == 1:
            return True, math.inf
        if not endless and elapsed_s >= self.duration_s:
            return False, math.inf
        left_ms = elapsed_s * 1000 % sum(self.steps_ms)
        for number, step_ms in enumerate(self.steps_ms):
            if left_ms < step_ms:
                return number % 2 == 0, (step_ms - left_ms) / 1000
            left_ms -= step_ms
        # Rounding: at the very end of the last step.
        return True, 0.0


@dataclass(frozen=True, slots=True)
class OutputPin:
    """``number``: BCM, as in GPIO17. ``active_low``: on is 0 V. ``rests_on``: on unless driven (a relay that drops)."""

    number: int
    active_low: bool = False
    rests_on: bool = False


@dataclass(frozen=True, slots=True)
class RelayTerms:
    """How long the relay is driven and for what. ``events``: event types.

    ``by_code``: also for who came by PIN or badge. ``without_pad``: also for a face that nothing has told from a
    picture of one.
    """

    pulse_s: float = 3.0
    events: frozenset[str] = frozenset({"check_in"})
    by_code: bool = False
    without_pad: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """All a door has to show, and how. A sign without a sound is silent."""

    pins: Mapping[Output, OutputPin]
    lights: Mapping[Sign, Pattern]
    sounds: Mapping[Sign, Pattern]
    relay: RelayTerms = RelayTerms()


@dataclass(frozen=True, slots=True)
class Picture:
    """Which outputs are driven, and until when that holds (monotonic seconds; inf: until something happens)."""

    on: frozenset[Output]
    until_s: float
