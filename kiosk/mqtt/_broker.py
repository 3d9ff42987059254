"""The broker adapter: keeps one connection at a time, each with a fresh client.

paho would resend what it holds after a reconnect, hours late and with the payload of the first attempt. Only the
outbox decides what is sent again, so nothing may outlive its connection here.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence

from kiosk.errors import BrokerError, ConfigError, ConfigPermissionError
from kiosk.events import OFFLINE, ONLINE, Topics
from kiosk.mqtt._problems import refused_write
from kiosk.mqtt._session import Session
from kiosk.mqtt._settings import BrokerSettings, check_files
from kiosk.ports import Command, Message, Outcome, Receipt

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 5.0
_STOP_TIMEOUT_S = 2.0
_RETRY_MIN_S = 1.0
_RETRY_MAX_S = 15.0
_SHORT_LIFE_S = 5.0
_SUSPICIOUS_ENDS = 3
_GREETED_EVERY_S = 5.0


class MqttBroker:
    """Keeps a connection to the broker; implements :class:`kiosk.ports.Broker`.

    ``births`` are retained documents (full topic, payload) published after ``online`` on every connection, ``once``
    more of them for the first connection only. ``on_change`` is called, from another thread, when the connection comes
    or goes.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        topics: Topics,
        *,
        births: tuple[tuple[str, bytes], ...] = (),
        once: tuple[tuple[str, bytes], ...] = (),
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._topics = topics
        self._births = births
        self._once = once
        self._on_change = on_change
        self._greeting: tuple[str, bytes, Callable[[], None]] | None = None
        self._greeted_s = -_GREETED_EVERY_S
        self._on_replay: Callable[[Command], None] | None = None
        self._client_id = f"kiosk-{topics.site}-{topics.device}"
        self._session: Session | None = None
        self._connected = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._short_lives = 0
        self._refused: set[str] = set()
        self.last_error: str | None = None
        """Why there is no connection, in words; None while there is one or none was tried yet."""

    def hear_replays(self, hear: Callable[[Command], None]) -> None:
        """Before :meth:`start`: have ``hear`` called, on the network thread, for every command on ``cmd/replay``."""
        self._on_replay = hear

    def answer_greeting(self, topic: str, greeting: bytes, then: Callable[[], None]) -> None:
        """Before :meth:`start`: publish the births again, and call ``then`` on the network thread, whenever somebody
        who needs them says at a topic that it is there. Of many greetings a few are answered.
        """
        self._greeting = topic, greeting, then

    def start(self) -> None:
        """Begin connecting in the background; returns at once.

        Raises:
            ConfigError: the password or a TLS file cannot be used.
        """
        check_files(self._settings)
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Say ``offline`` and disconnect. Safe to call twice or without :meth:`start`."""
        self._stopping.set()
        session = self._session
        if session is not None:
            (told,) = session.publish([(self._topics.status, OFFLINE)], retain=True, timeout_s=_STOP_TIMEOUT_S)
            # Unless the farewell arrived, leave without one: then the broker publishes the will, which says the same.
            session.close(politely=told.outcome in {Outcome.SENT, Outcome.NO_SUBSCRIBER})
        if self._thread is not None:
            self._thread.join(_CONNECT_TIMEOUT_S + _STOP_TIMEOUT_S)

    @property
    def connected(self) -> bool:
        return self._connected.is_set()

    def wait_connected(self, timeout_s: float) -> bool:
        return self._connected.wait(timeout_s)

    def publish(self, messages: Sequence[Message], *, timeout_s: float = 10.0) -> list[Receipt]:
        session = self._session
        if session is None or not self._connected.is_set():
            return [Receipt(Outcome.LOST, "not connected")]
        addressed = [(self._topics.below(message.topic), message.payload) for message in messages]
        receipts = session.publish(addressed, timeout_s=timeout_s)
        for (topic, _), receipt in zip(addressed, receipts, strict=False):
            self._note_answer(topic, receipt)
        return receipts

    def _note_answer(self, topic: str, receipt: Receipt) -> None:
        """The log names a topic that is refused: once, until something goes through again."""
        if receipt.outcome is Outcome.REFUSED and topic not in self._refused:
            self._refused.add(topic)
            log.warning("%s", refused_write(self._settings, topic, receipt.detail))
        elif receipt.outcome in {Outcome.SENT, Outcome.NO_SUBSCRIBER}:
            self._refused.discard(topic)

    def _run(self) -> None:
        retry_s = _RETRY_MIN_S
        while not self._stopping.is_set():
            if self._hold_one_connection():
                retry_s = _RETRY_MIN_S
            self._stopping.wait(retry_s)
            retry_s = min(retry_s * 2, _RETRY_MAX_S)

    def _hold_one_connection(self) -> bool:
        """Connect and stay until the connection ends. False when there was none."""
        session = Session(self._settings, self._client_id, will=(self._topics.status, OFFLINE))
        try:
            session.open(_CONNECT_TIMEOUT_S)
        except BrokerError as error:
            self._report(str(error))
            return False
        self._announce(session)
        began_s = time.monotonic()
        session.closed.wait()
        self._short_lives = self._short_lives + 1 if time.monotonic() - began_s < _SHORT_LIFE_S else 0
        self._connected.clear()
        self._session = None
        session.close()
        if not self._stopping.is_set():
            self._report(session.ending + self._suspicion())
        self._on_change()
        return True

    def _announce(self, session: Session) -> None:
        session.send(self._topics.status, ONLINE)
        for topic, payload in (*self._births, *self._once):
            session.send(topic, payload)
        self._once = ()
        if self._greeting is not None:
            session.listen(self._greeting[0], lambda heard: self._hear_greeting(session, heard), retained=True)
        if self._on_replay is not None:
            session.listen(self._topics.replay, self._on_replay)
        self._session = session
        self._connected.set()
        self.last_error = None
        log.info("connected to the broker at %s", self._settings.address)
        self._on_change()
        if self._stopping.is_set():  # stop() may have looked before there was a session to close
            session.close(politely=False)

    def _hear_greeting(self, session: Session, heard: Command) -> None:
        if self._greeting is None or heard.payload != self._greeting[1]:
            return
        now_s = time.monotonic()
        if now_s - self._greeted_s < _GREETED_EVERY_S:
            return
        self._greeted_s = now_s
        # The births before it, on another thread, are long sent: there was no subscription yet.
        for topic, payload in self._births:
            session.send(topic, payload)
        self._greeting[2]()

    def _suspicion(self) -> str:
        """Older brokers do not say that they cut us off for another client with our id."""
        if self._short_lives < _SUSPICIOUS_ENDS:
            return ""
        return f", as the last ones did at once; does another kiosk use the device.id {self._topics.device!r}, too?"

    def _report(self, error: str) -> None:
        if error != self.last_error:
            log.warning("%s", error)
        self.last_error = error


def check_broker(
    settings: BrokerSettings, trial: tuple[str, bytes] | None = None, *, timeout_s: float = _CONNECT_TIMEOUT_S
) -> str | None:
    """Try to log in under a client id of its own. None when that works, else the reason in one line.

    ``trial``: a full topic and a document to be published there, not retained; that it is refused is a reason, too.

    Raises:
        ConfigPermissionError: the password may not be read by this user.
    """
    session = Session(settings, f"kiosk-check-{secrets.token_hex(4)}")
    try:
        check_files(settings)
        session.open(timeout_s)
        (receipt,) = [Receipt(Outcome.SENT)] if trial is None else session.publish([trial], timeout_s=timeout_s)
    except ConfigPermissionError:
        raise
    except (BrokerError, ConfigError) as error:
        return str(error)
    finally:
        session.close()
    if trial is None or receipt.outcome in {Outcome.SENT, Outcome.NO_SUBSCRIBER}:
        return None
    return refused_write(settings, trial[0], receipt.detail)
