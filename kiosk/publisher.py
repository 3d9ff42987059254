"""Empties the outbox into the broker: strictly in order of ``seq``, one message in flight, at least once.

A refused event is tried again and holds up those behind it; nothing is ever skipped or dropped, for the consumer
proves completeness by ``seq``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from kiosk.errors import KioskError
from kiosk.events import encode
from kiosk.ports import Broker, Clock, Outbox, OutboxRow, Outcome

log = logging.getLogger(__name__)

_BACKOFF_MIN_S = 0.5
_BACKOFF_MAX_S = 30.0
# A subscriber that appears must get the next check-in while the person still stands at the door.
_NO_SUBSCRIBER_BACKOFF_S = 2.0
_IDLE_POLL_S = 60.0
"""Only a safety net: whoever writes to the outbox and whoever connects sets the wake event."""
_BEAT_S = 1.0
"""How often a resting thread gives a sign of life."""
_LATE_S = 10.0
_SIDE_CHANNEL_LENGTH = 32


class Publisher:
    """The sending thread.

    ``wake`` is set by others after a commit and when the broker's connection comes or goes. ``beat`` is called while
    the thread gets on: before each message, and about every second while there is none.
    """

    def __init__(
        self,
        outbox: Outbox,
        broker: Broker,
        *,
        wake: threading.Event,
        clock: Clock,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._outbox = outbox
        self._broker = broker
        self._wake = wake
        self._clock = clock
        self._beat = beat
        self._side: deque[tuple[float, str, Mapping[str, Any]]] = deque(maxlen=_SIDE_CHANNEL_LENGTH)
        self._stopping = threading.Event()
        self._idle = threading.Event()
        self._was_connected = False
        self._backoff_s = _BACKOFF_MIN_S
        self._retry_at = 0.0
        self._last_outcome = Outcome.SENT
        self._last_problem = ""
        self._offered_seq = 0
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

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
            wait_s = self._retry_at - time.monotonic()
            if wait_s > 0:
                return wait_s
            self._beat()
            row = self._outbox.next_pending()
            if row is None:
                self._idle.set()
                return _IDLE_POLL_S
            if not self._send(row):
                return self._back_off()
        return 0.0

    def _note_connection(self) -> None:
        connected = self._broker.connected
        # A message that breaks the connection must not be retried at the pace of reconnecting.
        if connected and not self._was_connected and self._last_outcome is not Outcome.LOST:
            self._backoff_s = _BACKOFF_MIN_S
            self._retry_at = 0.0
        self._was_connected = connected

    def _send(self, row: OutboxRow) -> bool:
        payload = {**row.payload, "replayed": self._is_late(row)}
        self._offered_seq = max(self._offered_seq, row.seq)
        receipt = self._broker.publish(row.topic, encode(payload))
        self._last_outcome = receipt.outcome
        if receipt.outcome is Outcome.SENT:
            self._outbox.mark_sent(row.seq)
            self._backoff_s = _BACKOFF_MIN_S
            self._last_problem = ""
            return True
        self._tell(f"event {row.seq} stays in the outbox: {receipt.detail}")
        self._outbox.mark_failed(row.seq, receipt.detail)
        return False

    def _is_late(self, row: OutboxRow) -> bool:
        """Offered before, left over from an earlier process, or too old for a door to open."""
        if not row.fresh or row.seq <= self._offered_seq:
            return True
        return self._clock.boottime_s() - row.committed_boottime_s > _LATE_S

    def _send_side_channel(self) -> None:
        while self._side and self._broker.connected:
            offered_at, topic, document = self._side.popleft()
            if time.monotonic() - offered_at <= _LATE_S:
                receipt = self._broker.publish(topic, encode(document))
                log.debug("%s: %s", topic, receipt.outcome)

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
