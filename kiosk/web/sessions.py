"""Who has logged in: tokens in memory, and a brake on guessing."""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

_IDLE_S = 30 * 60.0
_LONGEST_S = 12 * 3600.0
_MOST_SESSIONS = 64
_FREE_TRIES = 5
_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 15 * 60.0
_MOST_CLIENTS = 1024


class Paused(Exception):
    """Too many wrong passwords; ``seconds`` until the next may be tried."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Sessions:
    """For the page's event loop alone. ``password`` None: everybody counts as logged in.

    A wrong password costs nothing five times; then its address waits five seconds, and twice as long after every
    further one, up to a quarter of an hour. Addresses do not count together: somebody with many could keep everybody
    out, and a password of ten characters or more is not guessed in five tries each.
    """

    def __init__(self, password: str | None, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._password = password
        self._now_s = now_s
        self._tokens: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Token: when it was given out and when it was used last."""
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """Address: wrong passwords in a row, and when the next may be tried."""

    @property
    def open(self) -> bool:
        """Whether nobody is asked for a password."""
        return self._password is None

    def log_in(self, password: str, client: str) -> str | None:
        """A token, or None for a wrong password.

        Raises:
            Paused: this address was wrong too often.
        """
        wait_s = self._wrong.get(client, (0, 0.0))[1] - self._now_s()
        if wait_s > 0:
            raise Paused(wait_s)
        if self._password is None or not hmac.compare_digest(password.encode(), self._password.encode()):
            self._note_wrong(client)
            return None
        self._wrong.pop(client, None)
        token, now_s = secrets.token_urlsafe(32), self._now_s()
        self._tokens[token] = (now_s, now_s)
        while len(self._tokens) > _MOST_SESSIONS:
            self._tokens.popitem(last=False)
        return token

    def holds(self, token: str | None) -> bool:
        """Whether a token was given out and has not ended; using it keeps it alive."""
        if self._password is None:
            return True
        given_s, used_s = self._tokens.get(token or "", (-_LONGEST_S, -_IDLE_S))
        now_s = self._now_s()
        if now_s - given_s >= _LONGEST_S or now_s - used_s >= _IDLE_S:
            self._tokens.pop(token or "", None)
            return False
        self._tokens[token or ""] = (given_s, now_s)
        return True

    def log_out(self, token: str | None) -> None:
        self._tokens.pop(token or "", None)

    def _note_wrong(self, client: str) -> None:
        wrong = self._wrong.pop(client, (0, 0.0))[0] + 1
        doublings = min(wrong - _FREE_TRIES, 16)
        pause_s = 0.0 if doublings < 0 else min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**doublings)
        self._wrong[client] = (wrong, self._now_s() + pause_s)
        while len(self._wrong) > _MOST_CLIENTS:
            self._wrong.popitem(last=False)
