"""Empties the outbox into the broker: in order of ``seq``, at least once, a few messages in flight at a time.

A refused event is tried again and holds up those behind it; nothing is ever dropped, for the consumer proves
completeness by ``seq``. Only an event that keeps breaking connections, or that is larger than the broker takes, is set
aside (parked), so that it cannot hold up all others; it is tried again as soon as another one has gone through (it may
have been the broker's fault), and now and then afterwards. When everything new has been sent, what somebody asked for
again is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from pydantic import ValidationError

from kiosk.errors import KioskError
from kiosk.events import ReplayCommand, encode, nameless
from kiosk.ports import Broker, Clock, Command, Message, Outbox, OutboxRow, Outcome, Receipt, ReplayBatch

log = logging.getLogger(__name__)

_BACKOFF_MIN_S = 0.5
_BACKOFF_MAX_S = 15.0
# A subscriber that appears must get the next check-in while the person still stands at the door.
_NO_SUBSCRIBER_BACKOFF_S = 2.0
_IDLE_POLL_S = 60.0
"""Only a safety net: whoever writes to the outbox and whoever connects sets the wake event."""
_BEAT_S = 1.0
"""How often a resting thread gives a sign of life."""
_LATE_S = 10.0
_SIDE_CHANNEL_LENGTH = 32
_WINDOW = 20
"""Messages in flight while all goes well; one after a failure, for those sent behind a refused event overtake it."""
_BREATH_S = 0.02
"""Between full windows: a backlog leaves processor and store to whoever stands at the door, half of the time."""
_BREAKS_TO_PARK = 3
_PARKED_RETRY_MIN_S = 600.0
_PARKED_RETRY_MAX_S = 86_400.0
_MAX_COMMANDS = 16
_MAX_COMMAND_BYTES = 4096
_TOLD_S = 3600.0
"""Whoever floods us with commands shall not fill the log: of each kind of line so many within this time."""
_OBEYED_TOLD = 10


@dataclass(slots=True)
class _Suspect:
    """The event in hand when connections broke, and how often in a row."""

    seq: int = 0
    breaks: int = 0

    def breaks_connections(self, seq: int, outcome: Outcome) -> bool:
        """Whether this event has broken so many connections that it has to be set aside."""
        if outcome is Outcome.BROKE:
            self.breaks = self.breaks + 1 if seq == self.seq else 1
            self.seq = seq
        elif outcome is not Outcome.LOST:
            self.breaks = 0
        return self.breaks >= _BREAKS_TO_PARK


class _Told:
    """When lines of each kind were written last."""

    def __init__(self) -> None:
        self._times_s: dict[str, deque[float]] = {}

    def again(self, kind: str, most: int = 1) -> bool:
        """Whether one more may be written: at most so many within an hour."""
        times_s = self._times_s.setdefault(kind, deque(maxlen=most))
        now_s = time.monotonic()
        if len(times_s) == most and now_s - times_s[0] < _TOLD_S:
            return False
        times_s.append(now_s)
        return True


class Publisher:
    """The sending thread.

    ``wake`` is set by others after a commit and when the broker's connection comes or goes. ``beat`` is called while
    the thread gets on: before each message, and about every second while there is none. ``include_names``: send the
    names that events hold; otherwise those committed while that was allowed go without them, too.
    """

    def __init__(
        self,
        outbox: Outbox,
        broker: Broker,
        *,
        wake: threading.Event,
        clock: Clock,
        beat: Callable[[], None] = lambda: None,
        include_names: bool = False,
    ) -> None:
        self._outbox = outbox
        self._broker = broker
        self._wake = wake
        self._clock = clock
        self._beat = beat
        self._include_names = include_names
        self._side: deque[tuple[float, str, Mapping[str, Any]]] = deque(maxlen=_SIDE_CHANNEL_LENGTH)
        self._commands: deque[Command] = deque(maxlen=_MAX_COMMANDS)
        self._stopping = threading.Event()
        self._idle = threading.Event()
        self._was_connected = False
        self._backoff_s = _BACKOFF_MIN_S
        self._retry_at = 0.0
        self._window = 1
        self._behind = False
        """The last window was full: there is more."""
        self._suspect = _Suspect()
        self._parked_retry_s = _PARKED_RETRY_MIN_S
        self._next_parked_at = 0.0
        self._parked_is_new = False
        self._last_outcome = Outcome.SENT
        self._last_problem = ""
        self._told = _Told()
        self._offered_seq = 0
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        return self._broker.connected

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """End the thread. What it did not get to stays in the outbox."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def drain(self, timeout_s: float) -> bool:
        """Wait until the outbox is empty; False when it is not after ``timeout_s``, or cannot be read."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._idle.clear()
            try:
                # What nobody is connected to hear is of no interest after the end.
                if self._outbox.next_pending() is None and not (self._side and self._broker.connected):
                    return True
            except KioskError as error:
                self._tell(f"the outbox cannot be read: {error}")
                return False
            self._wake.set()
            if not self._idle.wait(max(0.0, deadline - time.monotonic())):
                return False

    def offer(self, topic: str, document: Mapping[str, Any]) -> None:
        """Send something of passing interest, once, if there is a connection within the next seconds."""
        self._side.append((time.monotonic(), topic, document))
        self._wake.set()

    def obey(self, command: Command) -> None:
        """Take a wish from the broker. Callable from any thread; of a flood the newest few are heard.

        Of one that is too long only so much waits as shows that it is: a few large ones shall not fill the memory.
        """
        self._commands.append(replace(command, payload=command.payload[: _MAX_COMMAND_BYTES + 1]))
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                pause_s = self._step()
            except KioskError as error:
                self._tell(f"the outbox cannot be used: {error}")
                pause_s = self._back_off()
            except Exception:  # the thread must outlive a defect; check-ins keep being committed meanwhile
                log.exception("sending failed unexpectedly")
                pause_s = self._back_off()
            self._rest(pause_s)

    def _rest(self, pause_s: float) -> None:
        """Wait to be woken, showing that a thread which waits is not one that hangs."""
        deadline_s = time.monotonic() + pause_s
        self._beat()
        while not self._wake.wait(max(0.0, min(_BEAT_S, deadline_s - time.monotonic()))):
            if time.monotonic() >= deadline_s:
                return
            self._beat()

    def _step(self) -> float:
        """Send what can be sent now; how long to sleep if nobody wakes us."""
        self._note_connection()
        if not self._was_connected:
            return _IDLE_POLL_S
        while not self._stopping.is_set():
            self._send_side_channel()
            self._hear_commands()
            wait_s = self._retry_at - time.monotonic()
            if wait_s > 0:
                return wait_s
            self._beat()
            went_well = self._send_something()
            if went_well is None:
                # Who knows who listens when the next event comes.
                self._window = 1
                return min(_IDLE_POLL_S, max(1.0, self._next_parked_at - time.monotonic()))
            if not went_well:
                return self._back_off()
            if self._behind:
                self._stopping.wait(_BREATH_S)
        return 0.0

    def _send_something(self) -> bool | None:
        """New events first, then what was asked for again, then what was set aside. None: there is nothing."""
        pending = self._outbox.lend_pending(self._window)
        if pending:
            return self._send(pending)
        self._idle.set()
        replay = self._outbox.next_replay(self._window)
        if replay is not None:
            return self._send_again(replay)
        if time.monotonic() >= self._next_parked_at:
            return self._try_parked()
        return None

    def _note_connection(self) -> None:
        connected = self._broker.connected
        # A message that breaks the connection must not be retried at the pace of reconnecting.
        if connected and not self._was_connected and self._last_outcome not in {Outcome.LOST, Outcome.BROKE}:
            self._backoff_s = _BACKOFF_MIN_S
            self._retry_at = 0.0
        if connected and not self._was_connected:
            self._window = 1
        self._was_connected = connected

    def _send(self, rows: Sequence[OutboxRow]) -> bool:
        receipts = self._publish(rows, [self._is_late(row) for row in rows])
        sent = [row.seq for row, receipt in zip(rows, receipts, strict=False) if receipt.outcome is Outcome.SENT]
        if sent:
            self._outbox.mark_sent(sent)
        failed = _first_failure(rows, receipts)
        if failed is None:
            self._note_progress()
            return True
        row, receipt = failed
        # With several in flight nobody knows which one it was.
        breaks = len(rows) == 1 and self._suspect.breaks_connections(row.seq, receipt.outcome)
        aside = breaks or receipt.outcome is Outcome.TOO_LARGE
        self._tell(f"event {row.seq} {'is set aside' if aside else 'stays in the outbox'}: {receipt.detail}")
        self._outbox.mark_failed(row.seq, receipt.detail, park=aside)
        if aside:
            self._suspect.breaks = 0
            self._parked_retry_s = _PARKED_RETRY_MIN_S
            self._next_parked_at = time.monotonic() + _PARKED_RETRY_MIN_S
            self._parked_is_new = breaks
        return False

    def _send_again(self, replay: ReplayBatch) -> bool:
        if not replay.rows:
            self._outbox.advance_replay(replay.command_id, None)
            if self._told.again("done", _OBEYED_TOLD):
                log.info("replay %s: done", replay.command_id)
            return True
        receipts = self._publish(replay.rows, [True] * len(replay.rows))
        sent = len(list(takewhile(lambda receipt: receipt.outcome is Outcome.SENT, receipts)))
        failed = _first_failure(replay.rows, receipts)
        if failed is not None:
            row, receipt = failed
            self._tell(f"replay of event {row.seq}: {receipt.detail}")
            breaks = len(replay.rows) == 1 and self._suspect.breaks_connections(row.seq, receipt.outcome)
            if breaks or receipt.outcome is Outcome.TOO_LARGE:
                sent += 1  # it cannot be had; go on behind it
                self._suspect.breaks = 0
        if sent:
            last = replay.rows[sent - 1].seq
            self._outbox.advance_replay(replay.command_id, last + 1)
            if last >= replay.to_seq:
                log.info("replay %s: done", replay.command_id)
        if failed is None:
            self._note_progress()
        return failed is None

    def _try_parked(self) -> bool | None:
        """One attempt with the oldest event set aside, at ever longer intervals."""
        self._next_parked_at = time.monotonic() + self._parked_retry_s
        row = self._outbox.next_parked()
        if row is None:
            return None
        (receipt,) = self._publish([row], [True])
        if receipt.outcome is Outcome.SENT:
            self._outbox.mark_sent([row.seq])
            self._parked_retry_s, self._next_parked_at = _PARKED_RETRY_MIN_S, 0.0
            return True
        # Only the event's own fault makes the next try later.
        if receipt.outcome in {Outcome.BROKE, Outcome.TOO_LARGE}:
            self._parked_retry_s = min(self._parked_retry_s * 2, _PARKED_RETRY_MAX_S)
        self._outbox.mark_failed(row.seq, receipt.detail)
        return False

    def _publish(self, rows: Sequence[OutboxRow], replayed: Sequence[bool]) -> list[Receipt]:
        messages = [
            Message(row.topic, encode({**self._allowed(row.payload), "replayed": late}))
            for row, late in zip(rows, replayed, strict=True)
        ]
        self._behind = len(rows) == _WINDOW
        offered_before = self._offered_seq
        self._offered_seq = max(offered_before, rows[-1].seq)
        receipts = self._broker.publish(messages)
        # Those behind a message that cannot be sent were not tried.
        self._offered_seq = max(offered_before, rows[len(receipts) - 1].seq)
        if receipts[0].outcome is Outcome.SENT:
            self._note_passage()
        failed = _first_failure(rows, receipts)
        if failed is None:
            self._last_outcome = Outcome.SENT
            self._window = _WINDOW
        else:
            self._last_outcome = failed[1].outcome
            self._window = 1
        return receipts

    def _allowed(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        return event if self._include_names else nameless(event)

    def _note_progress(self) -> None:
        """Sent, and noted as sent: a store that cannot note it must not make us send it without a pause."""
        self._backoff_s = _BACKOFF_MIN_S
        self._last_problem = ""

    def _note_passage(self) -> None:
        """A message went through: the way is free, for what was set aside as well."""
        self._suspect.breaks = 0
        if self._parked_is_new:
            self._parked_is_new, self._next_parked_at = False, 0.0

    def _is_late(self, row: OutboxRow) -> bool:
        """Offered before, left over from an earlier process, or too old for a door to open."""
        if not row.fresh or row.seq <= self._offered_seq:
            return True
        return self._clock.boottime_s() - row.committed_boottime_s > _LATE_S

    def _send_side_channel(self) -> None:
        while self._side and self._broker.connected:
            offered_at, topic, document = self._side.popleft()
            if time.monotonic() - offered_at <= _LATE_S:
                (receipt,) = self._broker.publish([Message(topic, encode(document))])
                log.debug("%s: %s", topic, receipt.outcome)

    def _hear_commands(self) -> None:
        for _ in range(len(self._commands)):
            command = self._commands.popleft()
            try:
                self._hear(command)
            except KioskError:
                self._commands.appendleft(command)
                raise

    def _hear(self, command: Command) -> None:
        if command.expired:
            self._ignore("the command has expired")
            return
        if len(command.payload) > _MAX_COMMAND_BYTES:
            self._ignore(f"larger than {_MAX_COMMAND_BYTES} bytes")
            return
        try:
            wish = ReplayCommand.model_validate_json(command.payload)
        except ValidationError:
            self._ignore('not understood; send {"from_seq": 1, "to_seq": 99, "id": "..."}')
            return
        refusal = self._outbox.request_replay(wish.id, wish.from_seq, wish.to_seq)
        if refusal is not None:
            self._ignore(refusal, wish.id)
        elif self._told.again("obeyed", _OBEYED_TOLD):
            log.info("replay %s: events %s to %s are asked for", wish.id, wish.from_seq, wish.to_seq)

    def _ignore(self, why: str, command_id: str = "") -> None:
        """``why``: one of a few texts."""
        if self._told.again(why):
            log.warning("a replay command is ignored%s: %s", f" ({command_id})" if command_id else "", why)

    def _back_off(self) -> float:
        longest_s = _NO_SUBSCRIBER_BACKOFF_S if self._last_outcome is Outcome.NO_SUBSCRIBER else _BACKOFF_MAX_S
        pause_s = min(self._backoff_s, longest_s)
        self._retry_at = time.monotonic() + pause_s
        self._backoff_s = min(pause_s * 2, _BACKOFF_MAX_S)
        return pause_s

    def _tell(self, problem: str) -> None:
        if problem != self._last_problem:
            log.warning("%s", problem)
        self._last_problem = problem


def _first_failure(rows: Sequence[OutboxRow], receipts: Sequence[Receipt]) -> tuple[OutboxRow, Receipt] | None:
    pairs = zip(rows, receipts, strict=False)
    return next(((row, receipt) for row, receipt in pairs if receipt.outcome is not Outcome.SENT), None)
