"""What the door shows at any moment: from what the kiosk has decided, and what is wrong with it, to its outputs.

Pure but for the monotonic clock. Nothing here knows the broker: the sign is given where the check-in was committed.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kiosk.biometrics import FaceReport, Reason
from kiosk.events import AttendanceEvent, Method, Problem
from kiosk.signs import Output, Pattern, Picture, Plan, RelayTerms, Sign

log = logging.getLogger(__name__)

LATE_S = 5.0
"""A check-in that was stored so long after the person was seen moves no relay: somebody else may stand there by now."""
DOOR_FAULTS = frozenset({"camera", "reader", "store"})
"""Parts whose problems keep somebody from checking in, or soon will. While the broker is away check-ins are stored."""

_WAIT_S = 2.0
# Between two signs of the same kind, so that the second is seen to be one.
_GAP_S = 0.15
# What waited for longer behind acceptances tells the next person nothing.
_STALE_S = 4.0
_REMEMBERED_TRACKS = 256
# Somebody walks past: not meant, and nothing to be told.
_UNTOLD = frozenset({Reason.NO_FACE, Reason.TOO_SMALL})
# A look the kiosk could not use: the light says so, and nobody is beeped at for turning the head.
_UNHEARD = frozenset(
    {Reason.BLURRED, Reason.TOO_DARK, Reason.TOO_BRIGHT, Reason.LOW_CONTRAST, Reason.TURNED, Reason.UNCLEAR}
)


@dataclass(frozen=True, slots=True)
class _Shown:
    sign: Sign
    heard: bool
    begins_s: float
    ends_s: float


class Feedback:
    """Takes what happens from the main thread; tells any thread what the outputs are to be.

    ``guarded``: pictures of faces are refused before they become check-ins. ``on_change`` is called when :meth:`at` may
    say something else than before.
    """

    def __init__(self, plan: Plan, *, guarded: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._plan = plan
        self._guarded = guarded
        self._clock = clock
        self._lock = threading.Lock()
        self._shown: _Shown | None = None
        self._next: tuple[Sign, bool, float] | None = None
        self._waiting_until_s = -math.inf
        self._waiting_since_s = -math.inf
        self._told_tracks: dict[int | None, None] = {}
        self._faults: frozenset[str] = frozenset()
        self._fault_since_s = 0.0
        self._relay_until_s = -math.inf
        # Where nothing would show it, nothing has to wake up for it.
        self._shows_waiting = Output.WAIT in plan.pins or (Output.BUZZER in plan.pins and Sign.WAIT in plan.sounds)
        self.on_change: Callable[[], None] = lambda: None

    def accepted(self, event: AttendanceEvent, *, age_s: float) -> None:
        """``event`` has been committed, ``age_s`` seconds after its person was seen."""
        terms = self._plan.relay if Output.RELAY in self._plan.pins else None
        why_not = None if terms is None else _why_not(terms, event, age_s, guarded=self._guarded)
        if why_not:
            log.warning("the relay stays off for event %s: %s", event.seq, why_not)
        with self._lock:
            now_s = self._clock()
            self._begin(Sign.ACCEPTED, now_s)
            if terms is not None and why_not is None:
                self._relay_until_s = now_s + terms.pulse_s
        self.on_change()

    def repeated(self) -> None:
        """Somebody is here whose check-in is committed already, a moment ago."""
        self._tell(Sign.REPEAT)

    def refused(self, reason: Reason | None) -> None:
        """Somebody was turned away; None: known, but the check-in could not be stored."""
        if reason not in _UNTOLD:
            self._tell(Sign.REFUSED, heard=reason not in _UNHEARD)

    def show(self, reports: Sequence[FaceReport]) -> None:
        """The faces of a frame, after what is final among them has been acted upon."""
        deciding = False
        for report in reports:
            if report.final:
                self._told_tracks[report.track_id] = None
            elif report.track_id not in self._told_tracks and report.decision.reason not in _UNTOLD:
                deciding = True
        while len(self._told_tracks) > _REMEMBERED_TRACKS:
            del self._told_tracks[next(iter(self._told_tracks))]
        self._wait(deciding=deciding)

    def tell_problems(self, problems: Iterable[Problem]) -> None:
        """All that is wrong at the moment; what is not among them is well again."""
        faults = frozenset(problem.part for problem in problems) & DOOR_FAULTS
        if faults == self._faults:
            return
        with self._lock:
            if not self._faults:
                self._fault_since_s = self._clock()
            self._faults = faults
        if "camera" in faults:
            self._wait(deciding=False)
        self.on_change()

    def forget_pulse(self) -> None:
        """What moves the relay could not: once it can again, somebody else may stand there."""
        with self._lock:
            self._relay_until_s = -math.inf

    def try_out(self, what: Sign | Output) -> None:
        """Show a sign, or move the relay, for whoever is wiring the box."""
        with self._lock:
            now_s = self._clock()
            if what is Output.RELAY:
                self._relay_until_s = now_s + self._plan.relay.pulse_s
            elif what is Sign.WAIT:
                self._waiting_since_s, self._waiting_until_s = now_s, math.inf
            elif what is Sign.FAULT:
                self._faults, self._fault_since_s = frozenset({"test"}), now_s
            else:
                self._begin(Sign(what), now_s)
        self.on_change()

    def at(self, now_s: float) -> Picture:
        """What the outputs are to be at ``now_s`` (monotonic seconds, never before an earlier call's)."""
        with self._lock:
            self._advance(now_s)
            return self._draw(now_s)

    def _tell(self, sign: Sign, *, heard: bool = True) -> None:
        """Show it now, or behind an acceptance that has not been seen in full."""
        with self._lock:
            now_s = self._clock()
            self._advance(now_s)
            if self._shown is None:
                self._begin(sign, now_s, heard=heard)
            elif self._shown.sign is not sign:
                self._next = sign, heard, now_s
        self.on_change()

    def _begin(self, sign: Sign, now_s: float, *, heard: bool = True) -> None:
        self._advance(now_s)
        begins_s = now_s if self._shown is None else now_s + _GAP_S
        patterns = [self._plan.lights[sign], *([self._plan.sounds[sign]] if sign in self._plan.sounds else [])]
        self._shown = _Shown(sign, heard, begins_s, begins_s + max(pattern.duration_s for pattern in patterns))

    def _advance(self, now_s: float) -> None:
        """Drop what has been shown; begin what waited for that."""
        if self._shown is None or now_s < self._shown.ends_s:
            return
        waited, self._shown, self._next = self._next, None, None
        if waited is not None and now_s - waited[2] <= _STALE_S:
            sign, heard, _ = waited
            self._begin(sign, now_s, heard=heard)

    def _wait(self, *, deciding: bool) -> None:
        with self._lock:
            now_s = self._clock()
            before = now_s < self._waiting_until_s
            self._waiting_until_s = now_s + _WAIT_S if deciding else -math.inf
            if deciding and not before:
                self._waiting_since_s = now_s
        if deciding != before:
            self.on_change()

    def _draw(self, now_s: float) -> Picture:
        on: set[Output] = set()
        until_s = math.inf
        for output, pattern, begins_s, endless in self._playing(now_s):
            if output not in self._plan.pins:
                continue
            lit, change_s = pattern.at(now_s - begins_s, endless=endless)
            until_s = min(until_s, now_s + change_s)
            if lit:
                on.add(output)
        if self._shown is not None:
            until_s = min(until_s, self._shown.ends_s)
        if now_s < self._waiting_until_s and self._shows_waiting:
            until_s = min(until_s, self._waiting_until_s)
        if now_s < self._relay_until_s:
            on.add(Output.RELAY)
            until_s = min(until_s, self._relay_until_s)
        return Picture(frozenset(on), until_s)

    def _playing(self, now_s: float) -> Iterable[tuple[Output, Pattern, float, bool]]:
        """What plays where: output, pattern, when it began, whether it goes on until something ends it."""
        lights, sounds, shown = self._plan.lights, self._plan.sounds, self._shown
        waiting = now_s < self._waiting_until_s
        if shown is not None:
            light = Output.REFUSED if shown.sign is Sign.REFUSED else Output.ACCEPTED
            yield light, lights[shown.sign], shown.begins_s, False
            if shown.heard and shown.sign in sounds:
                yield Output.BUZZER, sounds[shown.sign], shown.begins_s, False
        elif waiting:
            yield Output.WAIT, lights[Sign.WAIT], self._waiting_since_s, True
        if self._faults:
            # A box without a light for it says so with the red one, while that has nothing else to say.
            light = Output.FAULT if Output.FAULT in self._plan.pins else Output.REFUSED
            if light is Output.FAULT or shown is None:
                yield light, lights[Sign.FAULT], self._fault_since_s, True
        if shown is None and self._faults and Sign.FAULT in sounds:
            yield Output.BUZZER, sounds[Sign.FAULT], self._fault_since_s, True
        elif shown is None and waiting and Sign.WAIT in sounds:
            yield Output.BUZZER, sounds[Sign.WAIT], self._waiting_since_s, True


def describe_relay(plan: Plan, *, guarded: bool, pad: str) -> tuple[bool, str] | None:
    """Whether the relay does what was meant and no picture opens the door, and that in words; None: there is none.

    ``guarded``, ``pad``: whether pictures of faces are refused, and in words by what or why not.
    """
    if Output.RELAY not in plan.pins:
        return None
    terms = plan.relay
    told = f"the relay is driven for {terms.pulse_s:g} s at {', '.join(sorted(terms.events))}"
    codes = ", by PIN or badge, too" if terms.by_code else ""
    if guarded:
        return True, f"{told}{codes}"
    if terms.without_pad:
        return False, f"{told}{codes}, and A PHOTO MAY OPEN THE DOOR (feedback.relay.without_pad): {pad}"
    rest = "; it is driven for PINs and badges" if terms.by_code else ""
    return False, f"the relay stays off for faces: {pad}; feedback.relay.without_pad drives it all the same{rest}"


def _why_not(terms: RelayTerms, event: AttendanceEvent, age_s: float, *, guarded: bool) -> str | None:
    """Why this event does not move the relay, None if it does; empty where that is as it was configured."""
    if event.event_type not in terms.events or event.replayed:
        return ""
    if event.method is Method.CODE and not terms.by_code:
        return ""
    if event.method is Method.FACE and not terms.without_pad and not (guarded and event.pad.passed):
        return "nothing has told this face from a picture of one (feedback.relay.without_pad)"
    if age_s > LATE_S:
        return f"it was stored {age_s:.1f} s after the person was seen"
    return None
